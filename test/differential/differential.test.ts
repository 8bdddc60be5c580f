/**
 * Every program of cases.ts runs as a plain child process and through Nox, in each of the ways in which Nox makes a
 * process, and must print the same and end the same way. The README beside this file says how to add one.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { text } from 'node:stream/consumers';
import { after, before, describe, it, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startServer } from '../support/server.ts';
import { CASES, OPTIONS, PROGRAM_FILES, type Case } from './cases.ts';

const MINIMUM = 150;
const AT_ONCE = 3;
const SHOWN = 1500;
const PYTHON = '/usr/bin/python3';

/** What a run finds in its environment; nothing else may be there. */
const ENVIRONMENT = { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/tmp', LANG: 'C.UTF-8', TMPDIR: '/tmp' };

/** Root runs programs as this user, because the run's own user is never root either. */
const UNPRIVILEGED_UID = 60600;

const BARE = fileURLToPath(new URL('bare.py', import.meta.url));

interface Result {
  readonly returncode: number;
  readonly stdout: string;
  readonly stderr: string;
}

type Server = Awaited<ReturnType<typeof startServer>>;

/** How Nox makes the process: a copy of a warm interpreter, or a new one, asked for by request or by setting. */
type Way = 'warm' | 'fresh' | 'cold';
/** A command is executed in every way alike. */
const WAYS: Readonly<Record<Case['kind'], readonly Way[]>> = {
  python: ['warm', 'fresh', 'cold'],
  shell: ['warm'],
};

/** As long as the workspace's own path, so that the two sides may differ in nothing but its name. */
function directoryOfLength(length: number): string {
  const prefix = '/tmp/';
  const name = randomBytes(128)
    .toString('hex')
    .slice(0, length - prefix.length);
  assert.ok(
    name.length >= 8 && prefix.length + name.length === length,
    `unsuitable workspace path of ${length}`,
  );
  return prefix + name;
}

async function runBare(program: Case, workspace: string): Promise<Result> {
  const directory = directoryOfLength(workspace.length);
  const script = program.filename ?? 'run.py';
  const isPython = program.kind === 'python';
  const job = {
    directory,
    argv: isPython
      ? [PYTHON, `${directory}/${script}`, ...(program.args ?? [])]
      : ['bash', '-c', program.code],
    files: isPython ? { ...program.files, [script]: program.code } : { ...program.files },
    env: ENVIRONMENT,
    stdin: program.stdin ?? null,
    uid: process.getuid?.() === 0 ? UNPRIVILEGED_UID : null,
  };
  const child = spawn(PYTHON, ['-I', BARE], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: ENVIRONMENT,
  });
  child.stdin.end(JSON.stringify(job));
  const output = await text(child.stdout);
  assert.notEqual(output, '', 'bare.py failed: its traceback is on standard error');
  return named(JSON.parse(output) as Result, directory);
}

async function runThroughNox(program: Case, server: Server, way: Way): Promise<Result> {
  for (const [path, content] of Object.entries(program.files ?? {})) {
    const form = new FormData();
    form.set('f', new Blob([content]), 'file');
    await post(server, `/put?path=${encodeURIComponent(path)}`, form);
  }
  const { code, filename, args, stdin } = program;
  const fresh = way === 'fresh' ? true : undefined;
  const body =
    program.kind === 'python' ? { code, filename, args, stdin, fresh } : { cmd: ['bash', '-c', code], stdin };
  const answer = await post(server, program.kind === 'python' ? '/run_py' : '/run_sh', JSON.stringify(body));
  return named((await answer.json()) as Result, server.workspace);
}

async function post(server: Server, path: string, body: FormData | string): Promise<Response> {
  const headers: Record<string, string> = { authorization: `Bearer ${server.token}` };
  if (typeof body === 'string') headers['content-type'] = 'application/json';
  const answer = await fetch(server.url + path, { method: 'POST', headers, body });
  if (answer.status !== 200) throw new Error(`POST ${path}: ${answer.status} ${await answer.text()}`);
  return answer;
}

