/**
 * The directory of all workspaces but the default one, which no run sees (NOX_WORKSPACES):
 *
 *     <id>/workspace.json      what is kept of it; of the default one too
 *     <id>/files/              what its runs see; of the default one that is NOX_SANDBOX
 *     <id>/snapshots/<id>/     snapshot.json, files/
 *     <id>/restore             a restore is half done: the id of the snapshot
 *     .half-…                  is being made, or is being taken apart: swept at the start
 *
 * Whatever has its own name is whole: it was made under another and renamed.
 */
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import Type, { type Static } from 'typebox';
import { WORKSPACE_ID } from '../protocol/messages.ts';
import { validator } from '../protocol/validate.ts';
import { SNAPSHOT_ID, SnapshotInfo } from '../protocol/workspaces.ts';
import { removeTree } from './trees.ts';

const HALF = '.half-';
const INFO = 'workspace.json';
const SNAPSHOT = 'snapshot.json';
const RESTORE = 'restore';

const number = Type.Union([Type.Number(), Type.Null()]);
const Kept = Type.Object({
  id: Type.String({ pattern: WORKSPACE_ID }),
  label: Type.Union([Type.String(), Type.Null()]),
  owner: Type.String(),
  created: Type.Number(),
  expires: number,
  /** null: what is in force for all. */
  quotaBytes: number,
});
export type Kept = Static<typeof Kept>;

const checkKept = validator(Kept);
const checkSnapshot = validator(SnapshotInfo);

export class Shelf {
  readonly #dir: string;
  readonly #onFault: (error: unknown) => void;

  /** @throws for a directory that cannot be made or closed to others */
  constructor(dir: string, onFault: (error: unknown) => void) {
    this.#dir = dir;
    this.#onFault = onFault;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    chmodSync(dir, 0o700);
  }

  /** All that are whole. One that cannot be read is told of, left alone, and not there. */
  load(): Kept[] {
    return readdirSync(this.#dir)
      .filter((name) => new RegExp(WORKSPACE_ID).test(name))
      .flatMap((id) => {
        try {
          const kept = checkKept(JSON.parse(readFileSync(join(this.#dir, id, INFO), 'utf8')));
          if (kept.id !== id) throw new Error(`says that it is ${kept.id}`);
          return [kept];
        } catch (error) {
          this.#onFault(new Error(`${join(this.#dir, id, INFO)}: ${String(error)}`));
          return [];
        }
      });
  }

  filesOf(id: string): string {
    return join(this.#dir, id, 'files');
  }

  save(kept: Kept): void {
    writeWhole(join(this.#dir, kept.id, INFO), JSON.stringify(kept));
  }

  /**
   * Makes a workspace.
   *
   * @param fill is given its empty directory
   */
  async make(kept: Kept, fill: (files: string) => Promise<void>): Promise<void> {
    await this.#makeWhole(join(this.#dir, kept.id), async (half) => {
      mkdirSync(join(half, 'files'), { mode: 0o755 });
      await fill(join(half, 'files'));
      writeWhole(join(half, INFO), JSON.stringify(kept));
    });
  }

  /** For one whose files are elsewhere. */
  keep(kept: Kept): void {
    mkdirSync(join(this.#dir, kept.id), { recursive: true, mode: 0o700 });
    this.save(kept);
  }

  /** It has gone when this returns; the promise is for what was in it. */
  remove(id: string): Promise<void> {
    return this.#remove(join(this.#dir, id));
  }

  snapshotCount(id: string): number {
    return this.#snapshotNames(id).length;
  }

  #snapshotNames(id: string): string[] {
    const dir = join(this.#dir, id, 'snapshots');
    if (statSync(dir, { throwIfNoEntry: false }) === undefined) return [];
    return readdirSync(dir).filter((name) => new RegExp(SNAPSHOT_ID).test(name));
  }

  snapshots(id: string): SnapshotInfo[] {
    const found = this.#snapshotNames(id).map((name) =>
      checkSnapshot(JSON.parse(readFileSync(join(this.#dir, id, 'snapshots', name, SNAPSHOT), 'utf8'))),
    );
    return found.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  }

  snapshotFiles(id: string, snapshot: string): string {
    return join(this.#dir, id, 'snapshots', snapshot, 'files');
  }

  /** @param fill is given the empty directory of its files, and returns what is kept of it */
  async makeSnapshot(
    id: string,
    snapshot: string,
    fill: (files: string) => Promise<SnapshotInfo>,
  ): Promise<SnapshotInfo> {
    mkdirSync(join(this.#dir, id, 'snapshots'), { recursive: true, mode: 0o700 });
    return this.#makeWhole(join(this.#dir, id, 'snapshots', snapshot), async (half) => {
      mkdirSync(join(half, 'files'), { mode: 0o755 });
      const info = await fill(join(half, 'files'));
      writeWhole(join(half, SNAPSHOT), JSON.stringify(info));
      return info;
    });
  }

  removeSnapshot(id: string, snapshot: string): Promise<void> {
    return this.#remove(join(this.#dir, id, 'snapshots', snapshot));
  }

  /** Notes that a restore has begun, or that it has ended. */
  noteRestore(id: string, snapshot: string | undefined): void {
    const file = join(this.#dir, id, RESTORE);
    if (snapshot === undefined) {
      rmSync(file, { force: true });
      syncDirectory(dirname(file));
    } else writeWhole(file, snapshot);
  }

  /** The snapshot whose restore a crash has cut short. */
  restoring(id: string): string | undefined {
    try {
      const snapshot = readFileSync(join(this.#dir, id, RESTORE), 'utf8');
      return new RegExp(SNAPSHOT_ID).test(snapshot) ? snapshot : undefined;
    } catch {
      return undefined;
    }
  }

  /** Takes apart what a crash has left half made or half removed. */
  async sweep(ids: readonly string[]): Promise<void> {
    for (const dir of [this.#dir, ...ids.map((id) => join(this.#dir, id, 'snapshots'))]) {
      if (statSync(dir, { throwIfNoEntry: false }) === undefined) continue;
      for (const name of readdirSync(dir).filter((each) => each.startsWith(HALF)))
        await removeTree(dir, name).catch(this.#onFault);
    }
  }

  async #makeWhole<T>(path: string, fill: (half: string) => Promise<T>): Promise<T> {
    const half = join(dirname(path), `${HALF}${randomBytes(12).toString('hex')}`);
    mkdirSync(half, { mode: 0o700 });
    try {
      const made = await fill(half);
      // Where something has taken the name meanwhile it is full, and rename(2) refuses.
      renameSync(half, path);
      syncDirectory(dirname(path));
      return made;
    } catch (error) {
      await removeTree(dirname(half), half.slice(half.lastIndexOf('/') + 1)).catch(this.#onFault);
      throw error;
    }
  }

  #remove(path: string): Promise<void> {
    const half = `${HALF}${randomBytes(12).toString('hex')}`;
    renameSync(path, join(dirname(path), half));
    syncDirectory(dirname(path));
    return removeTree(dirname(path), half);
  }
}

/** Whole or not at all, also when the power fails. */
function writeWhole(path: string, text: string): void {
  const half = `${path}.half`;
  writeFileSync(half, text, { mode: 0o600, flush: true });
  renameSync(half, path);
  syncDirectory(dirname(path));
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
