/**
 * Runs whose clients read the events as they come. A client may come back after a broken connection and go on where it
 * was; a run that nobody has watched for a while is ended.
 */
import type { LiveRun } from './live.ts';
import type { MemoryLog } from './log.ts';

/** How long a run goes on with nobody watching, and how long its end can be read. */
const RESUME_MS = 30_000;
/** Of the events of runs that have ended: the oldest are forgotten first. */
const ENDED_BYTES = 32 * 1024 * 1024;

interface Watched {
  readonly run: LiveRun;
  readonly log: MemoryLog;
  readers: number;
  timer: NodeJS.Timeout | undefined;
}

export class Watching {
  readonly #runs = new Map<string, Watched>();

  add(run: LiveRun, log: MemoryLog): void {
    this.#runs.set(run.record.id, { run, log, readers: 0, timer: undefined });
  }

  remove(id: string): void {
    clearTimeout(this.#runs.get(id)?.timer);
    this.#runs.delete(id);
  }

  run(id: string): LiveRun | undefined {
    return this.#runs.get(id)?.run;
  }

  /** @returns undefined where nobody watches it */
  read(id: string, after: number | undefined, signal: AbortSignal): AsyncGenerator<Buffer> | undefined {
    const watched = this.#runs.get(id);
    return watched === undefined ? undefined : this.#read(watched, after, signal);
  }

  /** A run has ended. */
  ended(id: string): void {
    const watched = this.#runs.get(id);
    if (watched === undefined) return;
    this.#wait(watched);
    let bytes = 0;
    for (const [each, { run, log, readers }] of [...this.#runs].reverse()) {
      if (run.record.state !== 'ended' || readers > 0) continue;
      bytes += log.held;
      if (bytes > ENDED_BYTES) this.remove(each);
    }
  }

  async *#read(watched: Watched, after: number | undefined, signal: AbortSignal): AsyncGenerator<Buffer> {
    clearTimeout(watched.timer);
    watched.readers += 1;
    try {
      yield* watched.log.read(after, signal);
    } finally {
      watched.readers -= 1;
      this.#wait(watched);
    }
  }

  #wait(watched: Watched): void {
    clearTimeout(watched.timer);
    if (watched.readers > 0) return;
    watched.timer = setTimeout(() => {
      if (watched.run.record.state !== 'ended') watched.run.cancel('abandoned');
      this.#runs.delete(watched.run.record.id);
    }, RESUME_MS).unref();
  }
}
