/**
 * Who makes runs: a zygote for each workspace that is in use, and a cell for each slot that was used lately.
 *
 * - A run takes the cell of its slot, or waits until one is made; when it has ended, the next is made.
 * - A zygote is replaced when it has served enough runs, has lived long enough, has grown, or shows what has been
 *   replaced on the host. The new one is started beside it and takes over when it is ready; the old one ends with its
 *   last run. One that has died is replaced by the run that finds out; no run fails for it that had not begun.
 * - Zygotes of workspaces that nobody uses are put away: after a time, and the longest unused first when all of them
 *   hold more memory than they may.
 */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Limits } from '../protocol/limits.ts';
import type { RunnerStatus } from '../protocol/status.ts';
import { type Cell, ZygoteFailure } from './cell.ts';
import { nodeProgram, readable, rootLinks, shownEtc, virtualEnvironment } from './host.ts';
import type { LaunchedRun, LaunchEnd, Launcher, LaunchPlan, OutputSink, Scratch, Shown } from './launch.ts';
import { encodeLimits } from './plan.ts';
import { OWN_ETC, sandboxArguments } from './sandbox.ts';
import { compileStages, currentArch, loadProfile } from './seccomp/compile.ts';
import { discard, WarmWorkspace } from './warm-workspace.ts';
import { CGROUP_DIR, Zygote, ZYGOTE_DIR } from './zygote.ts';

export interface LauncherOptions {
  readonly python: string;
  /** What runs find in their environment, and so the interpreter that they are copied from. */
  readonly env: Readonly<Record<string, string>>;
  /**
   * The directory with a cgroup for each run, which counts its memory; without one, memory that no process maps is
   * refused by seccomp.
   */
  readonly cgroups: string | undefined;
  /** What a run gets that asks for no less: a copy of the zygote takes it on before it has its plan. */
  readonly limits: Limits;
  /** Python code may have memory that is writable and executable. */
  readonly pythonJit: boolean;
  readonly warm: WarmOptions;
}

interface WarmOptions {
  /** Python code runs in a copy of a warm interpreter, not in a new one. */
  readonly on: boolean;
  /** Packages to load ahead, names separated by spaces. */
  readonly preload: string;
  /** What all zygotes together may hold. */
  readonly memoryBytes: number;
  /** After this a zygote without a run is put away. */
  readonly idleSeconds: number;
}

const HOUSEKEEPING_MS = 5000;
/** The cell of a slot that has not been used for this long costs more than it brings. */
const CELL_IDLE_MS = 60_000;
/** A run that lasts asks so often whether its zygote still answers. */
const PING_MS = 1000;
const TRIES = 3;
const COMPILE_TIMEOUT_MS = 10_000;

/** Read at once: later the server may be a user who cannot read its own program. */
const PROFILE = loadProfile();
const INSIDE = new URL('./inside/', import.meta.url);
const ZYGOTE = readdirSync(INSIDE)
  .filter((name) => name.endsWith('.py'))
  .map((name) => [name, readFileSync(new URL(name, INSIDE), 'utf8')] as const);
const PRIVATE_DIR = 'nox-runner-';
/** The program that a zygote is stopped in front of; run.ts gives code this name unless it is asked for another. */
const PROGRAM = 'run.py';

export class ZygoteLauncher implements Launcher {
  readonly #dir: string;
  readonly #options: LauncherOptions;
  readonly #makeZygote: (workspace: Shown | Scratch) => Zygote;
  /** Besides the workspace, what a zygote shows or is: replaced on the host, it has the zygote replaced. */
  readonly #bound: readonly string[];
  readonly #active = new Map<string, WarmWorkspace>();
  /** Every zygote that is alive, those that are being replaced included. */
  readonly #all = new Set<WarmWorkspace>();
  readonly #housekeeping: NodeJS.Timeout;
  #closed = false;

  /** @throws when the private directory cannot be made, or the machine's architecture is not supported */
  static async create(options: LauncherOptions): Promise<ZygoteLauncher> {
    await sweepPrivateDirs();
    const dir = await mkdtemp(join(tmpdir(), `${PRIVATE_DIR}${process.pid}-`));
    await chmod(dir, 0o700);
    await mkdir(join(dir, 'etc'));
    await mkdir(join(dir, 'zygote'));
    await mkdir(join(dir, 'empty'));
    for (const [name, text] of ZYGOTE) await writeFile(join(dir, 'zygote', name), text);
    await compile(options.python, join(dir, 'zygote'));
    for (const [name, text] of Object.entries(OWN_ETC)) await writeFile(join(dir, 'etc', name), text);
    return new ZygoteLauncher(dir, options);
  }

