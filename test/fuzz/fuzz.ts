/**
 * Sends requests of test/fuzz/requests.ts to a real server, several at a time, and holds every answer against the
 * document; then looks whether the server is as it was before.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OpenApi } from '../../src/gateway/openapi.ts';
import { ERRORS_OF_NO_ROUTE } from '../../src/gateway/openapi.ts';
import { ERRORS, isErrorCode, type ErrorCode } from '../../src/protocol/errors.ts';
import { Contract, endpointsOf, mediaOf, type Endpoint, type Reply } from '../support/openapi.ts';
import { eventually, runPy, startServer, type Server } from '../support/server.ts';
import { kindOf, Requests, type FuzzRequest } from './requests.ts';

export interface FuzzOptions {
  readonly requests: number;
  readonly seed: number;
  readonly connections: number;
}

export interface FuzzReport {
  readonly faults: readonly string[];
  /** Status → how often. */
  readonly answers: ReadonlyMap<number, number>;
  /** Operations that succeeded at least once. */
  readonly succeeded: ReadonlySet<string>;
  readonly operations: readonly string[];
}

/** Everything small, so that each bound is reached and every run is short. */
const SETTINGS = {
  ...{ NOX_TIMEOUT: '1', NOX_MAX_CPU: '2', NOX_MAX_BODY: '65536', NOX_MAX_UPLOAD: '65536' },
  ...{ NOX_MAX_WORKSPACE: '8388608', NOX_MAX_OUTPUT: '4096', NOX_QUEUE: '8', NOX_BACKGROUND_QUEUE: '8' },
  ...{ NOX_WARM_IDLE: '1', NOX_MAX_FILE_SIZE: '1048576', NOX_MAX_PROCESSES: '16' },
  ...{ NOX_KEEP_OUTPUT: '65536', NOX_KEEP_OUTPUT_ALL: '16777216' },
};
/** A run takes a second at most, and waits for at most those in the queue. */
const DEADLINE_MS = 60_000;
/** Of a stream that has no end of its own: what comes in this time is looked at. */
const LISTEN_MS = 200;
/** Of each kind, the newest. */
const KNOWN_IDS = 30;
const FAULTS_MAX = 50;
/** What a process may have more at the end: files than when it was idle, bytes than after the first tenth. */
const MORE_FILES = 16;
const MORE_BYTES = 160 * 2 ** 20;

export async function fuzz(options: FuzzOptions): Promise<FuzzReport> {
  const server = await startServer({ split: true, env: SETTINGS });
  try {
    return await new Fuzzer(server, options).run();
  } finally {
    await server.stop();
  }
}

class Fuzzer {
  readonly #server: Server;
  readonly #options: FuzzOptions;
  readonly #agent: Agent;
  readonly #faults: string[] = [];
  readonly #answers = new Map<number, number>();
  readonly #succeeded = new Set<string>();
  readonly #known = new Map<string, string[]>();
  /** Those that the fuzzer itself lives on. */
  readonly #own = new Set<string>();
  #sent = 0;

  constructor(server: Server, options: FuzzOptions) {
    this.#server = server;
    this.#options = options;
    this.#agent = new Agent({ keepAlive: true, maxSockets: options.connections });
  }

