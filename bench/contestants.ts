/** What /run_py is measured against: the same interpreter, bare and in the same bubblewrap sandbox without Nox. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { readEnvironment } from '../src/config.ts';
import { BWRAP, choosePython, readable, rootLinks, virtualEnvironment } from '../src/runner/host.ts';
import { ETC, OWN_ETC, sandboxArguments } from '../src/runner/sandbox.ts';
import { RUN_UID, type Server } from '../test/support/server.ts';
import { wireRequest } from './client.ts';

export const PYTHON = choosePython(readEnvironment()['NOX_PYTHON'] ?? '');
/** What a run finds in its environment, so that the interpreters have the same start. */
const ENV = { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/tmp', LANG: 'C.UTF-8', TMPDIR: '/tmp' };

interface Started {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly expect: string;
}
interface Asked {
  readonly host: string;
  readonly port: number;
  readonly request: string;
  readonly expect: string | RegExp;
  /** When the clock stops; at the end without it. */
  readonly until?: string;
}
export type Contestant = Started | Asked;

export interface Bench {
  readonly workspace: string;
  readonly bwrap: readonly string[];
  remove(): Promise<void>;
}

/** A workspace with `run.py` in it, and bwrap's arguments as Nox gives them. */
export async function makeReference(): Promise<Bench> {
  const dir = await mkdtemp(join(tmpdir(), 'nox-bench-'));
  const [workspace, etcDir] = [join(dir, 'sandbox'), join(dir, 'etc')];
  await chmod(dir, 0o755);
  for (const each of [workspace, etcDir]) await mkdir(each);
  await writeFile(join(workspace, 'run.py'), 'print(1)');
  for (const [name, text] of Object.entries(OWN_ETC)) await writeFile(join(etcDir, name), text);
  if (process.getuid?.() === 0) await chown(workspace, RUN_UID, RUN_UID);
  const venv = virtualEnvironment(PYTHON);
  const plan = {
    workspace: { from: workspace, at: workspace },
    etcDir,
    rootLinks: rootLinks(),
    etc: ETC.filter(readable),
    venv,
  };
  const bwrap = [BWRAP, ...withoutInit(sandboxArguments(plan)), '--chdir', workspace];
  return { workspace, bwrap, remove: () => rm(dir, { recursive: true, force: true }) };
}

/**
 * The same namespaces and mounts for a program that is started by bwrap itself: the zygote's capabilities and its
 * place as process 1 go, and the /tmp that a run has of its own comes from bwrap.
 */
function withoutInit(args: readonly string[]): string[] {
  const kept: string[] = [];
  for (let at = 0; at < args.length; at += 1) {
    const arg = args[at] ?? '';
    if (arg === '--as-pid-1') continue;
    if (arg === '--cap-add') at += 1;
    else if (arg === '--dir' && args[at + 1] === '/tmp') kept.push('--tmpfs');
    else kept.push(arg);
  }
  return kept;
}

export const started = (argv: readonly string[], expect: string): Started => ({ argv, env: ENV, expect });

function placeOf(server: Server): { host: string; port: number } {
  const { hostname: host, port } = new URL(server.url);
  return { host, port: Number(port) };
}

/** @param answer to be given as JSON, or what an answer is to match */
export function asked(server: Server, path: string, body: unknown, answer: unknown): Asked {
  const request = wireRequest(server, path, body);
  return { ...placeOf(server), request, expect: answer instanceof RegExp ? answer : JSON.stringify(answer) };
}

export function got(server: Server, path: string, expect: RegExp): Asked {
  return { ...placeOf(server), request: wireRequest(server, path), expect };
}

/** The answer is a stream of lines; the clock stops when `until` has come. */
export function streamed(server: Server, path: string, body: unknown, until: string, expect: RegExp): Asked {
  const request = wireRequest(server, path, body, { Accept: 'application/x-ndjson' });
  return { ...placeOf(server), request, expect, until };
}

interface Timed {
  /** By CLOCK_MONOTONIC, in milliseconds. */
  readonly began: number;
  readonly ended: number;
  readonly said: string;
}

/** The other end of starter.py. */
export class Starter {
  readonly #contestants: Readonly<Record<string, Contestant>>;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(contestants: Readonly<Record<string, Contestant>>) {
    this.#contestants = contestants;
    const script = fileURLToPath(new URL('./starter.py', import.meta.url));
    // Through a path that starts no wrapper, and without site: this process is to be small.
    const child = spawn('/usr/bin/python3', ['-I', '-S', script], {
      env: {},
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    child.stdin.on('error', () => undefined);
    child.stdin.write(`${JSON.stringify({ uid: RUN_UID, contestants })}\n`);
  }

  /** Whatever it answers. */
  async run(name: string): Promise<Timed> {
    this.#child.stdin?.write(`${name}\n`);
    const line = await this.#lines.next();
    if (line.done === true) throw new Error('the starter ended');
    const { began, ended, said } = JSON.parse(line.value) as Timed;
    return { began: began / 1e6, ended: ended / 1e6, said };
  }

  /** @returns milliseconds, or what was answered instead of what was expected */
  async time(name: string): Promise<number | { readonly wrong: string }> {
    const { began, ended, said } = await this.run(name);
    const expect = this.#contestants[name]?.expect ?? '';
    const right = typeof expect === 'string' ? said === expect : expect.test(said);
    return right && ended > 0 ? ended - began : { wrong: `${name}: ${said}` };
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.stdin?.end();
    await exited;
  }
}
