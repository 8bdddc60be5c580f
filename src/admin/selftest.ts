/** All four calls, over HTTP, against the server that runs here; what they leave behind they take away again. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { reachedAt } from '../addresses.ts';
import type { Config } from '../config.ts';
import { RUNNER_USER } from './fact.ts';
import type { Host } from './host.ts';
import { VENV } from './venv.ts';

const READY_SECONDS = 30;
export const CALL_SECONDS = 120;
const BODY_MAX = 1024 * 1024;
/** The error code (errors.ts) of a put into a full workspace. */
const FULL = 'workspace_full';

interface Result {
  readonly returncode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Where a client on this machine reaches the server. */
export function baseUrl({ bindAddress, port }: Pick<Config, 'bindAddress' | 'port'>): string {
  return `http://${reachedAt(bindAddress, port)}`;
}

/** @returns what /health says, or why it says nothing */
export async function health(config: Config): Promise<{ readonly ok: boolean; readonly said: string }> {
  try {
    const response = await fetch(`${baseUrl(config)}/health`, { signal: AbortSignal.timeout(5000) });
    return { ok: response.status === 200, said: await bounded(response) };
  } catch (error) {
    const { cause } = error as { cause?: Error };
    return { ok: false, said: cause?.message || (error as Error).message };
  }
}

/**
 * @returns a line for each call that was made
 * @throws Error naming the call that went wrong, what came and what should have come
 */
export async function selfTest(host: Host, config: Config): Promise<string[]> {
  const end = Date.now() + READY_SECONDS * 1000;
  for (let state = await health(config); !state.ok; state = await health(config)) {
    if (Date.now() > end) throw new Error(`self-test: GET /health: ${state.said}`);
    await sleep(250);
  }
  const client = new Client(baseUrl(config), config.token);
  const name = `.nox-selftest-${randomBytes(6).toString('hex')}`;
  const file = `${name}/hello.txt`;
  await client.refusesStrangers();
  const saved = await client.put(file, 'hello\n');
  if (saved === FULL) {
    // An answer as it should be: the workspace is its users' affair, and must not keep a program from being replaced.
    const shell = await client.run('/run_sh', { cmd: ['echo', 'hello'] });
    expect('/run_sh', shell, { returncode: 0, stdout: 'hello\n', stderr: '' });
    return ['self-test: /health and /run_sh answer as they should; the workspace is full'];
  }
  expect('PUT', saved, `${config.sandbox}/${file}`);
  try {
    const shell = await client.run('/run_sh', { cmd: ['cat', file] });
    expect('/run_sh', shell, { returncode: 0, stdout: 'hello\n', stderr: '' });
    const python = await client.run('/run_py', { code: PYTHON, args: [name] });
    expect('/run_py', python, { returncode: 0, stdout: `${VENV} hello\n`, stderr: '' });
  } catch (error) {
    // As the runs' own user: whatever a run has put in its place meanwhile, nothing is lost that a run could not lose.
    host.runAs(RUNNER_USER, 'nox', ['rm', '-rf', '--', `${config.sandbox}/${name}`]);
    throw error;
  }
  return ['self-test: /health, /put, /run_sh, /run_py answer as they should'];
}

const PYTHON = `import os, sys
place = sys.argv[1]
path = os.path.join(place, 'hello.txt')
with open(path) as file:
    print(sys.prefix, file.read(), end='')
os.remove(path)
os.rmdir(place)
`;

class Client {
  readonly #base: string;
  readonly #headers: Record<string, string>;

  constructor(base: string, token: string) {
    this.#base = base;
    this.#headers = { authorization: `Bearer ${token}` };
  }

  async refusesStrangers(): Promise<void> {
    const response = await this.#fetch('/run_py', { method: 'POST', body: '{"code":""}', headers: {} });
    if (response.status !== 401)
      throw new Error(
        `self-test: a call without a token is answered with ${String(response.status)} instead of 401`,
      );
  }

  async put(path: string, content: string): Promise<string> {
    const form = new FormData();
    form.set('f', new Blob([content]), 'file');
    const response = await this.#fetch(`/put?path=${encodeURIComponent(path)}`, {
      method: 'POST',
      body: form,
    });
    const text = await bounded(response);
    if (response.status === 413 && text.includes(`"${FULL}"`)) return FULL;
    return (parse(response, text, '/put') as { saved: string }).saved;
  }

  async run(call: string, body: object): Promise<Result> {
    const response = await this.#fetch(call, { method: 'POST', body: JSON.stringify(body) });
    return parse(response, await bounded(response), call) as Result;
  }

  #fetch(path: string, init: RequestInit): Promise<Response> {
    return fetch(this.#base + path, {
      headers: this.#headers,
      signal: AbortSignal.timeout(CALL_SECONDS * 1000),
      ...init,
    });
  }
}

/** The gateway may have been taken over: it must not fill our memory. */
export async function bounded(response: Response): Promise<string> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    size += piece.length;
    if (size > BODY_MAX) throw new Error(`an answer of more than ${String(BODY_MAX)} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

function parse(response: Response, text: string, call: string): unknown {
  if (response.status !== 200)
    throw new Error(`self-test: ${call} is answered with ${String(response.status)}: ${text}`);
  return JSON.parse(text);
}

function expect(call: string, actual: unknown, wanted: unknown): void {
  if (JSON.stringify(actual) !== JSON.stringify(wanted))
    throw new Error(`self-test: ${call} gave ${JSON.stringify(actual)} instead of ${JSON.stringify(wanted)}`);
}