  async run(): Promise<FuzzReport> {
    const { requests: total, seed, connections } = this.#options;
    const document = (await (await fetch(`${this.#server.url}/openapi.json`)).json()) as OpenApi;
    const contract = new Contract(document);
    const endpoints = endpointsOf(document);
    const requests = new Requests(endpoints, contract, await this.#tokens());
    await runPy(this.#server, '');
    const idle = this.#descendants();
    const files = this.#sizes().map((size) => size.files);
    let bytes: readonly number[] = [];
    const work = async () => {
      while (this.#sent < total && this.#faults.length < FAULTS_MAX) {
        this.#sent += 1;
        if (this.#sent === Math.ceil(total / 10)) bytes = this.#sizes().map((size) => size.bytes);
        const own = seed * 1_000_003 + this.#sent;
        const request = requests.make(own, this.#known);
        await this.#judge(request, contract, own);
      }
    };
    await Promise.all(Array.from({ length: connections }, work));
    this.#agent.destroy();
    await this.#aftermath(files, bytes, idle);
    return {
      faults: this.#faults,
      answers: this.#answers,
      succeeded: this.#succeeded,
      operations: endpoints.map(({ operation }) => operation.operationId),
    };
  }

  async #tokens(): Promise<string[]> {
    const rights = [
      { scopes: ['run'] },
      { scopes: ['files'] },
      { scopes: ['run', 'files'], workspaces: ['other'], runtimes: ['python'] },
      { scopes: ['run'], quotas: { runsPerMinute: 5, concurrentRuns: 1 } },
    ];
    const secrets: string[] = [this.#server.token];
    for (const each of rights) {
      const response = await fetch(`${this.#server.url}/v1/tokens`, {
        method: 'POST',
        headers: { authorization: `Bearer ${this.#server.token}` },
        body: JSON.stringify({ name: 'fuzzer', ...each }),
      });
      const { id, secret } = (await response.json()) as { id: string; secret: string };
      this.#own.add(id);
      secrets.push(secret);
    }
    return secrets;
  }

  async #judge(request: FuzzRequest, contract: Contract, seed: number): Promise<void> {
    const fault = (what: string) => {
      const { method, target, headers, body, raw } = request;
      const sent = raw?.toString('latin1') ?? `${JSON.stringify(headers)} ${body?.toString() ?? ''}`;
      this.#faults.push(
        `${what}\n  ${method} ${target.slice(0, 300)} ${JSON.stringify(sent.slice(0, 1000))} (own seed ${seed})`,
      );
    };
    let reply: Reply | undefined;
    try {
      reply = await (request.raw === undefined ? this.#send(request) : this.#sendRaw(request.raw));
    } catch (error) {
      fault(`no answer: ${(error as Error).message}`);
      if (this.#server.processes.some(({ exitCode, signalCode }) => exitCode !== null || signalCode !== null))
        throw new Error(`the server ended: ${this.#faults.join('\n')}\n${this.#server.log().slice(-5000)}`, {
          cause: error,
        });
      return;
    }
    // To what is no request a server may say nothing at all.
    if (reply === undefined) return;
    this.#answers.set(reply.status, (this.#answers.get(reply.status) ?? 0) + 1);
    const text = reply.body.toString();
    const told = this.#told(reply);
    if (told !== undefined) fault(`tells ${told}: ${text.slice(0, 300)}`);
    const code = codeOf(reply);
    if (reply.status >= 500 && reply.status !== 503) fault(`${reply.status}: ${text.slice(0, 300)}`);
    const { endpoint, method, raw } = request;
    if (reply.status === 101) this.#succeeded.add(endpoint.operation.operationId);
    if (raw === undefined && method === 'HEAD' && text !== '') fault('a HEAD with a body');
    const allow = reply.headers['allow']?.split(', ') ?? [];
    if (
      raw === undefined &&
      reply.status === 405 &&
      (allow.includes(method) || !allow.includes(endpoint.method))
    )
      fault(`405, and Allow is ${allow.join(', ')}`);
    const wire = raw !== undefined || method !== endpoint.method;
    if (isErrorCode(code) && reply.status !== ERRORS[code].status) fault(`${code} with ${reply.status}`);
    // Of an answer to HEAD the status is all that there is to see.
    const noRoute = (each: ErrorCode) =>
      each === code || (method === 'HEAD' && reply.status === ERRORS[each].status);
    if (ERRORS_OF_NO_ROUTE.some(noRoute) || (wire && (code === 'bad_request' || code === 'unauthorized')))
      return;
    if (wire) return;
    const wrong = contract.fault(endpoint, reply);
    if (wrong !== undefined) fault(`${reply.status}: ${wrong}`);
    if (reply.status < 300) this.#succeeded.add(endpoint.operation.operationId);
    this.#learn(request, reply);
  }

  #send({ endpoint, method, target, headers, body }: FuzzRequest): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const request = httpRequest(
        `${this.#server.url}/`,
        {
          agent: this.#agent,
          method,
          path: target,
          headers: framed(headers, body),
          signal: AbortSignal.timeout(DEADLINE_MS),
        },
        (response) => {
          const chunks: Buffer[] = [];
          const done = () => {
            const pairs = Object.entries(response.headers).map(([name, value]) => [name, String(value)]);
            resolve({
              status: response.statusCode ?? 0,
              headers: Object.fromEntries(pairs) as Reply['headers'],
              body: Buffer.concat(chunks),
            });
          };
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('error', reject);
          response.on('end', done);
          if (response.statusCode === 200 && isEndless(endpoint))
            setTimeout(() => {
              done();
              request.destroy();
            }, LISTEN_MS);
        },
      );
      request.on('error', reject);
      request.end(body);
    });
  }

