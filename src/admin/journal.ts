/**
 * The journal of a command that changes the machine, and how it is undone.
 *
 * Theory of operation. A transaction is a directory below /var/lib/nox-admin/journal. Before a step touches anything, what
 * it will change is written there as it was (`undo.jsonl` and copies of files), and synced. When all steps have been
 * made and the result has been verified, `committed` appears. So whatever is interrupted, by an error, kill -9 or
 * loss of power, leaves a transaction without that mark: the next command finds it and undoes it, last step first.
 * Each undo looks at what is there and may be repeated, as it can be interrupted too.
 *
 * The copies of a committed transaction that hardened the machine stay: undoing them is `rollback`.
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import {
  discard,
  prepareUndo,
  servicesNow,
  startServices,
  stopServices,
  undoStep,
  type ServiceState,
  type Undo,
} from './undo.ts';
import { STATE, type Host } from './host.ts';
import type { Step } from './steps.ts';

const JOURNAL = `${STATE}/journal`;
const COMMITTED = 'committed';
/** What committed transactions of no further use leave behind, in case somebody asks. */
const KEEP = 5;

export interface Head {
  readonly verb: string;
  /** ISO 8601, UTC. */
  readonly started: string;
  /** As they were before. */
  readonly services: readonly ServiceState[];
}

export class Transaction {
  readonly #host: Host;
  readonly #dir: string;
  readonly #log: number;
  #steps = 0;

  private constructor(host: Host, dir: string, log: number) {
    this.#host = host;
    this.#dir = dir;
    this.#log = log;
  }

  static begin(host: Host, verb: string, now: Date): Transaction {
    const started = now.toISOString();
    mkdirSync(host.at(JOURNAL), { recursive: true, mode: 0o700 });
    // Without its head a transaction does not exist yet: it appears whole, by the rename.
    const name = `${started.replace(/[-:.]/g, '')}-${verb}`;
    const dir = host.at(join(JOURNAL, name));
    const unborn = `${dir}.new`;
    rmSync(unborn, { recursive: true, force: true });
    mkdirSync(unborn, { mode: 0o700 });
    const head: Head = { verb, started, services: servicesNow(host) };
    writeSynced(join(unborn, 'head.json'), JSON.stringify(head));
    writeSynced(join(unborn, 'undo.jsonl'), '');
    renameSync(unborn, dir);
    syncDirectory(dirname(dir));
    return new Transaction(host, dir, openSync(join(dir, 'undo.jsonl'), 'a'));
  }

  /**
   * Writes down how to undo a step; to be called before anything of it is made.
   *
   * @returns the path of what was put aside for it
   */
  record(step: Step): string {
    const backup = join(this.#dir, String(this.#steps++));
    const undo = prepareUndo(this.#host, step, backup);
    writeSync(this.#log, `${JSON.stringify(undo)}\n`);
    fsyncSync(this.#log);
    return backup;
  }

  /** The changes stand. What they have put aside is thrown away, except where it may be wanted for a rollback. */
  commit(keep: boolean): void {
    closeSync(this.#log);
    this.#host.run(['sync']);
    // Whole or not at all: an empty mark would lose the way back.
    const mark = join(this.#dir, COMMITTED);
    writeSynced(`${mark}.new`, keep ? 'keep' : '');
    renameSync(`${mark}.new`, mark);
    syncDirectory(this.#dir);
    if (!keep) discard(this.#host, readUndos(this.#dir));
    prune(this.#host);
  }

  /** @returns what could not be put back, a line each */
  undo(): string[] {
    closeSync(this.#log);
    return undoTransaction(this.#host, this.#dir);
  }
}

/** Undoes what was begun and not committed, and says what that was, and what could not be put back. */
export function recover(host: Host): { readonly head: Head; readonly left: readonly string[] }[] {
  const open = transactions(host).filter(({ committed }) => !committed);
  return open.reverse().map(({ dir, head }) => ({ head, left: undoTransaction(host, dir) }));
}

/** Is there anything for `recover`? */
export function interrupted(host: Host): Head[] {
  return transactions(host)
    .filter(({ committed }) => !committed)
    .map(({ head }) => head);
}

/** The last transaction that can be rolled back. */
export function lastKept(host: Host): Head | undefined {
  return transactions(host).findLast(({ kept }) => kept)?.head;
}

/** Undoes that one, and before it what has been changed since. */
export function rollBack(host: Host): string[] {
  const all = transactions(host);
  const since = all.slice(all.findLastIndex(({ kept }) => kept));
  // From here on they count as interrupted, the newest first: what stops us is gone on with by the next command.
  for (const { dir } of since.toReversed()) {
    rmSync(join(dir, COMMITTED), { force: true });
    syncDirectory(dir);
  }
  return recover(host).flatMap(({ left }) => left);
}

/** To the end, whatever a step of it meets: half of an undo would be neither the state before nor the one after. */
function undoTransaction(host: Host, dir: string): string[] {
  const head = readHead(dir);
  const undos = readUndos(dir);
  const left: string[] = [];
  const touched = undos.some((undo) => undo.do === 'services');
  // First: their users and files are about to go.
  if (touched) stopServices(host);
  for (const undo of undos.toReversed()) {
    try {
      undoStep(host, undo);
    } catch (error) {
      left.push((error as Error).message);
    }
  }
  if (touched) left.push(...startServices(host, head.services));
  host.run(['sync']);
  throwAway(dir);
  return left;
}

/** By a rename: a transaction that is deleted file by file could be taken for another one in between. */
function throwAway(dir: string): void {
  const gone = `${dir}.gone`;
  rmSync(gone, { recursive: true, force: true });
  renameSync(dir, gone);
  syncDirectory(dirname(dir));
  rmSync(gone, { recursive: true, force: true });
}

interface Found {
  readonly dir: string;
  readonly head: Head;
  readonly committed: boolean;
  readonly kept: boolean;
}

/** Oldest first: their names begin with their time. */
function transactions(host: Host): Found[] {
  const names = host.names(JOURNAL).filter((name) => /^\d{8}T\d+Z-[a-z0-9-]+$/.test(name));
  return names.flatMap((name) => {
    const dir = host.at(join(JOURNAL, name));
    const mark = readIfThere(join(dir, COMMITTED));
    return [{ dir, head: readHead(dir), committed: mark !== undefined, kept: mark === 'keep' }];
  });
}

/** What is older than the last rollback point is of no use any more; without one, all but the newest. */
function prune(host: Host): void {
  const done = transactions(host).filter(({ committed }) => committed);
  const kept = done.filter(({ kept: keep }) => keep);
  const last = kept.at(-1);
  const before = last === undefined ? done.slice(0, -KEEP) : done.slice(0, done.indexOf(last));
  for (const { dir } of before) {
    discard(host, readUndos(dir));
    throwAway(dir);
  }
  for (const name of host.names(JOURNAL).filter((each) => /\.(new|gone)$/.test(each)))
    rmSync(host.at(join(JOURNAL, name)), { recursive: true, force: true });
}

function readHead(dir: string): Head {
  return JSON.parse(readFileSync(join(dir, 'head.json'), 'utf8')) as Head;
}

/** A last line that was cut off by a loss of power belongs to a step that had not begun. */
function readUndos(dir: string): Undo[] {
  const lines = readFileSync(join(dir, 'undo.jsonl'), 'utf8').split('\n');
  return lines.slice(0, -1).map((line) => JSON.parse(line) as Undo);
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function writeSynced(path: string, text: string): void {
  const fd = openSync(path, 'w', 0o600);
  try {
    writeFileSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

export function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
