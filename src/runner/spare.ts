/**
 * A spare and what becomes of it: one run.
 *
 * States: waiting → begun (it has its plan) → reported (`end`: nothing of the run is alive but its init) or gone
 * (init is dead as well). The pipes are its own: those who held them are dead when it has ended, and so are they.
 */
import { closeSync, constants, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { LaunchEnd, OutputSink } from './launch.ts';

/** A run that ends sooner has its output read in one go; for a longer one the pipes are watched. */
const WATCH_AFTER_MS = 3;
/** The most that a pipe can be made to hold without privilege (pipe(7): /proc/sys/fs/pipe-max-size). */
const PIPE_MAX = 1024 * 1024;
const PIECE = Buffer.alloc(65_536);

/** What was asked of a zygote cannot be had. Nothing of a client has run. */
export class ZygoteFailure extends Error {
  override readonly name = 'ZygoteFailure';
}

export interface SpareParts {
  /** Descriptors in the zygote: where the plan goes in, and where output comes out. */
  readonly fds: { readonly plan: number; readonly stdout: number; readonly stderr: number };
  /** Host pid of the zygote. */
  readonly zygote: number;
  /** Pid of the spare's init in the zygote's namespace. */
  readonly pid: number;
  readonly kill: () => void;
  /** Has the zygote close its ends of the pipes: else the end of the input would not be seen. */
  readonly release: () => void;
}

export class Spare {
  readonly startedAt = performance.now();
  /** Resolves when init is dead, and with it everything of the run. */
  readonly gone: Promise<void>;
  readonly #parts: SpareParts;
  readonly #gone = Promise.withResolvers<undefined>();
  readonly #end = Promise.withResolvers<LaunchEnd>();
  readonly #stdout: Output;
  readonly #stderr: Output;
  #plan: number | undefined;
  #input: Socket | undefined;
  #hostPid: number | undefined;
  /** Whether it leaves its network namespace without a socket. */
  clean = false;
  #codeMayRun = false;
  #begun = false;
  #over = false;
  #killed = false;

  constructor(parts: SpareParts) {
    this.#parts = parts;
    this.gone = this.#gone.promise;
    const { fds, zygote } = parts;
    const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
    const open = (fd: number, flags: number) =>
      openSync(`/proc/${String(zygote)}/fd/${String(fd)}`, flags | O_NONBLOCK);
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

  /** Host pid of init, process 1 of the run. */
  get pid1(): number | undefined {
    if (this.#over) return undefined;
    this.#hostPid ??= hostPid(this.#parts.zygote, this.#parts.pid);
    return this.#hostPid;
  }

  /**
   * Hands over the plan, and with it the sandbox. Resolves when nothing of the run is alive.
   *
   * @throws ZygoteFailure when it ended before code of the client could run
   */
  async run(plan: Uint8Array, stdin: string | undefined, sink: OutputSink): Promise<LaunchEnd> {
    this.#begun = true;
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
    if (stdin !== undefined) this.#parts.release();
    this.#write(plan, stdin ?? '');
    const end = await this.#end.promise;
    clearTimeout(watch);
    this.#over = true;
    this.#input?.destroy();
    this.#stdout.finish(toStdout);
    this.#stderr.finish(toStderr);
    if (end.kind === 'broken' && !this.#codeMayRun) throw new ZygoteFailure(end.reason);
    return end;
  }

  /** Ends every process of it, at any time. */
  kill(): void {
    if (this.#killed || this.#over) return;
    this.#killed = true;
    this.#parts.kill();
  }

  /** From here on code of the client may run. */
  onBegun(): void {
    this.#codeMayRun = true;
  }

  /** Called with what init says: `exit CODE USER SYSTEM MAXRSS STATE` or `signal N …`, in microseconds and KiB. */
  onEnd(report: string): void {
    this.clean = report.endsWith(' clean');
    this.#settle(parseEnd(report));
  }

  onNoPlace(): void {
    this.#settle({ kind: 'no_place' });
  }

  onBroken(reason: string): void {
    this.#settle({ kind: 'broken', reason });
  }

  onGone(): void {
    this.#settle(
      this.#killed ? { kind: 'killed' } : { kind: 'broken', reason: 'init of the run was killed' },
    );
    this.#gone.resolve(undefined);
  }

  #settle(end: LaunchEnd): void {
    this.#over = true;
    this.#end.resolve(end);
    this.#closePlan();
    if (this.#begun) return;
    this.#stdout.discard();
    this.#stderr.discard();
  }

  #write(plan: Uint8Array, stdin: string): void {
    const fd = this.#plan;
    if (fd === undefined) return;
    this.#plan = undefined;
    const data = stdin === '' ? plan : Buffer.concat([plan, Buffer.from(stdin)]);
    let written = 0;
    try {
      written = writeSync(fd, data);
    } catch {
      // EAGAIN, or EPIPE: it is dead, and will be reported.
    }
    if (written === data.length) {
      closeSync(fd);
      return;
    }
    // More than the pipe takes (pipe(7): 65,536 bytes, or 8,192 where one user has many): a program need not read it.
    this.#input = new Socket({ fd, readable: false, writable: true });
    this.#input.on('error', () => undefined);
    this.#input.end(data.subarray(written));
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
  }

  /** Hands on what is left. */
  finish(take: Take): void {
    if (this.#closed) return;
    this.#socket?.pause();
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

/** `NSpid` has the pid in each namespace, from the reader's to the process's own (proc_pid_status(5)). */
function hostPid(zygote: number, pid: number): number | undefined {
  try {
    const children = readFileSync(`/proc/${String(zygote)}/task/${String(zygote)}/children`, 'utf8');
    return children
      .split(' ')
      .filter(Boolean)
      .map(Number)
      .find((child) => {
        const pids = /^NSpid:\t(.*)$/m.exec(readFileSync(`/proc/${String(child)}/status`, 'utf8'))?.[1];
        return Number(pids?.split('\t').at(-2)) === pid;
      });
  } catch {
    return undefined;
  }
}

function parseEnd(line: string): LaunchEnd {
  const match = /^(exit|signal) (\d{1,3}) (\d+) (\d+) (\d+) (?:clean|dirty)$/.exec(line);
  if (match === null) return { kind: 'broken', reason: `init said ${JSON.stringify(line)}` };
  const status = Number(match[2]);
  return {
    kind: 'program',
    exitCode: match[1] === 'exit' ? status : null,
    signal: match[1] === 'signal' ? status : null,
    userSeconds: Number(match[3]) / 1e6,
    systemSeconds: Number(match[4]) / 1e6,
    maxRssBytes: Number(match[5]) * 1024,
  };
}