/** The directory's name is the one difference that is allowed, and addresses, which differ between two bare runs too. */
function named({ returncode, stdout, stderr }: Result, directory: string): Result {
  const rename = (output: string) =>
    output.replaceAll(directory, '<workspace>').replaceAll(/\b0x[0-9a-f]{9,16}\b/g, '<address>');
  return { returncode, stdout: rename(stdout), stderr: rename(stderr) };
}

/** A diff of megabytes takes minutes: this shows both sides from a little before the first difference on. */
function difference(bare: Result, nox: Result): string | undefined {
  const differing = (['returncode', 'stdout', 'stderr'] as const).filter((key) => bare[key] !== nox[key]);
  if (differing.length === 0) return undefined;
  const sections = (['returncode', 'stdout', 'stderr'] as const).map((key) => {
    const [left, right] = [String(bare[key]), String(nox[key])];
    if (left === right) return `${key}: the same: ${JSON.stringify(left.slice(-SHOWN))}`;
    let at = 0;
    while (at < left.length && left[at] === right[at]) at++;
    const show = (side: string) => JSON.stringify(side.slice(Math.max(0, at - 200), at + SHOWN));
    return `${key} differs at character ${at} (lengths ${left.length} and ${right.length})\n  bare: ${show(left)}\n  nox:  ${show(right)}`;
  });
  return sections.join('\n');
}

test('the corpus is whole', () => {
  const names = CASES.map((program) => program.name);
  assert.deepEqual(
    names.filter((name, index) => names.indexOf(name) !== index),
    [],
    'a program is listed twice',
  );
  assert.ok(CASES.length >= MINIMUM, `only ${CASES.length} programs`);
  assert.deepEqual(
    PROGRAM_FILES.filter((file) => !/^[a-z0-9-]+\.(py|sh)$/.test(file) || !names.includes(file)),
    [],
    'a file in programs/ is not used',
  );
  assert.deepEqual(
    Object.keys(OPTIONS).filter((file) => !PROGRAM_FILES.includes(file)),
    [],
    'options for a program that does not exist',
  );
  const paths = CASES.flatMap(({ filename, files }) => [
    ...(filename === undefined ? [] : [filename]),
    ...Object.keys(files ?? {}),
  ]);
  assert.equal(new Set(paths).size, paths.length, 'two programs put the same path');
});

/**
 * What is known to differ (docs/decisions/0008-warm-starts.md), by program. One that does not differ any more fails as
 * well: this list is to shrink.
 */
const KNOWN: Readonly<Record<string, { readonly ways: readonly Way[]; readonly why: string }>> = {
  'process-parent.py': {
    ways: ['warm', 'fresh', 'cold'],
    why: 'the parent of a run is outside of its pid namespace: getppid() is 0, as in a container',
  },
  'interpreter-gc.py': {
    ways: ['warm'],
    why: 'gc.get_objects() does not have what was loaded before the program',
  },
  'ending-del-in-container-of-stdlib-module': {
    ways: ['warm'],
    why: 'what is hung into an object of a module that was loaded before is not destroyed at the end',
  },
};

describe('bare and through Nox', { concurrency: AT_ONCE }, () => {
  let servers: Record<Way, Server>;
  before(async () => {
    const started = { env: { NOX_PYTHON: PYTHON } };
    const warm = await startServer(started);
    const cold = await startServer({ env: { ...started.env, NOX_WARM: 'off' } });
    servers = { warm, fresh: warm, cold };
  });
  after(async () => {
    await servers.warm.stop();
    await servers.cold.stop();
  });

  for (const program of CASES) {
    it(program.name, { timeout: 60_000 }, async () => {
      const bare = await runBare(program, servers.warm.workspace);
      const differences: string[] = [];
      for (const way of WAYS[program.kind]) {
        const message = difference(bare, await runThroughNox(program, servers[way], way));
        if (KNOWN[program.name]?.ways.includes(way) === true) {
          assert.notEqual(message, undefined, `${way}: no difference: take it out of KNOWN`);
        } else if (message !== undefined) differences.push(`${way}: ${message}`);
      }
      if (differences.length > 0) assert.fail(differences.join('\n'));
    });
  }
});