  /** @returns undefined: nothing came back */
  #sendRaw(bytes: Buffer): Promise<Reply | undefined> {
    return new Promise((resolve, reject) => {
      const { hostname, port } = new URL(this.#server.url);
      const socket = connect(Number(port), hostname);
      let all = '';
      // A body that never comes is the client's fault: half a close tells the server so.
      const half = setTimeout(() => socket.end(), 300);
      const late = setTimeout(() => {
        socket.destroy();
        reject(new Error('the connection stays open'));
      }, DEADLINE_MS);
      socket.on('data', (data) => (all += data.toString('latin1')));
      socket.on('error', () => undefined);
      socket.on('close', () => {
        clearTimeout(half);
        clearTimeout(late);
        const [head = '', body = ''] = all.replace(/^HTTP\/1.1 100 [^]*?\r\n\r\n/, '').split('\r\n\r\n');
        const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1] ?? 0);
        resolve(status === 0 ? undefined : { status, headers: {}, body: Buffer.from(body) });
      });
      socket.write(bytes);
    });
  }

  /** Ids of what was made, and ETags, to be used again. */
  #learn({ endpoint: { path }, target }: FuzzRequest, { status, headers, body }: Reply): void {
    if (status >= 300) return;
    if (headers['etag'] !== undefined) this.#know('etags', headers['etag']);
    if (mediaOf(headers) !== 'application/json' || body.length === 0) return;
    const { id, state } = JSON.parse(body.toString()) as { id?: unknown; state?: unknown };
    if (typeof id !== 'string' || this.#own.has(id) || id === 'admin') return;
    if (path.endsWith('/snapshots')) {
      this.#know('snapshots', `${target.split('/')[3] ?? ''}/snapshots/${id}`);
      return;
    }
    this.#know(kindOf(path), id);
    if (state === 'queued' || state === 'running') this.#know('live', id);
  }

  #know(kind: string, what: string): void {
    const known = this.#known.get(kind) ?? [];
    this.#known.set(kind, [...known.filter((each) => each !== what), what].slice(-KNOWN_IDS));
  }

  /** What no client is to see: where the server's program and state are, and how it is called inside. */
  #told({ status, headers, body }: Reply): string | undefined {
    const text = body.toString();
    const inside = [join(this.#server.workspace, '..', 'state'), join(process.cwd(), 'dist')];
    // The trace of a client's own program is the client's.
    const ran = status < 400 || headers['nox-outcome'] !== undefined;
    const trace = ran ? undefined : /node:internal|(\n|\\n) +at .+:\d+:\d+/.exec(text)?.[0];
    return inside.find((each) => text.includes(each)) ?? trace;
  }

  #sizes(): readonly Size[] {
    return this.#server.processes.map(({ pid }) => sizeOf(pid ?? 0));
  }

  /** What Nox was writing, in every workspace and snapshot. */
  #unfinished(): string[] {
    const dir = join(this.#server.workspace, '..');
    // What goes while it is listed is not left, whatever find(1) says of it.
    const { stdout } = spawnSync('/usr/bin/find', [dir, '-name', '.nox-*'], { encoding: 'latin1' });
    return stdout.split('\n').filter((path) => /\/\.nox-[0-9a-f]{24}\.(tmp|redo)$/.test(path));
  }

  #descendants(): number {
    return descendantsOf(process.pid).length;
  }

  async #aftermath(files: readonly number[], bytes: readonly number[], idle: number): Promise<void> {
    for (const id of this.#known.get('runs') ?? [])
      await fetch(`${this.#server.url}/v1/runs/${id}/cancel`, {
        method: 'POST',
        headers: { authorization: `Bearer ${this.#server.token}` },
      }).then((response) => response.arrayBuffer());
    // One warm interpreter, at most, is there as it was when idle.
    await this.#expect('the processes of runs end', () => this.#descendants() <= idle);
    for (const [index, name] of ['runner', 'gateway'].entries()) {
      const now = () => this.#sizes()[index] ?? { files: Infinity, bytes: Infinity };
      const [few = 0, small = 0] = [files[index], bytes[index]];
      await this.#expect(
        `the ${name} closes its files (${few} before, ${now().files} now)`,
        () => now().files <= few + MORE_FILES,
      );
      await this.#expect(
        `the ${name} keeps its memory (${small} bytes before, ${now().bytes} now)`,
        () => now().bytes <= small + MORE_BYTES,
      );
    }
    await this.#expect('no unfinished file is left', () => this.#unfinished().length === 0);
    for (const path of this.#unfinished()) this.#faults.push(`left behind: ${path}`);
    await this.#expect('the server still runs code', async () => {
      await sleep(100);
      return (await runPy(this.#server, 'print(6 * 7)')).body.stdout === '42\n';
    });
    const errors = this.#server
      .log()
      .split('\n')
      .filter((line) => /"level":(50|60)/.test(line));
    for (const line of new Set(errors.slice(0, 10))) this.#faults.push(`in the log: ${line.slice(0, 500)}`);
  }

  async #expect(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    await eventually(what, condition).catch((error: unknown) => this.#faults.push((error as Error).message));
  }
}

/** Without an event that is the last. */
function isEndless({ operation }: Endpoint): boolean {
  const stream = operation.responses['200']?.content?.['text/event-stream'];
  return stream !== undefined && operation.operationId.endsWith('Watch');
}

/** Node's client frames no body of a GET by itself. */
function framed(headers: FuzzRequest['headers'], body: Buffer | undefined): Record<string, string> {
  return body === undefined ? { ...headers } : { ...headers, 'content-length': String(body.length) };
}

function codeOf({ body }: Reply): unknown {
  try {
    const value = JSON.parse(body.toString()) as { code?: unknown } | null;
    return value?.code;
  } catch {
    return undefined;
  }
}

interface Size {
  readonly files: number;
  readonly bytes: number;
}

/** Of a process: its descriptors, and its resident memory (proc_pid_status(5)). */
function sizeOf(pid: number): Size {
  const [, kib = '0'] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return { files: readdirSync(`/proc/${pid}/fd`).length, bytes: Number(kib) * 1024 };
}

function descendantsOf(pid: number): number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((task) => {
    try {
      return readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8')
        .split(' ')
        .filter(Boolean)
        .map(Number);
    } catch {
      return [];
    }
  });
  return children.flatMap((child) => {
    try {
      return [child, ...descendantsOf(child)];
    } catch {
      return [];
    }
  });
}
