/**
 * Where the time of one run goes: the runner's own launcher, watched from outside.
 *
 * A process of its own (started by breakdown.ts), because it becomes the user of the runs. What init says is heard
 * by listening in on the launcher's children; the program says itself when its first line ran (one clock for all:
 * CLOCK_MONOTONIC has no namespace here).
 */
import childProcess from 'node:child_process';
import { once } from 'node:events';
import { chownSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LIMIT_NAMES, LIMITS, type Limits } from '../src/protocol/limits.ts';
import { choosePython } from '../src/runner/host.ts';
import { parseArgs } from 'node:util';

type Mark = 'begin' | 'spawned' | 'hello' | 'started' | 'first' | 'output' | 'end' | 'exit' | 'ended';
export type Marks = Record<Mark, number>;

const now = (): number => Number(process.hrtime.bigint()) / 1e6;
const WARM_UP = 5;

let marks: Partial<Marks> = {};
const realSpawn = childProcess.spawn;
childProcess.spawn = ((...args: Parameters<typeof realSpawn>) => {
  const child = realSpawn(...args);
  const mine = marks;
  mine.spawned = now();
  child.stdio[3]?.on('data', (data: Buffer) => {
    for (const line of data.toString().split('\n')) {
      const [word = ''] = line.split(' ');
      if (word === 'hello' || word === 'started') mine[word] = now();
      else if (word !== '') mine.end = now();
    }
  });
  child.once('exit', () => {
    mine.exit = now();
  });
  return child;
}) as typeof realSpawn;
syncBuiltinESMExports();

const { values } = parseArgs({
  options: { uid: { type: 'string' }, rounds: { type: 'string' }, python: { type: 'string' } },
});
const uid = Number(values.uid);
const python = choosePython(values.python ?? '');
const dir = mkdtempSync(join(tmpdir(), 'nox-bench-floor-'));
const workspace = join(dir, 'sandbox');
mkdirSync(workspace);
// After the patch: an import binds the names that it finds.
const { ColdLauncher } = await import('../src/runner/launch.ts');
const { Workspace } = await import('../src/runner/workspace.ts');
if (process.getuid?.() === 0) {
  for (const path of [dir, workspace]) chownSync(path, uid, uid);
  process.setgroups?.([]);
  process.setgid?.(uid);
  process.setuid?.(uid);
}
const files = new Workspace(workspace);
const launcher = await ColdLauncher.create({ slots: 1, python, cgroup: false });
const limits = Object.fromEntries(LIMIT_NAMES.map((name) => [name, LIMITS[name].default])) as Limits;
const CODE = 'import time\nprint(time.monotonic_ns())\n';

async function one(): Promise<Marks> {
  marks = { begin: now() };
  const mine = marks;
  let said = '';
  const script = { name: files.claim('run.py'), code: CODE };
  const launched = launcher.launch(
    0,
    {
      workspace,
      argv: [python, `${workspace}/${script.name}`],
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/tmp', LANG: 'C.UTF-8', TMPDIR: '/tmp' },
      script,
      limits,
      writeXorExecute: true,
    },
    {
      stdout: (data) => {
        mine.output ??= now();
        said += Buffer.from(data).toString();
      },
      stderr: (data) => {
        said += Buffer.from(data).toString();
      },
    },
  );
  const end = await launched.ended;
  files.release(script.name);
  mine.ended = now();
  if (end.kind !== 'program' || end.exitCode !== 0) throw new Error(`${JSON.stringify(end)} ${said}`);
  mine.first = Number(said) / 1e6;
  return mine as Marks;
}

try {
  const all: Marks[] = [];
  for (let round = -WARM_UP; round < Number(values.rounds); round += 1) {
    const found = await one();
    if (round >= 0) all.push(found);
  }
  if (!process.stdout.write(`${JSON.stringify(all)}\n`)) await once(process.stdout, 'drain');
} finally {
  await launcher.close();
  rmSync(dir, { recursive: true, force: true });
}
