/**
 * A cell and what becomes of it: one run.
 *
 * States: waiting → running (it has its plan) → ended (nothing of it is alive). The pipes are its own: those who held
 * them are dead when it has ended, and so are they.
 */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { LaunchEnd, LaunchPlan, OutputSink } from './launch.ts';
import { encodePlan } from './plan.ts';
import { childrenOf, namespacePids, pidNamespace } from './proc.ts';

/** A run that ends sooner has its output read in one go; for a longer one the pipes are watched. */
const WATCH_AFTER_MS = 3;
/** The most that a pipe can be made to hold without privilege (pipe(7): /proc/sys/fs/pipe-max-size). */
const PIPE_MAX = 1024 * 1024;
/** What any pipe takes at once, also where a user has many (pipe(7)). */
const PIPE_MIN = 4096;
const PIECE = Buffer.alloc(65_536);
/** errno(3), and what a shell makes of it. */
const ENOENT = 2;
const NOT_FOUND = 127;
const NOT_EXECUTABLE = 126;
const ERRNO_TEXT: Readonly<Record<number, string>> = {
  7: 'Argument list too long',
  12: 'Cannot allocate memory',
  13: 'Permission denied',
  20: 'Not a directory',
  26: 'Text file busy',
  36: 'File name too long',
  40: 'Too many levels of symbolic links',
};

/** What was asked of a zygote cannot be had. Nothing of a client has run. */
export class ZygoteFailure extends Error {
  override readonly name = 'ZygoteFailure';
}

/** nox_zygote.py has what they mean. */
export type CellWord = 'kill' | 'program' | 'command' | 'signal';

export interface CellParts {
  /** Descriptors in the zygote: where plan and input go in, and where output comes out. */
  readonly fds: { readonly plan: number; readonly stdout: number; readonly stderr: number };
  /** Host pid of the zygote. */
  readonly zygote: number;
  /** Pid of init in the zygote's namespace. */
  readonly init: number;
  /** A copy of the zygote waits for its plan in it. */
  readonly warm: boolean;
  /** Says something to the zygote about this cell. */
  readonly say: (word: CellWord, data?: Uint8Array | number) => void;
  /** Has the zygote close its ends of the pipes: else the end of the input would not be seen. */
  readonly release: () => void;
}

export class Cell {
  readonly startedAt = performance.now();
  readonly warm: boolean;
  /** Resolves when nothing of it is alive. */
  readonly gone: Promise<void>;
  readonly #parts: CellParts;
  readonly #gone = Promise.withResolvers<undefined>();
  readonly #end = Promise.withResolvers<LaunchEnd>();
  readonly #stdout: Output;
  readonly #stderr: Output;
  #plan: number | undefined;
  #input: Socket | undefined;
  #drained: Promise<void> | undefined;
  #pids: readonly number[] = [];
  #command = '';
  /** What is said in the place of a command that could not be executed. */
  #message: string | undefined;
  #running = false;
  #over = false;
  #killed = false;
  #broken: string | undefined;
  #noPlace = false;
  /** Nobody was there to take the plan. */
  #undelivered = false;
  /** Code of the client may have run. */
  #ran = false;

  /** @throws where the runner cannot open the pipes */
  constructor(parts: CellParts) {
    this.#parts = parts;
    this.warm = parts.warm;
    this.gone = this.#gone.promise;
    const { fds, zygote } = parts;
    const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
    const open = (fd: number, flags: number) => openSync(`/proc/${zygote}/fd/${fd}`, flags | O_NONBLOCK);
    const opened: number[] = [];
    try {
      opened.push(open(fds.plan, O_WRONLY));
      opened.push(open(fds.stdout, O_RDONLY));
      opened.push(open(fds.stderr, O_RDONLY));
    } catch (error) {
      for (const fd of opened) closeSync(fd);
      throw error;
    }
    const [plan, stdout, stderr] = opened as [number, number, number];
    this.#plan = plan;
    this.#stdout = new Output(stdout);
    this.#stderr = new Output(stderr);
  }

  /** Whether it can still be given a plan. */
  get usable(): boolean {
    return !this.#over && !this.#killed;
  }

