/**
 * Who makes a run: the one replaceable piece. This is the cold way (a new bwrap and a new interpreter each time);
 * a warm one implements the same `Launcher`.
 *
 * Theory of operation, from the runner's side (init.pl has the inside):
 *
 * - Birth. `bwrap` is spawned with stdin, stdout and stderr on pipes, because Node would give it socket pairs, on
 *   which `echo x > /dev/stderr` fails with ENXIO. The pipes belong to a slot (pipes.ts) and are opened anew for each
 *   run: all who held them are dead when a run has ended, and a pipe that nobody has open holds no data.
 *   Descriptor 3 is a socket to init.
 * - Nothing that comes from the run is read before init said "started". If it never does, what is on stderr is
 *   bwrap's or init's complaint: it goes into the log, never to the client.
 * - Death. SIGKILL for process 1 of the namespace, found as bwrap's only child. The kernel kills every process of
 *   the namespace and lets process 1 become waitable only when all of them are reaped (pid_namespaces(7)); bwrap
 *   waits for process 1. So bwrap's exit is the death of the last process, whatever it forked, ignored or held.
 * - If the runner dies (-9 too) bwrap gets SIGKILL as its child, and process 1 as bwrap's (PR_SET_PDEATHSIG).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, constants, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { Limits } from '../protocol/limits.ts';
import { BWRAP, PERL, readable, rootLinks, virtualEnvironment } from './host.ts';
import { makePipes, openPipe } from './pipes.ts';
import { ETC, OWN_ETC, sandboxArguments } from './sandbox.ts';
import { compileSeccomp, currentArch, loadProfile } from './seccomp/compile.ts';

export interface LaunchPlan {
  readonly workspace: string;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Code that appears at `name`, a regular file of the workspace, for this run only. */
  readonly script?: { readonly name: string; readonly code: string } | undefined;
  readonly stdin?: string | undefined;
  readonly limits: Limits;
  /** Refuse memory that is writable and executable. */
  readonly writeXorExecute: boolean;
  /** Called when the namespaces stand and before any code of the client runs, with process 1's pid. */
  readonly onNamespaces?: ((pid1: number) => void) | undefined;
}

export interface OutputSink {
  stdout(data: Uint8Array): void;
  stderr(data: Uint8Array): void;
}

/** How the program ended, or why it never ran; `killed` is what `kill()` leaves. */
export type LaunchEnd =
  | {
      readonly kind: 'program';
      readonly exitCode: number | null;
      readonly signal: number | null;
      readonly userSeconds: number;
      readonly systemSeconds: number;
      readonly maxRssBytes: number;
    }
  | { readonly kind: 'killed' }
  /** Another run of the workspace took away the file on which the code was to be mounted. Nothing has run. */
  | { readonly kind: 'no_place' }
  | { readonly kind: 'broken'; readonly reason: string };

export interface LaunchedRun {
  /** Host pid of process 1 of the run's pid namespace, while the program runs in its finished sandbox. */
  pid1(): number | undefined;
  /** Ends every process of the run. May be called at any time, more than once. */
  kill(): void;
  /** Resolves when no process of the run is alive and all its output has been handed on. Never rejects. */
  readonly ended: Promise<LaunchEnd>;
}

export interface Launcher {
  launch(slot: number, plan: LaunchPlan, sink: OutputSink): LaunchedRun;
  close(): Promise<void>;
}

export interface ColdLauncherOptions {
  readonly slots: number;
  readonly python: string;
  /** Memory is counted per run by a cgroup; without one, memory that no process maps is refused by seccomp. */
  readonly cgroup: boolean;
}

const INIT = readFileSync(new URL('./init.pl', import.meta.url), 'utf8').replace(/^\s*#.*\n/gm, '');
/** More than any complaint of bwrap or init; what a run itself prints never comes this way. */
const COMPLAINT_MAX = 4096;

// asm-generic/resource.h
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7, msgqueue: 12 } as const;

export class ColdLauncher implements Launcher {
  readonly #dir: string;
  readonly #pipes: readonly number[];
  readonly #venv: string | undefined;
  readonly #bwrapArguments: (workspace: string) => string[];
  readonly #filters: { readonly open: Uint8Array; readonly strict: Uint8Array };
  readonly #options: ColdLauncherOptions;

  /** @throws when the private directory or the pipes cannot be made, or the machine's architecture is not supported */
  static async create(options: ColdLauncherOptions): Promise<ColdLauncher> {
    const dir = await mkdtemp(join(tmpdir(), 'nox-runner-'));
    await chmod(dir, 0o700);
    await mkdir(join(dir, 'etc'));
    for (const [name, text] of Object.entries(OWN_ETC)) await writeFile(join(dir, 'etc', name), text);
    return new ColdLauncher(dir, await makePipes(options.slots * STREAMS.length), options);
  }

