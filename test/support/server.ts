/** Real servers for the tests: the compiled programs as processes of their own, on loopback. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export interface Server {
  readonly url: string;
  readonly token: string;
  readonly workspace: string;
  /** The processes: one for `make run`'s way, gateway and runner for the split one. */
  readonly processes: readonly ChildProcess[];
  /** Of a split server: starts one half anew, on the same files; it must have ended. */
  start(half: 'runner' | 'gateway'): Promise<Server>;
  /** What the processes have written to their logs. */
  log(): string;
  stop(): Promise<void>;
}

export interface ServerOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Gateway (`--jitless`, as it is deployed) and runner as two processes. */
  readonly split?: boolean;
}

export const TOKEN = 'test-token-0123456789';
/** The id that a server started as root takes on (NOX_RUN_UID's default). */
export const RUN_UID = process.getuid?.() === 0 ? 60_600 : (process.getuid?.() ?? 0);
/** As in the Makefile. */
const NODE_FLAGS = ['--max-semi-space-size=2', '--heap-growing-percent=100'];
const START_TIMEOUT_MS = 120_000;

const dist = (name: string): string => fileURLToPath(new URL(`../../dist/${name}`, import.meta.url));

/** A directory that the server's user can reach and write to. */
export async function makeDirectory(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'nox-test-'));
  await chmod(dir, 0o755);
  await mkdir(join(dir, 'sandbox'));
  for (const path of [dir, join(dir, 'sandbox')])
    if (process.getuid?.() === 0) await chown(path, RUN_UID, RUN_UID);
  return dir;
}

export async function startServer(options: ServerOptions = {}): Promise<Server> {
  const dir = await makeDirectory();
  const workspace = join(dir, 'sandbox');
  const env = {
    PATH: process.env['PATH'] ?? '',
    HOME: dir,
    NOX_API_TOKEN: TOKEN,
    NOX_SANDBOX: workspace,
    NOX_WORKSPACES: join(dir, 'workspaces'),
    NOX_STATE: join(dir, 'state'),
    NOX_PORT: '0',
    // Tests that end while runs are under way need not wait for them.
    NOX_STOP_GRACE: '0',
    NOX_RUNNER_SOCKET: join(dir, 'runner.sock'),
    ...options.env,
  };
  const children: ChildProcess[] = [];
  let log = '';
  const start = async (args: string[], ready: RegExp): Promise<RegExpExecArray> => {
    const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    children.push(child);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`the server did not start:\n${log}`));
      }, START_TIMEOUT_MS);
      const hear = (data: Buffer) => {
        log += data.toString();
        const match = ready.exec(log);
        if (match === null) return;
        clearTimeout(timer);
        resolve(match);
      };
      child.stdout.on('data', hear);
      child.stderr.on('data', hear);
      child.once('exit', () => {
        clearTimeout(timer);
        reject(new Error(`the server ended:\n${log}`));
      });
    });
  };
  const stop = async () => {
    await Promise.all(children.map(end));
    await rm(dir, { recursive: true, force: true });
  };
  const startRunner = () => start([...NODE_FLAGS, dist('runner/main.js')], /"msg":"listening"/);
  const startGateway = () =>
    start([...NODE_FLAGS, '--jitless', dist('gateway/main.js')], /"address":"(http:[^"]+)"/);
  const describe = (address: RegExpExecArray): Server => {
    const started = {
      url: address[1] ?? '',
      token: TOKEN,
      workspace,
      processes: children,
      log: () => log,
      stop,
    };
    return {
      ...started,
      start: async (half) => {
        // What it waits for is said again.
        log = '';
        if (half === 'gateway') return describe(await startGateway());
        await startRunner();
        return describe(address);
      },
    };
  };
  try {
    if (options.split !== true)
      return describe(await start([...NODE_FLAGS, dist('dev.js')], /Nox is listening on (\S+)/));
    await startRunner();
    return describe(await startGateway());
  } catch (error) {
    await stop();
    throw error;
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await exited;
  clearTimeout(timer);
}

/** A server for as long as it is used. */
export async function withServer(
  options: ServerOptions,
  use: (server: Server) => Promise<void>,
): Promise<void> {
  const server = await startServer(options);
  try {
    await use(server);
  } finally {
    await server.stop();
  }
}

/** Ends one half of a split server, where it has not ended, and starts it anew. */
export async function restart(
  server: Server,
  half: 'runner' | 'gateway',
  signal: NodeJS.Signals = 'SIGTERM',
): Promise<Server> {
  const child = server.processes.findLast(({ spawnargs }) =>
    spawnargs.some((each) => each.endsWith(`/${half}/main.js`)),
  );
  if (child !== undefined && child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }
  return server.start(half);
}

const EVENTUALLY_MS = 60_000;

/** Waits for what comes about by itself. */
export async function eventually(what: string, condition: () => Promise<boolean> | boolean): Promise<void> {
  for (const deadline = Date.now() + EVENTUALLY_MS; Date.now() < deadline;) {
    if (await condition()) return;
    await sleep(50);
  }
  throw new Error(`did not come about: ${what}`);
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}

export interface RunAnswer extends Answer {
  readonly body: { readonly returncode: number; readonly stdout: string; readonly stderr: string };
}

/** POSTs JSON with the token. */
export async function post(
  server: Server,
  path: string,
  body: unknown,
  signal?: AbortSignal,
): Promise<Answer> {
  const response = await fetch(`${server.url}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}` },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    body: JSON.parse(text) as Record<string, unknown>,
  };
}

export async function runPy(server: Server, code: string, more: object = {}): Promise<RunAnswer> {
  return (await post(server, '/run_py', { code, ...more })) as unknown as RunAnswer;
}

export async function runSh(server: Server, cmd: string | string[], more: object = {}): Promise<RunAnswer> {
  return (await post(server, '/run_sh', { cmd, ...more })) as unknown as RunAnswer;
}

export async function put(server: Server, path: string, content: string | Uint8Array): Promise<Answer> {
  const form = new FormData();
  form.set('f', new Blob([content as Uint8Array<ArrayBuffer>]), 'file');
  const response = await fetch(`${server.url}/put?path=${encodeURIComponent(path)}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}` },
    body: form,
  });
  return {
    status: response.status,
    headers: response.headers,
    body: (await response.json()) as Record<string, unknown>,
  };
}