  /** Host pids of init and of the program. */
  get pids(): readonly number[] {
    if (this.#over) return [];
    if (this.#pids.length < 2) this.#pids = hostPids(this.#parts.zygote, this.#parts.init);
    return this.#pids;
  }

  /**
   * Hands over the plan. Resolves when nothing of the run is alive.
   *
   * @throws ZygoteFailure when it ended before code of the client could run
   */
  async run(plan: LaunchPlan, sink: OutputSink): Promise<LaunchEnd> {
    this.#running = true;
    const toStdout = (data: Uint8Array) => {
      sink.stdout(data);
    };
    const toStderr = (data: Uint8Array) => {
      sink.stderr(data);
    };
    const watch = setTimeout(() => {
      this.#stdout.watch(toStdout);
      this.#stderr.watch(toStderr);
    }, WATCH_AFTER_MS);
    const data = encodePlan(plan);
    if (plan.stdin !== undefined || plan.interactive === true) this.#parts.release();
    const stdin = Buffer.from(plan.stdin ?? '');
    if (plan.kind === 'command') {
      this.#command = plan.argv[0] ?? '';
      this.#parts.say('command', data.subarray(4));
      if (plan.interactive === true) void this.#openInput(stdin);
      else this.#write(stdin);
    } else {
      if (!this.warm) this.#parts.say('program');
      // Without an input nobody waits for its end, and until it is closed the plan can be found unread.
      const keep = plan.stdin === undefined && data.length <= PIPE_MIN;
      if (plan.interactive === true) void this.#openInput(Buffer.concat([data, stdin]));
      else this.#write(plan.stdin === undefined ? data : Buffer.concat([data, stdin]), keep);
    }
    const end = await this.#end.promise;
    clearTimeout(watch);
    this.#input?.destroy();
    this.#stdout.finish(toStdout);
    this.#stderr.finish(toStderr);
    if (end.kind === 'broken' && !this.#ran) throw new ZygoteFailure(end.reason);
    if (end.kind === 'program' && this.#message !== undefined) sink.stderr(Buffer.from(this.#message));
    return end;
  }

  signal(number: number): void {
    if (!this.#over) this.#parts.say('signal', number);
  }

  /** More input of an interactive run. Resolves when there is room for more, or nobody to read it. */
  async write(data: Uint8Array): Promise<void> {
    const input = this.#input;
    if (input === undefined || input.destroyed || input.writableEnded || input.write(data)) return;
    // One for all who wait.
    this.#drained ??= new Promise<void>((resolve) => {
      const done = () => {
        input.off('drain', done).off('close', done);
        this.#drained = undefined;
        resolve();
      };
      input.on('drain', done).on('close', done);
    });
    await this.#drained;
  }

  endInput(): void {
    this.#input?.end();
  }

  flow(on: boolean): void {
    this.#stdout.flow(on);
    this.#stderr.flow(on);
  }

  /** Ends every process of it, at any time. */
  kill(): void {
    if (this.#killed || this.#over) return;
    this.#killed = true;
    this.#parts.say('kill');
  }

  onNoPlace(): void {
    this.#noPlace = true;
  }

  onBroken(reason: string): void {
    this.#broken ??= reason;
  }

  /**
   * @param report `exit|signal|errno|none NUMBER USER SYSTEM MAXRSS clean|dirty ran|idle`: see nox_zygote.py
   * @returns whether it leaves its network namespace without a socket
   */
  onEnd(report: string): boolean {
    this.#over = true;
    this.#closePlan();
    const fields = report.split(' ');
    this.#ran = fields[6] === 'ran';
    this.#end.resolve(this.#endOf(fields));
    if (!this.#running) {
      this.#stdout.discard();
      this.#stderr.discard();
    }
    this.#gone.resolve(undefined);
    return fields[5] === 'clean';
  }

  /** Its zygote has ended, and all that was below it. A run has begun unless its plan is where it was put. */
  onLost(reason: string): void {
    this.onBroken(reason);
    this.onEnd(`none 0 0 0 0 dirty ${this.#running && !this.#planUnread() ? 'ran' : 'idle'}`);
  }

  #planUnread(): boolean {
    if (this.#undelivered) return true;
    if (this.#plan === undefined) return false;
    const reader = openSync(`/proc/self/fd/${this.#plan}`, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      return readSync(reader, PIECE) > 0;
    } catch {
      return false; // EAGAIN
    } finally {
      closeSync(reader);
    }
  }

  #endOf([how, number, user, system, maxRss]: string[]): LaunchEnd {
    if (this.#broken !== undefined) return { kind: 'broken', reason: this.#broken };
    if (this.#killed) return { kind: 'killed' };
    if (this.#noPlace) return { kind: 'no_place' };
    if (how === 'none' || !this.#ran) return { kind: 'broken', reason: 'the cell was killed' };
    const status = Number(number);
    return {
      kind: 'program',
      exitCode: how === 'exit' ? status : how === 'errno' ? this.#notExecuted(status) : null,
      signal: how === 'signal' ? status : null,
      userSeconds: Number(user) / 1e6,
      systemSeconds: Number(system) / 1e6,
      maxRssBytes: Number(maxRss) * 1024,
    };
  }

  #notExecuted(errno: number): number {
    const why = ERRNO_TEXT[errno] ?? `errno ${errno}`;
    this.#message =
      errno === ENOENT
        ? `nox: command not found: ${this.#command}\n`
        : `nox: cannot execute ${this.#command}: ${why}\n`;
    return errno === ENOENT ? NOT_FOUND : NOT_EXECUTABLE;
  }

  /** @param keep leave the pipe open; what is written fits into it */
  #write(data: Buffer, keep = false): void {
    const fd = this.#plan;
    if (fd === undefined) return;
    if (!keep) this.#plan = undefined;
    let written = 0;
    try {
      written = writeSync(fd, data);
    } catch {
      // EAGAIN, or EPIPE: it is dead, and will be reported.
      this.#undelivered = true;
    }
    if (keep) return;
    if (written === data.length) {
      closeSync(fd);
      return;
    }
    // More than the pipe takes (pipe(7): 65,536 bytes, or 8,192 where one user has many): a program need not read it.
    this.#input = new Socket({ fd, readable: false, writable: true });
    this.#input.on('error', () => undefined);
    this.#input.end(data.subarray(written));
  }

  #openInput(first: Buffer): Promise<void> {
    const fd = this.#plan;
    if (fd === undefined) return Promise.resolve();
    this.#plan = undefined;
    this.#input = new Socket({ fd, readable: false, writable: true });
    this.#input.on('error', () => undefined);
    return this.write(first);
  }

  #closePlan(): void {
    if (this.#plan !== undefined) closeSync(this.#plan);
    this.#plan = undefined;
  }
}

type Take = (data: Uint8Array) => void;

/**
 * The reading end of a pipe. At the end of a run all that it wrote is in the pipe already, so nothing is waited for:
 * somebody else may have the other end by then (a run can hand it to another one of its workspace).
 */
class Output {
  readonly #fd: number;
  #socket: Socket | undefined;
  #flowing = true;
  #closed = false;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Hands on what comes, as it comes. */
  watch(take: Take): void {
    if (this.#closed) return;
    this.#socket = new Socket({ fd: this.#fd, readable: true, writable: false });
    this.#socket.on('error', () => undefined);
    this.#socket.on('data', take);
    this.flow(this.#flowing);
  }

  flow(on: boolean): void {
    this.#flowing = on;
    if (on) this.#socket?.resume();
    else this.#socket?.pause();
  }

  /** Hands on what is left. */
  finish(take: Take): void {
    if (this.#closed) return;
    this.#socket?.pause();
    this.#takeReadAhead();
    try {
      // Not more than a pipe holds, lest whoever has the other end keeps it filled.
      let room = PIPE_MAX;
      for (let size = this.#read(); size > 0 && room > 0; size = this.#read()) {
        take(Buffer.from(PIECE.subarray(0, size)));
        room -= size;
      }
    } finally {
      this.discard();
    }
  }

  discard(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#socket === undefined) closeSync(this.#fd);
    else this.#socket.destroy();
  }

  /** A socket that is held up has read ahead of its listener, which gets what `read` returns. */
  #takeReadAhead(): void {
    let piece: unknown;
    do piece = this.#socket?.read() as unknown;
    while (piece !== null && piece !== undefined);
  }

  #read(): number {
    // The watcher has seen the end and closed it: by now the number may be another connection's.
    if (this.#socket?.destroyed === true) return 0;
    try {
      return readSync(this.#fd, PIECE);
    } catch {
      // EAGAIN: empty, and open elsewhere.
      return 0;
    }
  }
}

/** Of the zygote's children the init with that pid, and the program of its pid namespace. */
function hostPids(zygote: number, init: number): number[] {
  const children = childrenOf(zygote);
  const first = children.find((child) => {
    const pids = namespacePids(child);
    return pids.at(-2) === init && pids.at(-1) === 1;
  });
  if (first === undefined) return [];
  const namespace = pidNamespace(first);
  return [first, ...children.filter((child) => child !== first && pidNamespace(child) === namespace)];
}
