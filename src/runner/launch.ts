/**
 * Who makes a run: the one replaceable piece. This is the cold way (a new sandbox and a new interpreter each time);
 * a warm one implements the same `Launcher`.
 *
 * Theory of operation, from the runner's side (init.pl has the inside):
 *
 * - Birth. `bwrap` is spawned with stdin, stdout and stderr on pipes, because Node would give it socket pairs, on
 *   which `echo x > /dev/stderr` fails with ENXIO. The pipes belong to a slot (pipes.ts) and are opened anew for each
 *   run: all who held them are dead when a run has ended, and a pipe that nobody has open holds no data.
 *   Descriptor 3 is a socket to init.
 * - A spare: when a run has ended, the sandbox of its slot's next run is started ahead, up to where init waits for
 *   its plan. It holds no code, is used once, and is thrown away when what it shows has been replaced meanwhile.
 * - Nothing that comes from the run is read before init said "started". If it never does, what is on stderr is
 *   bwrap's or init's complaint: it goes into the log, never to the client.
 * - Death. SIGKILL for process 1 of the namespace, found as bwrap's only child. The kernel kills every process of
 *   the namespace and lets process 1 become waitable only when all of them are reaped (pid_namespaces(7)); bwrap
 *   waits for process 1. So bwrap's exit is the death of the last process, whatever it forked, ignored or held.
 * - If the runner dies (-9 too) bwrap gets SIGKILL as its child, and process 1 as bwrap's (PR_SET_PDEATHSIG).
 */
import { closeSync, readFileSync, statSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Limits } from '../protocol/limits.ts';
import { PERL, readable, rootLinks, virtualEnvironment } from './host.ts';
import { makePipes } from './pipes.ts';
import { StartedSandbox, STREAMS } from './started-sandbox.ts';
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

/** Long enough for an answer to be written first; a run that comes sooner starts its own sandbox. */
const SPARE_DELAY_MS = 2;
/** A sandbox shows the files of /etc as they were when it was started; an older one is thrown away. */
const SPARE_AGE_MS = 30_000;

interface Spare {
  readonly sandbox: StartedSandbox;
  readonly workspace: string;
  readonly shown: string;
}

/** Read at once: later the server may be a user who cannot read its own program. */
const PROFILE = loadProfile();
const INIT = readFileSync(new URL('./init.pl', import.meta.url), 'utf8').replace(/^\s*#.*\n/gm, '');

// asm-generic/resource.h
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7, msgqueue: 12 } as const;

export class ColdLauncher implements Launcher {
  readonly #dir: string;
  readonly #pipes: readonly number[];
  readonly #venv: string | undefined;
  readonly #bwrapArguments: (workspace: string) => string[];
  readonly #filters: { readonly open: Uint8Array; readonly strict: Uint8Array };
  readonly #options: ColdLauncherOptions;
  readonly #spares = new Map<number, Spare>();
  readonly #active = new Set<number>();
  #closed = false;

  /** @throws when the private directory or the pipes cannot be made, or the machine's architecture is not supported */
  static async create(options: ColdLauncherOptions): Promise<ColdLauncher> {
    await sweepPrivateDirs();
    const dir = await mkdtemp(join(tmpdir(), `${PRIVATE_DIR}${process.pid}-`));
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
      compileSeccomp(PROFILE, currentArch(), { writeXorExecute, unaccountedMemory });
    this.#filters = { open: filter(false), strict: filter(true) };
  }

