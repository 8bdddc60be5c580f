/**
 * What the attacks share. An attack is a program that does its worst and prints what it got; the test looks at that
 * and at the host. `outside` runs the same program as the server's own user without a sandbox: what works there and
 * not inside is held by the sandbox and by nothing else.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { currentArch, loadSyscalls } from '../../src/runner/seccomp/profile.ts';
import { RUN_UID, runPy, type Server } from '../support/server.ts';

/** The stdout of a program that is expected to come to its own end, with exit code 0. */
export async function inside(server: Server, code: string, more: object = {}): Promise<string> {
  const { status, body } = await runPy(server, code, more);
  assert.equal(status, 200, JSON.stringify(body));
  assert.equal(body.returncode, 0, `exit code ${String(body.returncode)}: ${body.stdout}${body.stderr}`);
  return body.stdout.trim();
}

/** What the program prints as JSON. */
export async function loot(server: Server, code: string, more: object = {}): Promise<unknown> {
  return JSON.parse(await inside(server, code, more));
}

const PYTHON = '/usr/bin/python3';
const user = process.getuid?.() === 0 ? { uid: RUN_UID, gid: RUN_UID } : {};

/** The same without a sandbox. */
export function outside(code: string): string {
  const { status, stdout, stderr } = spawnSync(PYTHON, ['-c', code], {
    ...user,
    cwd: '/',
    env: { PATH: '/usr/bin:/bin' },
    encoding: 'utf8',
    timeout: 20_000,
  });
  assert.equal(status, 0, `outside: ${stdout}${stderr}`);
  return stdout.trim();
}

/** As Python's literal: JSON's strings, numbers and lists are Python's too. */
export const py = (value: unknown): string => JSON.stringify(value);

/**
 * `call('name', …)` makes a raw system call and gives the name of its error, or `ok`. Bytes are passed by their
 * address. Numbers are those of this machine; `nr` is there for those who change them.
 */
export const SYSCALL = `
import ctypes, errno, json, os, sys
NR = json.loads('''${JSON.stringify(loadSyscalls()[currentArch()])}''')
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def nr(number, *args):
    ctypes.set_errno(0)
    r = libc.syscall(ctypes.c_long(number), *[a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in args])
    return errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno()) if r == -1 else 'ok'
def call(name, *args): return nr(NR[name], *args)
`;

/** Polls until it holds; never sleeps for luck. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  ms = 10_000,
): Promise<void> {
  const deadline = performance.now() + ms;
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, `not within ${String(ms)} ms: ${what}`);
    await sleep(20);
  }
}

/** Host pids of all processes that have `marker` in their command line, zombies and dying ones excluded. */
export function alive(marker: string): number[] {
  return pids().filter((pid) => read(`/proc/${String(pid)}/cmdline`).includes(marker));
}

/** Prints in which pid namespace a run is and when that began, by which the host finds all that is alive of it. */
export const NAMESPACE = `import os; print(os.readlink('/proc/self/ns/pid'), open('/proc/1/stat').read().rsplit(')')[1].split()[19], flush=True)`;
/** The same for the shell. */
export const SAY_NAMESPACE = 'echo $(readlink /proc/self/ns/pid) $(cut -d" " -f22 /proc/1/stat)';

/**
 * Host pids of all processes that a run has made: not of process 1, which is Nox's own and ends a moment later. The
 * kernel gives the name of a namespace that is gone to the next one: its process 1 is younger.
 */
export function aliveIn(output: string): number[] {
  const said = /^(pid:\[\d+\]) (\d+)$/m.exec(output);
  assert.ok(said !== null, `no namespace in ${output}`);
  const found = pids().filter((pid) => {
    try {
      return readlinkSync(`/proc/${String(pid)}/ns/pid`) === said[1];
    } catch {
      return false;
    }
  });
  const init = found.find((pid) => /^NSpid:.*\t1$/m.test(read(`/proc/${String(pid)}/status`)));
  const began = read(`/proc/${String(init)}/stat`)
    .split(') ')
    .at(-1)
    ?.split(' ')[19];
  return began === undefined || began === said[2] ? found.filter((pid) => pid !== init) : [];
}

export const childrenOf = (pid: number | undefined): number[] =>
  read(`/proc/${String(pid)}/task/${String(pid)}/children`)
    .split(' ')
    .filter(Boolean)
    .map(Number);

function pids(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid);
}

export function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

let serial = 0;
/** A number that no other process of this machine sleeps for. */
export function uniqueSeconds(): string {
  serial += 1;
  return `${String(100_000 + process.pid)}.${String(serial)}${String(Date.now() % 100_000).padStart(5, '0')}`;
}

/** /health within its second, and a run that works: what every attack must leave behind. */
export async function assertHealthy(server: Server): Promise<void> {
  // The machine may stand still once.
  const took: number[] = [];
  do {
    const began = performance.now();
    const response = await fetch(`${server.url}/health`);
    assert.equal(response.status, 200);
    assert.deepEqual(await response.json(), { status: 'ok' });
    took.push(performance.now() - began);
  } while (took.length < 3 && Math.min(...took) >= 1000);
  assert.ok(Math.min(...took) < 1000, `/health took ${took.map(Math.round).join(', ')} ms`);
  assert.equal(await inside(server, 'print(6 * 7)'), '42');
}

export const outcome = (answer: { readonly headers: Headers }): string | null =>
  answer.headers.get('nox-outcome');
