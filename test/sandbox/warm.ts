/** What the attacks on warm runs share: the zygote from outside, hostile workspaces, what a run has used. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chownSync, lstatSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { runPy, RUN_UID, type RunAnswer, type Server } from '../support/server.ts';
import { inside, read, until } from './attack.ts';

export const children = (pid: number | undefined): number[] =>
  read(`/proc/${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number);

export function descendants(pid: number | undefined): number[] {
  const found = pid === undefined ? [] : [pid];
  for (const each of found)
    for (const task of tasks(each))
      found.push(...read(`/proc/${each}/task/${task}/children`).split(' ').filter(Boolean).map(Number));
  return found.slice(1);
}

function tasks(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/** Host pids of the bwrap of a server's zygote, and of the zygote that makes the cells. */
export async function zygoteOf(of: Server): Promise<{ bwrap: number; zygote: number }> {
  await inside(of, 'print(1)');
  let found: { bwrap: number; zygote: number } | undefined;
  await until('the zygote, an init and a program stand', () => {
    for (const bwrap of children(of.processes.at(0)?.pid)) {
      const [zygote] = children(bwrap);
      if (zygote !== undefined && children(zygote).length >= 2) found = { bwrap, zygote };
    }
    return found !== undefined;
  });
  assert.ok(found);
  return found;
}

export const isAlive = (pid: number): boolean => /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`));

export function own(path: string): void {
  if (process.getuid?.() === 0) chownSync(path, RUN_UID, RUN_UID);
}

/** Writes files as the server's user would have. */
export function plant(of: Server, files: Readonly<Record<string, string>>): void {
  for (const [name, text] of Object.entries(files)) {
    const path = join(of.workspace, name);
    for (let dir = dirname(path); !isThere(dir); dir = dirname(dir)) {
      mkdirSync(dir, { recursive: true });
      own(dir);
    }
    writeFileSync(path, text);
    own(path);
  }
}

export const isThere = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false }) !== undefined;

export function clean(of: Server): void {
  for (const name of readdirSync(of.workspace))
    rmSync(join(of.workspace, name), { recursive: true, force: true });
}

/** What the system's interpreter makes of a file of the workspace, without a server. */
export function bare(
  of: Server,
  name: string,
): { returncode: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync('/usr/bin/python3', [join(of.workspace, name)], {
    ...(process.getuid?.() === 0 ? { uid: RUN_UID, gid: RUN_UID } : {}),
    cwd: of.workspace,
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/tmp', LANG: 'C.UTF-8', TMPDIR: '/tmp' },
    encoding: 'utf8',
    timeout: 30_000,
  });
  return { returncode: status, stdout, stderr };
}

/** Runs the same code by the server and bare, as `name` of a workspace with these files. */
export async function assertAsBare(
  of: Server,
  files: Readonly<Record<string, string>>,
  code: string,
  name = 'run.py',
): Promise<void> {
  const forget = (text: string) => text.replaceAll(/0x[0-9a-f]{6,}/g, '0x');
  try {
    plant(of, files);
    const { body, status } = await runPy(of, code, name === 'run.py' ? {} : { filename: name });
    assert.equal(status, 200, JSON.stringify(body));
    for (const dir of ['__pycache__', join(dirname(name), '__pycache__')])
      if (!Object.keys(files).some((each) => each.startsWith(dir)))
        rmSync(join(of.workspace, dir), { recursive: true, force: true });
    plant(of, { [name]: code });
    const want = bare(of, name);
    assert.deepEqual(
      { ...body, stdout: forget(body.stdout), stderr: forget(body.stderr) },
      { ...want, stdout: forget(want.stdout), stderr: forget(want.stderr) },
    );
  } finally {
    clean(of);
  }
}

interface Usage {
  readonly wallSeconds: number;
  readonly userSeconds: number;
  readonly systemSeconds: number;
  readonly peakMemoryBytes: number;
  readonly peakProcesses: number;
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
}

const runLines = (of: Server): { outcome: string; usage: Usage }[] =>
  of
    .log()
    .split('\n')
    .filter((line) => line.includes('"msg":"run"'))
    .map((line) => JSON.parse(line) as { outcome: string; usage: Usage });

/** The line of the log that says what a run used. Nothing else may run there meanwhile. */
export async function logged(
  of: Server,
  run: () => Promise<RunAnswer>,
): Promise<{ answer: RunAnswer; usage: Usage; outcome: string }> {
  const had = runLines(of).length;
  const answer = await run();
  await until('the run is in the log', () => runLines(of).length > had, 3000);
  const line = runLines(of)[had];
  assert.ok(line);
  return { answer, ...line };
}
