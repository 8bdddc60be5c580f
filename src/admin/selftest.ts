/** All four calls, over HTTP, against the server that runs here; what they leave behind they take away again. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { reachedAt } from '../addresses.ts';
import type { Config } from '../config.ts';
import { RUNNER_USER } from './fact.ts';
import type { Host } from './host.ts';
import { VENV } from './venv.ts';

const READY_SECONDS = 30;
const CALL_SECONDS = 120;

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
    return { ok: response.status === 200, said: await response.text() };
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

  async put(path: string, text: string): Promise<string> {
    const form = new FormData();
    form.set('f', new Blob([text]), 'file');
    const response = await this.#fetch(`/put?path=${encodeURIComponent(path)}`, {
      method: 'POST',
      body: form,
    });
    return ((await json(response, '/put')) as { saved: string }).saved;
  }

  async run(call: string, body: object): Promise<Result> {
    const response = await this.#fetch(call, { method: 'POST', body: JSON.stringify(body) });
    return (await json(response, call)) as Result;
  }

  #fetch(path: string, init: RequestInit): Promise<Response> {
    return fetch(this.#base + path, {
      headers: this.#headers,
      signal: AbortSignal.timeout(CALL_SECONDS * 1000),
      ...init,
    });
  }
}

async function json(response: Response, call: string): Promise<unknown> {
  const text = await response.text();
  if (response.status !== 200)
    throw new Error(`self-test: ${call} is answered with ${String(response.status)}: ${text}`);
  return JSON.parse(text);
}

function expect(call: string, actual: unknown, wanted: unknown): void {
  if (JSON.stringify(actual) !== JSON.stringify(wanted))
    throw new Error(`self-test: ${call} gave ${JSON.stringify(actual)} instead of ${JSON.stringify(wanted)}`);
}
