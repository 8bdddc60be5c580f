/** Makes a runner that is known to work: checks the machine, then puts the parts together. */
import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { dropRoot, makeDirectoryFor, startedAsRoot } from '../privilege.ts';
import { ownNode } from '../state.ts';
import { CgroupMeter, delegateCgroup, openCgroup, type CgroupState } from './cgroup.ts';
import { runChecks, type Check } from './check.ts';
import { LocalExecutor } from './executor.ts';
import { fileHandlers } from './file-handlers.ts';
import { choosePython } from './host.ts';
import { ZygoteLauncher } from './launcher.ts';
import { ProcMeter } from './meter.ts';
import { environment, type RunContext } from './run.ts';
import { loadRuntimes } from './runtime.ts';
import { probeBy, RuntimeProbe } from './runtime-probe.ts';
import { workspaceHandlers } from './workspace-handlers.ts';
import { Workspaces } from './workspaces.ts';

export interface StartedRunner {
  readonly executor: LocalExecutor;
  readonly context: RunContext;
  readonly runtimes: RuntimeProbe;
  readonly cgroup: CgroupState;
}

/** The runs need less of the workspaces than the operations on them. */
type Context = RunContext & { readonly workspaces: Workspaces };

/** Says what is missing and how to mend it, a line each. */
class UnfitError extends Error {
  override readonly name = 'UnfitError';
}

/** What only root can do, then root is given up: directories and a cgroup of the runner's own. */
export function prepareRunner(config: Config): void {
  if (startedAsRoot) allowPinning();
  if (startedAsRoot) shareNode(config.runUid);
  if (startedAsRoot && config.cgroup !== 'off') delegateCgroup(config.runUid);
  makeDirectoryFor(config.runUid, config.sandbox);
  makeDirectoryFor(config.runUid, config.workspaces, 0o700);
  dropRoot(config.runUid, config.runUid);
}

/** Zygotes pin pages (nox_memory.py). Where they may not, runs are made a little slower. */
function allowPinning(): void {
  try {
    execFileSync('/usr/bin/prlimit', [`--pid=${process.pid}`, '--memlock=unlimited'], { stdio: 'ignore' });
  } catch {
    // util-linux before 2.21, or a container that forbids it.
  }
}

/**
 * A clone in root's home is closed to the user that this becomes, and to the bwrap that shows runs their Node. A second
 * name of the same file costs nothing; where it cannot be had (another file system), the runtimes that need it say so.
 */
function shareNode(uid: number): void {
  try {
    execFileSync('/usr/bin/test', ['-x', process.execPath], { uid, gid: uid, stdio: 'ignore' });
  } catch {
    giveSecondName(process.execPath, ownNode());
  }
}

function giveSecondName(path: string, name: string): void {
  const temporary = `${name}.${process.pid}`;
  try {
    mkdirSync(dirname(name), { recursive: true, mode: 0o755 });
    linkSync(path, temporary);
    // rename(2) does nothing where both are the same file already.
    renameSync(temporary, name);
    rmSync(temporary, { force: true });
  } catch {
    // Told by the probe of the runtimes (runtime-probe.ts).
  }
}

export function explainFailure(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return error instanceof UnfitError ? `this machine cannot run code safely:\n${message}` : message;
}

/** @throws UnfitError when the machine cannot run code as safely as it must */
export async function startRunner(config: Config, log: Logger): Promise<StartedRunner> {
  const cgroup: CgroupState =
    config.cgroup === 'off' ? { available: false, reason: 'NOX_CGROUP=off' } : openCgroup();
  const failed = runChecks(config, cgroup).filter((check) => !check.pass);
  if (failed.length > 0) throw new UnfitError(failed.map(explain).join('\n'));
  const context = await makeContext(config, cgroup, log);
  const files = fileHandlers(context.workspaces, config.maxUploadBytes);
  const executor: LocalExecutor = new LocalExecutor({
    context,
    slots: { slots: config.slots, queue: config.queue, waitSeconds: config.queueWaitSeconds },
    limits: config.limits,
    maxUploadBytes: config.maxUploadBytes,
    handlers: {
      ask: {
        runtimes: () => probe.list(),
        status: () => Promise.resolve(executor.status()),
        ...files.ask,
        ...workspaceHandlers(context.workspaces),
      },
      send: files.send,
      fetch: files.fetch,
    },
    log,
  });
  const probe = makeProbe(config, context, executor);
  const limitsBy = cgroup.available
    ? `cgroup v2 (${cgroup.path})`
    : `rlimits and a watcher (${cgroup.reason})`;
  log.info({ workspace: config.sandbox, python: context.python, slots: config.slots, limitsBy }, 'runner');
  return { executor, context, runtimes: probe, cgroup };
}

function makeProbe(config: Config, { python, runtimes }: RunContext, executor: LocalExecutor): RuntimeProbe {
  return new RuntimeProbe({
    runtimes,
    path: environment(python)['PATH'] ?? '',
    memoryBytes: config.limits.memoryBytes,
    run: probeBy(executor),
    waiting: () => executor.waiting,
  });
}

function explain(check: Check): string {
  return `${check.name}: ${check.value}${check.pass ? '' : `\n  remedy: ${check.remedy}`}`;
}

async function makeContext(config: Config, cgroup: CgroupState, log: Logger): Promise<Context> {
  const python = choosePython(config.python);
  const workspaces = new Workspaces({
    dir: config.workspaces,
    sandbox: config.sandbox,
    limitBytes: config.limits.workspaceBytes,
    onFault: (error) => {
      log.error({ err: error }, 'a workspace is damaged or cannot be counted');
    },
  });
  await workspaces.recover();
  const { runtimes, replaced } = loadRuntimes(config.runtimes);
  if (replaced.length > 0) log.info({ replaced, from: config.runtimes }, 'runtimes replaced');
  return {
    launcher: await ZygoteLauncher.create({
      python,
      env: environment(python),
      cgroups: cgroup.available ? cgroup.path : undefined,
      limits: config.limits,
      pythonJit: config.pythonJit,
      warm: config.warm,
    }),
    workspaces,
    python,
    runtimes,
    newMeter: (limits) => (cgroup.available ? new CgroupMeter(cgroup.path, limits) : new ProcMeter(limits)),
  };
}
