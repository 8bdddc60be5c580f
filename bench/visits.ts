/**
 * The runner's own launcher with many workspaces, as the user of the runs; a process of its own (workspaces.ts).
 *
 * Says a line of JSON after each round of visits and then waits for a line, so that it can be looked at from outside.
 */
import childProcess from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { once } from 'node:events';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { LIMIT_NAMES, LIMITS, type Limits } from '../src/protocol/limits.ts';

export interface Order {
  readonly uid: number;
  readonly dir: string;
  readonly python: string;
  readonly workspaces: number;
  readonly rounds: number;
  readonly runsOfVisit: number;
  readonly memoryBytes: number;
}

export interface Visited {
  /** Milliseconds of the runs for which a zygote was started, and of those that found one. */
  readonly cold: readonly number[];
  readonly warm: readonly number[];
  readonly wrong: readonly string[];
}

const PAUSE_MS = 15;

// Before the import of what spawns: an import binds the names that it finds.
let started = 0;
const realSpawn = childProcess.spawn;
childProcess.spawn = ((...args: Parameters<typeof realSpawn>) => {
  started += 1;
  return realSpawn(...args);
}) as typeof realSpawn;
syncBuiltinESMExports();
const { ZygoteLauncher } = await import('../src/runner/launcher.ts');
const { environment } = await import('../src/runner/run.ts');
const { Workspace } = await import('../src/runner/workspace.ts');

const order = JSON.parse(process.argv[2] ?? '{}') as Order;
if (process.getuid?.() === 0) {
  process.setgroups?.([]);
  process.setgid?.(order.uid);
  process.setuid?.(order.uid);
}
const { python } = order;
const env = environment(python);
const limits = Object.fromEntries(LIMIT_NAMES.map((name) => [name, LIMITS[name].default])) as Limits;
const launcher = await ZygoteLauncher.create({
  ...{ python, env, cgroups: undefined, limits, pythonJit: false },
  warm: { on: true, preload: '', memoryBytes: order.memoryBytes, idleSeconds: 600 },
});
const workspaces = Array.from({ length: order.workspaces }, (_, number) => {
  const path = join(order.dir, `w${String(number)}`);
  mkdirSync(path);
  return new Workspace(path);
});

async function run(
  files: InstanceType<typeof Workspace>,
  round: Record<keyof Visited, unknown[]>,
): Promise<void> {
  const text = String(Math.random());
  let said = '';
  const hear = (data: Uint8Array) => {
    said += Buffer.from(data).toString();
  };
  const before = started;
  const began = performance.now();
  files.prepare();
  const script = { name: files.claim('run.py'), code: `print('${text}')` };
  const plan = {
    ...{
      workspace: { from: files.path, at: files.path },
      kind: 'python' as const,
      argv: [python, join(files.path, script.name)],
    },
    ...{ env, script, limits, writeXorExecute: true },
  };
  const end = await launcher.launch(0, plan, { stdout: hear, stderr: hear }).ended;
  files.release(script.name);
  const took = performance.now() - began;
  if (end.kind !== 'program' || end.exitCode !== 0 || said !== `${text}\n`) {
    round.wrong.push(`${JSON.stringify(end)} ${said}`);
  } else round[started === before ? 'warm' : 'cold'].push(took);
}

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
try {
  for (let number = 0; number < order.rounds; number += 1) {
    const round: Record<keyof Visited, unknown[]> = { cold: [], warm: [], wrong: [] };
    for (const workspace of workspaces) {
      for (let visit = 0; visit < order.runsOfVisit; visit += 1) {
        await run(workspace, round);
        await sleep(PAUSE_MS);
      }
    }
    if (!process.stdout.write(`${JSON.stringify(round)}\n`)) await once(process.stdout, 'drain');
    await answers.next();
  }
} finally {
  await launcher.close();
}
process.exit(0);