  private constructor(dir: string, pipes: readonly number[], options: ColdLauncherOptions) {
    this.#dir = dir;
    this.#pipes = pipes;
    this.#options = options;
    this.#venv = virtualEnvironment(options.python);
    const host = {
      etcDir: join(dir, 'etc'),
      rootLinks: rootLinks(),
      etc: ETC.filter(readable),
      venv: this.#venv,
    };
    this.#bwrapArguments = (workspace) => sandboxArguments({ ...host, workspace });
    const unaccountedMemory = options.cgroup ? 'allow' : 'deny';
    const filter = (writeXorExecute: boolean) =>
      compileSeccomp(loadProfile(), currentArch(), { writeXorExecute, unaccountedMemory });
    this.#filters = { open: filter(false), strict: filter(true) };
  }

  launch(slot: number, plan: LaunchPlan, sink: OutputSink): LaunchedRun {
    return new ColdRun(this.#spawn(slot, plan), this.#encode(plan), plan, sink);
  }

  async close(): Promise<void> {
    for (const pipe of this.#pipes) closeSync(pipe);
    await rm(this.#dir, { recursive: true, force: true });
  }

  #spawn(slot: number, plan: LaunchPlan): Spawned {
    const opened: number[] = [];
    const open = (name: Stream, flags: number) => {
      const fd = openPipe(this.#pipes[slot * STREAMS.length + STREAMS.indexOf(name)], flags);
      opened.push(fd);
      return fd;
    };
    try {
      const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
      // Opened first and without blocking, the end that we keep lets the other end open at once, in blocking mode.
      const stdoutRead = open('stdout', O_RDONLY | O_NONBLOCK);
      const stderrRead = open('stderr', O_RDONLY | O_NONBLOCK);
      const theirs: (number | 'ignore')[] = ['ignore', open('stdout', O_WRONLY), open('stderr', O_WRONLY)];
      let stdinWrite: number | undefined;
      if (plan.stdin !== undefined) {
        open('stdin', O_RDONLY | O_NONBLOCK);
        stdinWrite = open('stdin', O_WRONLY | O_NONBLOCK);
        theirs[0] = open('stdin', O_RDONLY);
      }
      const args = [...this.#bwrapArguments(plan.workspace), PERL, '-e', INIT, currentArch()];
      const child = spawn(BWRAP, args, { env: {}, cwd: '/', stdio: [...theirs, 'pipe'] });
      const kept = [stdoutRead, stderrRead, ...(stdinWrite === undefined ? [] : [stdinWrite])];
      for (const fd of opened) if (!kept.includes(fd)) closeSync(fd);
      opened.length = 0;
      return {
        child,
        stdout: new Socket({ fd: stdoutRead, readable: true, writable: false }),
        stderr: new Socket({ fd: stderrRead, readable: true, writable: false }),
        stdin:
          stdinWrite === undefined
            ? undefined
            : new Socket({ fd: stdinWrite, readable: false, writable: true }),
      };
    } catch (error) {
      for (const fd of opened) closeSync(fd);
      throw error;
    }
  }

  /** What init.pl unpacks: a length, then length-prefixed fields. */
  #encode(plan: LaunchPlan): Buffer {
    const env = Object.entries(plan.env).map(([name, value]) => `${name}=${value}`);
    const fields = [
      plan.workspace,
      packStrings(this.#venv === undefined ? [] : [this.#venv]),
      plan.script?.name ?? '',
      plan.script?.code ?? '',
      String(plan.limits.tmpBytes),
      rlimits(plan.limits, this.#options.cgroup),
      plan.writeXorExecute ? this.#filters.strict : this.#filters.open,
      env.join('\0'),
      packStrings(plan.argv),
    ];
    return packString(packStrings(fields));
  }
}

/** `resource:soft:hard` for init.pl. RLIMIT_NPROC counts init as well, hence one more. */
function rlimits(limits: Limits, cgroup: boolean): string {
  const cpu = Math.ceil(limits.cpuSeconds);
  const rows: [resource: number, soft: number, hard: number][] = [
    // The second between the two makes the first death a SIGXCPU, which names its reason, not a SIGKILL.
    [RLIMIT.cpu, cpu, cpu + 1],
    [RLIMIT.fsize, limits.fileBytes, limits.fileBytes],
    [RLIMIT.core, 0, 0],
    [RLIMIT.nofile, limits.openFiles, limits.openFiles],
    [RLIMIT.msgqueue, 819_200, 819_200],
  ];
  // Where a cgroup limits both, a refusal must be the cgroup's own: only that is counted, and can be told.
  if (!cgroup) {
    rows.push([RLIMIT.nproc, limits.processes + 1, limits.processes + 1]);
    rows.push([RLIMIT.data, limits.memoryBytes, limits.memoryBytes]);
  }
  return rows.map((row) => row.join(':')).join(',');
}

function packString(text: string | Uint8Array): Buffer {
  const data = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, data]);
}

function packStrings(fields: readonly (string | Uint8Array)[]): Buffer {
  return Buffer.concat(fields.map(packString));
}

const STREAMS = ['stdin', 'stdout', 'stderr'] as const;
type Stream = (typeof STREAMS)[number];

interface Spawned {
  readonly child: ChildProcess;
  readonly stdout: Socket;
  readonly stderr: Socket;
  readonly stdin: Socket | undefined;
}

class ColdRun implements LaunchedRun {
  readonly ended: Promise<LaunchEnd>;
  readonly #spawned: Spawned;
  readonly #plan: LaunchPlan;
  readonly #sink: OutputSink;
  #pid1: number | undefined;
  #started = false;
  #killed = false;
  #exited = false;
  #report: LaunchEnd | undefined;
  #complaint = '';

  constructor(spawned: Spawned, encodedPlan: Buffer, plan: LaunchPlan, sink: OutputSink) {
    this.#spawned = spawned;
    this.#plan = plan;
    this.#sink = sink;
    const control = spawned.child.stdio[3] as Duplex;
    // init may die before it has read its plan; its exit says so, the socket need not.
    control.on('error', () => undefined);
    let line = '';
    control.on('data', (data: Buffer) => {
      const lines = (line + data.toString()).split('\n');
      line = lines.pop() ?? '';
      for (const each of lines) this.#heard(each, control, encodedPlan);
    });
    if (plan.onNamespaces === undefined) control.write(encodedPlan);
    this.ended = this.#whenEnded();
  }

  pid1(): number | undefined {
    return this.#started ? this.#findPid1() : undefined;
  }

  #findPid1(): number | undefined {
    const bwrap = this.#spawned.child.pid;
    if (this.#exited || bwrap === undefined) return undefined;
    this.#pid1 ??= onlyChild(bwrap);
    return this.#pid1;
  }

  kill(): void {
    this.#killed = true;
    // bwrap has not been waited for, so neither its pid nor its child's can have been taken by another process.
    if (this.#exited) return;
    const pid1 = this.#findPid1();
    if (pid1 === undefined || !this.#started) this.#spawned.child.kill('SIGKILL');
    if (pid1 !== undefined) killProcess(pid1);
  }

  #heard(line: string, control: Duplex, encodedPlan: Buffer): void {
    const [word, ...rest] = line.split(' ');
    if (word === 'hello') this.#onHello(control, encodedPlan);
    else if (word === 'started') this.#onStarted();
    else if (word === 'no_place') this.#report = { kind: 'no_place' };
    else if (word === 'error') this.#report = { kind: 'broken', reason: `init: ${rest.join(' ')}` };
    else this.#report ??= parseEnd(line);
  }

  #onHello(control: Duplex, encodedPlan: Buffer): void {
    if (this.#plan.onNamespaces === undefined) return;
    const pid1 = this.#findPid1();
    try {
      if (pid1 === undefined) throw new Error('process 1 of the run cannot be found in /proc');
      this.#plan.onNamespaces(pid1);
      control.write(encodedPlan);
    } catch (error) {
      this.#report = { kind: 'broken', reason: String(error) };
      this.kill();
    }
  }

  #onStarted(): void {
    this.#started = true;
    const { stdout, stderr, stdin } = this.#spawned;
    stdout.on('data', (data: Buffer) => {
      this.#sink.stdout(data);
    });
    stderr.on('data', (data: Buffer) => {
      this.#sink.stderr(data);
    });
    // A program need not read its input.
    stdin?.on('error', () => undefined);
    stdin?.end(this.#plan.stdin ?? '');
  }

  async #whenEnded(): Promise<LaunchEnd> {
    const { child, stdout, stderr, stdin } = this.#spawned;
    const failure = await new Promise<Error | undefined>((resolve) => {
      child.once('error', resolve);
      child.once('close', () => {
        resolve(undefined);
      });
    });
    this.#exited = true;
    stdin?.destroy();
    if (!this.#started) {
      stderr.on('data', (data: Buffer) => {
        this.#complaint = (this.#complaint + data.toString()).slice(0, COMPLAINT_MAX);
      });
      stdout.resume();
    }
    // All writers are dead: what is left in the pipes comes at once, then their end.
    await Promise.all([closed(stdout), closed(stderr)]);
    if (failure !== undefined) return { kind: 'broken', reason: `start of ${BWRAP}: ${failure.message}` };
    if (this.#report !== undefined) return this.#report;
    if (this.#killed) return { kind: 'killed' };
    const code = `exit code ${String(child.exitCode)}, signal ${String(child.signalCode)}`;
    const reason = this.#complaint.trim() || `bwrap ended without a report (${code})`;
    return { kind: 'broken', reason };
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

/** `exit CODE USER SYSTEM MAXRSS` or `signal N …`: seconds, and KiB (getrusage(2)). */
function parseEnd(line: string): LaunchEnd {
  const match = /^(exit|signal) (\d{1,3}) ([\d.]+) ([\d.]+) (\d+)$/.exec(line);
  if (match === null) return { kind: 'broken', reason: `init said ${JSON.stringify(line)}` };
  const status = Number(match[2]);
  return {
    kind: 'program',
    exitCode: match[1] === 'exit' ? status : null,
    signal: match[1] === 'signal' ? status : null,
    userSeconds: Number(match[3]),
    systemSeconds: Number(match[4]),
    maxRssBytes: Number(match[5]) * 1024,
  };
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