  private constructor(dir: string, options: LauncherOptions) {
    this.#dir = dir;
    this.#options = options;
    const venv = virtualEnvironment(options.python);
    const shown = venv === undefined ? [] : [venv];
    this.#bound = [...shown, options.python, nodeProgram() ?? options.python];
    const host = {
      etcDir: join(dir, 'etc'),
      zygote: { from: join(dir, 'zygote'), at: ZYGOTE_DIR },
      rootLinks: rootLinks(),
      venv,
      cgroups: options.cgroups === undefined ? undefined : { from: options.cgroups, at: CGROUP_DIR },
    };
    const { env, limits, pythonJit, warm, python, cgroups } = options;
    const filters = compileStages(PROFILE, currentArch(), {
      writeXorExecute: !pythonJit,
      unaccountedMemory: cgroups === undefined ? 'deny' : 'allow',
    });
    const settings = {
      ...{ env, shown, filters, preload: warm.on ? warm.preload : '' },
      tmpBytes: limits.tmpBytes,
      limits: encodeLimits(limits, cgroups !== undefined),
      cgroups: cgroups === undefined ? '' : CGROUP_DIR,
    };
    this.#makeZygote = (workspace) =>
      new Zygote({
        argv: [
          // What may come and go while the server lives is looked for each time.
          ...sandboxArguments({
            ...{ ...host, etc: shownEtc(), node: nodeProgram() },
            workspace: { from: this.#directoryOf(workspace), at: workspace.at },
          }),
          ...[python, `${workspace.at}/${PROGRAM}`],
        ],
        workspace: workspace.at,
        scratch: 'group' in workspace,
        ...settings,
      });
    this.#housekeeping = setInterval(() => {
      this.#tidy();
    }, HOUSEKEEPING_MS).unref();
  }

  launch(slot: number, plan: LaunchPlan, sink: OutputSink): LaunchedRun {
    return new Run(slot, this.#cold(plan), sink, () => this.#use(plan.workspace));
  }

  status(): RunnerStatus['warm'] {
    const active = [...this.#active.values()];
    return {
      workspaces: active.length,
      zygotes: this.#all.size,
      cells: active.reduce((sum, warm) => sum + warm.cellsReady, 0),
      memoryBytes: active.reduce((sum, warm) => sum + warm.measuredBytes, 0),
    };
  }

  /** Starts the zygote of a workspace that is about to be used. */
  async wake(workspace: Shown | Scratch): Promise<void> {
    await this.#use(workspace).zygote.ready;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#housekeeping);
    for (const each of this.#all) each.zygote.kill();
    await Promise.all([...this.#all].map((each) => each.zygote.ended));
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** With NOX_WARM=off every interpreter is a new one. */
  #cold(plan: LaunchPlan): LaunchPlan {
    return this.#options.warm.on || plan.kind !== 'python' ? plan : { ...plan, kind: 'fresh' };
  }

  /** The zygote of a workspace, started if there is none that serves. */
  #use(workspace: Shown | Scratch): WarmWorkspace {
    const shows = this.#identity(workspace);
    const warm = this.#active.get(keyOf(workspace));
    if (warm?.zygote.alive === true && warm.shows === shows && !warm.failed) {
      if (warm.worn && warm.successor === undefined) this.#succeed(warm, workspace);
      return warm;
    }
    warm?.retire();
    const fresh = this.#start(workspace, shows);
    this.#active.set(keyOf(workspace), fresh);
    return fresh;
  }

  #succeed(old: WarmWorkspace, workspace: Shown | Scratch): void {
    const next = this.#start(workspace, old.shows);
    old.successor = next;
    next.zygote.ready.then(
      () => {
        if (this.#active.get(keyOf(workspace)) !== old) {
          next.retire();
          return;
        }
        this.#active.set(keyOf(workspace), next);
        next.prepareLike(old);
        old.retire();
      },
      () => {
        old.successor = undefined;
      },
    );
  }

  #start(workspace: Shown | Scratch, shows: string): WarmWorkspace {
    if (this.#closed) throw new ZygoteFailure('the server is stopping');
    const warm = new WarmWorkspace(this.#makeZygote(workspace), shows, this.#options.warm.on);
    this.#all.add(warm);
    void warm.zygote.ended.then(() => {
      this.#all.delete(warm);
      if (this.#active.get(keyOf(workspace)) === warm) this.#active.delete(keyOf(workspace));
    });
    // One more needs room; those that stand have their cells by now, and can be measured.
    setTimeout(() => {
      this.#keepToBudget();
    }, 1).unref();
    return warm;
  }

  /** What a run of a scratch workspace covers with its own. */
  #directoryOf(workspace: Shown | Scratch): string {
    return 'group' in workspace ? join(this.#dir, 'empty') : workspace.from;
  }

  /** Changes when something that is bound into the sandbox, or the interpreter, has been replaced by another. */
  #identity(workspace: Shown | Scratch): string {
    return [this.#directoryOf(workspace), ...this.#bound]
      .map((path) => statSync(path, { throwIfNoEntry: false }))
      .map((stats) => `${stats?.dev}:${stats?.ino}`)
      .join();
  }

  #tidy(): void {
    const now = performance.now();
    for (const [workspace, warm] of this.#active) {
      if (warm.running > 0) continue;
      warm.lookIfUsed();
      warm.dropIdleCells(now - CELL_IDLE_MS);
      const idle = now - warm.lastUsed > this.#options.warm.idleSeconds * 1000;
      // One that is worn and idle is started again by its next run, if there is one.
      if (idle || (warm.worn && now - warm.lastUsed > HOUSEKEEPING_MS)) {
        this.#active.delete(workspace);
        warm.retire();
      }
    }
    this.#keepToBudget();
  }

  #keepToBudget(): void {
    const idle = [...this.#active].filter(([, warm]) => warm.running === 0);
    idle.sort(([, a], [, b]) => a.lastUsed - b.lastUsed);
    let held = [...this.#active.values()].reduce((sum, warm) => sum + warm.bytes, 0);
    for (const [workspace, warm] of idle) {
      // The last one stays: without it every run would be the first.
      if (held <= this.#options.warm.memoryBytes || this.#active.size === 1) return;
      held -= warm.bytes;
      this.#active.delete(workspace);
      warm.retire();
    }
  }
}

/** No path begins with a colon. */
const keyOf = (workspace: Shown | Scratch): string =>
  'group' in workspace ? `:${workspace.group}` : workspace.from;

class Run implements LaunchedRun {
  readonly ended: Promise<LaunchEnd>;
  readonly #killed = Promise.withResolvers<undefined>();
  /** It has a cell that has its plan, or will have none. */
  readonly #started = Promise.withResolvers<undefined>();
  #isKilled = false;
  begun: number | undefined;
  #cell: Cell | undefined;

  constructor(slot: number, plan: LaunchPlan, sink: OutputSink, use: () => WarmWorkspace) {
    this.ended = this.#run(slot, plan, sink, use);
    void this.ended.then(() => {
      this.#started.resolve(undefined);
    });
  }

  pids(): readonly number[] {
    return this.#cell?.pids ?? [];
  }

  kill(): void {
    this.#isKilled = true;
    this.#killed.resolve(undefined);
    this.#cell?.kill();
  }

  signal(number: number): void {
    void this.#started.promise.then(() => {
      this.#cell?.signal(number);
    });
  }

  async write(data: Uint8Array): Promise<void> {
    await this.#started.promise;
    await this.#cell?.write(data);
  }

  endInput(): void {
    void this.#started.promise.then(() => {
      this.#cell?.endInput();
    });
  }

  flow(on: boolean): void {
    this.#cell?.flow(on);
  }

  async #run(slot: number, plan: LaunchPlan, sink: OutputSink, use: () => WarmWorkspace): Promise<LaunchEnd> {
    const needsCopy = plan.kind !== 'command';
    let reason = '';
    for (let attempt = 0; attempt < TRIES && !this.#isKilled; attempt += 1) {
      let warm: WarmWorkspace | undefined;
      let ping: NodeJS.Timeout | undefined;
      try {
        warm = use();
        const { zygote } = warm;
        const taken = warm.take(slot, needsCopy);
        const cell = taken instanceof Promise ? await this.#unlessKilled(taken) : taken;
        if (cell === undefined) break;
        this.#cell = cell;
        if (this.#wasKilled()) cell.kill();
        ping = setInterval(() => {
          zygote.ping();
        }, PING_MS);
        this.begun = performance.now();
        const ended = cell.run(plan, sink);
        this.#started.resolve(undefined);
        return await ended;
      } catch (error) {
        this.#cell?.kill();
        reason = error instanceof Error ? error.message : String(error);
        if (!(error instanceof ZygoteFailure)) break;
      } finally {
        clearInterval(ping);
        warm?.release(slot, needsCopy);
      }
    }
    return this.#isKilled ? { kind: 'killed' } : { kind: 'broken', reason };
  }

  /** A call, because it changes while we wait. */
  #wasKilled(): boolean {
    return this.#isKilled;
  }

  async #unlessKilled(coming: Promise<Cell>): Promise<Cell | undefined> {
    const cell = await Promise.race([coming, this.#killed.promise]);
    if (cell === undefined) void coming.then(discard, () => undefined);
    return cell;
  }
}

/** Saves each zygote a third of its start. One that finds nothing compiled compiles for itself. */
async function compile(python: string, dir: string): Promise<void> {
  const args = ['-I', '-m', 'compileall', '-q', dir];
  await promisify(execFile)(python, args, { env: {}, cwd: '/', timeout: COMPILE_TIMEOUT_MS }).catch(
    () => undefined,
  );
}

/** Removes what runners that were killed have left. Another user's is not ours to remove, and cannot be. */
async function sweepPrivateDirs(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const pid = /^nox-runner-(\d+)-/.exec(name)?.[1];
    if (pid === undefined || readable(`/proc/${pid}`)) continue;
    await rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => undefined);
  }
}