  launch(slot: number, plan: LaunchPlan, sink: OutputSink): LaunchedRun {
    this.#active.add(slot);
    const sandbox = this.#takeSpare(slot, plan.workspace) ?? this.#start(slot, plan.workspace);
    const run = new ColdRun(sandbox, this.#encode(plan), plan, sink);
    void run.ended.then(() => {
      this.#active.delete(slot);
      // After the answer: starting a process holds up everything else for a moment.
      setTimeout(() => {
        this.#prepareSpare(slot, plan.workspace);
      }, SPARE_DELAY_MS).unref();
    });
    return run;
  }

  async close(): Promise<void> {
    this.#closed = true;
    const spares = [...this.#spares.values()];
    for (const { sandbox } of spares) sandbox.kill();
    await Promise.all(spares.map(({ sandbox }) => sandbox.ended));
    for (const pipe of this.#pipes) closeSync(pipe);
    await rm(this.#dir, { recursive: true, force: true });
  }

  #start(slot: number, workspace: string): StartedSandbox {
    const argv = [...this.#bwrapArguments(workspace), PERL, '-e', INIT, currentArch()];
    return new StartedSandbox(argv, this.#pipes.slice(slot * STREAMS.length, (slot + 1) * STREAMS.length));
  }

  /** Starts the sandbox of the slot's next run. The slot's pipes must be free: a spare holds them. */
  #prepareSpare(slot: number, workspace: string): void {
    if (this.#closed || this.#active.has(slot) || this.#spares.has(slot)) return;
    try {
      const shown = this.#identity(workspace);
      const spare = { sandbox: this.#start(slot, workspace), workspace, shown };
      this.#spares.set(slot, spare);
      void spare.sandbox.ended.then(() => {
        if (this.#spares.get(slot) === spare) this.#spares.delete(slot);
      });
    } catch {
      // The next run meets the same failure, and can tell somebody.
    }
  }

  /** The slot's spare, if it still shows what a new sandbox would show. */
  #takeSpare(slot: number, workspace: string): StartedSandbox | undefined {
    const spare = this.#spares.get(slot);
    this.#spares.delete(slot);
    if (spare === undefined) return undefined;
    const { sandbox } = spare;
    const young = performance.now() - sandbox.startedAt < SPARE_AGE_MS;
    const same = spare.workspace === workspace && spare.shown === this.#identity(workspace);
    if (sandbox.alive && young && same) return sandbox;
    sandbox.kill();
    return undefined;
  }

  /** Changes when a directory that is bound into the sandbox has been replaced by another of its name. */
  #identity(workspace: string): string {
    return [workspace, ...(this.#venv === undefined ? [] : [this.#venv])]
      .map((path) => statSync(path, { throwIfNoEntry: false }))
      .map((stats) => `${stats?.dev}:${stats?.ino}`)
      .join();
  }

  /** What init.pl unpacks: a length, then length-prefixed fields. */
  #encode(plan: LaunchPlan): Buffer {
    const env = Object.entries(plan.env).map(([name, value]) => `${name}=${value}`);
    const fields = [
      plan.workspace,
      packStrings(this.#venv === undefined ? [] : [this.#venv]),
      plan.stdin === undefined ? 'null' : 'pipe',
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

const PRIVATE_DIR = 'nox-runner-';

/** Removes what runners that were killed have left. Another user's is not ours to remove, and cannot be. */
async function sweepPrivateDirs(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const pid = /^nox-runner-(\d+)-/.exec(name)?.[1];
    if (pid === undefined || readable(`/proc/${pid}`)) continue;
    await rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => undefined);
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

class ColdRun implements LaunchedRun {
  readonly ended: Promise<LaunchEnd>;
  readonly #sandbox: StartedSandbox;
  readonly #plan: LaunchPlan;
  readonly #sink: OutputSink;
  #killed = false;
  #report: LaunchEnd | undefined;

  constructor(sandbox: StartedSandbox, encodedPlan: Uint8Array, plan: LaunchPlan, sink: OutputSink) {
    this.#sandbox = sandbox;
    this.#plan = plan;
    this.#sink = sink;
    this.ended = this.#whenEnded();
    const onNamespaces =
      plan.onNamespaces === undefined
        ? undefined
        : () => {
            this.#joinLimits(plan.onNamespaces);
          };
    sandbox.begin(
      encodedPlan,
      (line) => {
        this.#heard(line);
      },
      onNamespaces,
    );
  }

  pid1(): number | undefined {
    return this.#sandbox.started ? this.#sandbox.pid1 : undefined;
  }

  kill(): void {
    this.#killed = true;
    this.#sandbox.kill();
  }

  #joinLimits(join: LaunchPlan['onNamespaces']): void {
    const { pid1 } = this.#sandbox;
    try {
      if (pid1 === undefined) throw new Error('process 1 of the run cannot be found in /proc');
      join?.(pid1);
    } catch (error) {
      // Without its limits it must not run: init gets its plan, and is dead before it can read it.
      this.#report = { kind: 'broken', reason: String(error) };
      this.kill();
    }
  }

  #heard(line: string): void {
    const [word, ...rest] = line.split(' ');
    if (word === 'started') this.#onStarted();
    else if (word === 'no_place') this.#report ??= { kind: 'no_place' };
    else if (word === 'error') this.#report = { kind: 'broken', reason: `init: ${rest.join(' ')}` };
    else this.#report ??= parseEnd(line);
  }

  #onStarted(): void {
    const { stdout, stderr, stdin } = this.#sandbox;
    stdout.on('data', (data: Buffer) => {
      this.#sink.stdout(data);
    });
    stderr.on('data', (data: Buffer) => {
      this.#sink.stderr(data);
    });
    stdin.end(this.#plan.stdin ?? '');
  }

  async #whenEnded(): Promise<LaunchEnd> {
    const { complaint } = await this.#sandbox.ended;
    if (this.#report !== undefined) return this.#report;
    return this.#killed ? { kind: 'killed' } : { kind: 'broken', reason: complaint };
  }
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
