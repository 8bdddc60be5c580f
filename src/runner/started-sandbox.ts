/**
 * A sandbox that stands and waits for its plan: bwrap and init, no code of anybody. Used for one run, never again.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, constants, readFileSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { BWRAP } from './host.ts';
import { openPipe } from './pipes.ts';

export const STREAMS = ['stdin', 'stdout', 'stderr'] as const;
/** More than any complaint of bwrap or init; what a run itself prints never comes this way. */
const COMPLAINT_MAX = 4096;

/** How bwrap ended: before its last process was dead it does not. */
export interface SandboxEnd {
  readonly started: boolean;
  /** What kept it from starting, or what it complained of before the program started. */
  readonly complaint: string;
}

export class StartedSandbox {
  readonly stdin: Socket;
  readonly stdout: Socket;
  readonly stderr: Socket;
  readonly startedAt = performance.now();
  /** Resolves when no process of the sandbox is alive and all output has been handed on. Never rejects. */
  readonly ended: Promise<SandboxEnd>;
  readonly #child: ChildProcess;
  readonly #control: Duplex;
  #pid1: number | undefined;
  #hello = false;
  #started = false;
  #exited = false;
  #onHello: (() => void) | undefined;
  #onLine: (line: string) => void = () => undefined;

  /**
   * @param argv bwrap's arguments, the program that becomes process 1 included
   * @param pipes three handles of `makePipes`, for STREAMS; nobody else may have them open
   */
  constructor(argv: readonly string[], pipes: readonly number[]) {
    const [stdin, stdout, stderr] = pipes;
    const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
    const opened: number[] = [];
    const open = (pipe: number | undefined, flags: number) => {
      const fd = openPipe(pipe, flags);
      opened.push(fd);
      return fd;
    };
    try {
      const ours = [
        open(stdin, O_WRONLY | O_NONBLOCK),
        open(stdout, O_RDONLY | O_NONBLOCK),
        open(stderr, O_RDONLY | O_NONBLOCK),
      ];
      const theirs = [open(stdin, O_RDONLY), open(stdout, O_WRONLY), open(stderr, O_WRONLY)];
      this.#child = spawn(BWRAP, argv, { env: {}, cwd: '/', stdio: [...theirs, 'pipe'] });
      for (const fd of theirs) closeSync(fd);
      opened.length = 0;
      const [stdinFd, stdoutFd, stderrFd] = ours as [number, number, number];
      this.stdin = new Socket({ fd: stdinFd, readable: false, writable: true });
      this.stdout = new Socket({ fd: stdoutFd, readable: true, writable: false });
      this.stderr = new Socket({ fd: stderrFd, readable: true, writable: false });
    } catch (error) {
      for (const fd of opened) closeSync(fd);
      throw error;
    }
    // A program need not read its input.
    this.stdin.on('error', () => undefined);
    this.#control = this.#child.stdio[3] as Duplex;
    // init may die before it has read its plan; its exit says so, the socket need not.
    this.#control.on('error', () => undefined);
    let rest = '';
    this.#control.on('data', (data: Buffer) => {
      const lines = (rest + data.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#heard(line);
    });
    this.ended = this.#whenEnded();
  }

  get alive(): boolean {
    return !this.#exited && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Host pid of process 1, once init has said that it is there. */
  get pid1(): number | undefined {
    const bwrap = this.#child.pid;
    if (this.#exited || bwrap === undefined) return undefined;
    this.#pid1 ??= onlyChild(bwrap);
    return this.#pid1;
  }

  get started(): boolean {
    return this.#started;
  }

  /**
   * Hands over the plan, and with it the sandbox.
   *
   * @param onLine given each line of init from then on
   * @param onNamespaces called before the plan goes out, when process 1 is there
   */
  begin(plan: Uint8Array, onLine: (line: string) => void, onNamespaces: (() => void) | undefined): void {
    this.#onLine = onLine;
    const send = () => {
      onNamespaces?.();
      this.#control.write(plan);
    };
    // Not before: until then the death of the runner might not be the death of the sandbox (PR_SET_PDEATHSIG).
    if (this.#hello) send();
    else this.#onHello = send;
  }

  kill(): void {
    // bwrap has not been waited for, so neither its pid nor its child's can have been taken by another process.
    if (!this.alive) return;
    const { pid1 } = this;
    if (pid1 === undefined || !this.#started) this.#child.kill('SIGKILL');
    if (pid1 !== undefined) killProcess(pid1);
  }

  #heard(line: string): void {
    if (line === 'hello') {
      this.#hello = true;
      this.#onHello?.();
      return;
    }
    if (line === 'started') this.#started = true;
    this.#onLine(line);
  }

  async #whenEnded(): Promise<SandboxEnd> {
    const child = this.#child;
    const failure = await new Promise<Error | undefined>((resolve) => {
      child.once('error', resolve);
      child.once('close', () => {
        resolve(undefined);
      });
    });
    this.#exited = true;
    this.stdin.destroy();
    let complaint = '';
    if (!this.#started) {
      this.stderr.on('data', (data: Buffer) => {
        complaint = (complaint + data.toString()).slice(0, COMPLAINT_MAX);
      });
      this.stdout.resume();
    }
    // All writers are dead: what is left in the pipes comes at once, then their end.
    await Promise.all([closed(this.stdout), closed(this.stderr)]);
    if (failure !== undefined) complaint = `start of ${BWRAP}: ${failure.message}`;
    const how = `bwrap ended without a report (exit code ${child.exitCode}, signal ${child.signalCode})`;
    return { started: this.#started, complaint: complaint.trim() || how };
  }
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.closed) resolve();
    else
      socket
        .once('close', () => {
          resolve();
        })
        .on('error', () => undefined);
  });
}

function onlyChild(pid: number): number | undefined {
  try {
    const children = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'utf8');
    return /^\d+/.test(children) ? Number.parseInt(children, 10) : undefined;
  } catch {
    return undefined;
  }
}

function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone already: that is what was wanted.
  }
}
