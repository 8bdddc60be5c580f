/**
 * The events of runs in the background, on disk: `<NOX_STATE>/runs/<id>.ndjson`, as their readers get them.
 *
 * Each has a bound, and so have all together: the oldest that have ended make room. Nothing that a client sends becomes
 * a name here.
 */
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { NoxError } from '../../protocol/errors.ts';
import { FileLog } from './log.ts';

const RUN_FILE = /^(run_[0-9a-z]+)\.ndjson$/;

export interface SpoolLimits {
  /** Of one run, in bytes (NOX_KEEP_OUTPUT). */
  readonly outputBytes: number;
  /** Of all (NOX_KEEP_OUTPUT_ALL). */
  readonly allOutputBytes: number;
}

export class Spool {
  readonly #dir: string;
  readonly #limits: SpoolLimits;

  constructor(state: string, limits: SpoolLimits) {
    this.#dir = join(state, 'runs');
    this.#limits = limits;
  }

  async create(id: string): Promise<FileLog> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    return FileLog.create(this.#path(id), this.#limits.outputBytes);
  }

  /** @throws NoxError `run_not_found` where its events are not kept, or not any more */
  async open(id: string): Promise<FileLog> {
    try {
      return await FileLog.open(this.#path(id));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
      throw new NoxError('run_not_found', `The output of the run ${id} is not kept`, { cause });
    }
  }

  async remove(id: string): Promise<void> {
    await rm(this.#path(id), { force: true });
  }

  /**
   * Forgets what belongs to no run, then the oldest until the rest is within its bound.
   *
   * @param kept whether the run is still known
   * @param alive whether it has not ended
   */
  async tidy(kept: (id: string) => boolean, alive: (id: string) => boolean): Promise<void> {
    let total = 0;
    const files: { readonly id: string; readonly size: number; readonly at: number }[] = [];
    const names = await readdir(this.#dir).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    });
    for (const name of names) {
      const id = RUN_FILE.exec(name)?.[1];
      if (id === undefined) continue;
      if (!kept(id)) {
        await this.remove(id);
        continue;
      }
      const found = await stat(join(this.#dir, name)).catch(() => undefined);
      if (found === undefined) continue;
      total += found.size;
      files.push({ id, size: found.size, at: found.mtimeMs });
    }
    files.sort((a, b) => a.at - b.at);
    for (const { id, size } of files) {
      if (total <= this.#limits.allOutputBytes) return;
      if (alive(id)) continue;
      await this.remove(id);
      total -= size;
    }
  }

  #path(id: string): string {
    return join(this.#dir, `${id}.ndjson`);
  }
}
