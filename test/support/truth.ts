/**
 * For test/e2e/openapi.test.ts: a real server whose answers are held against its own OpenAPI document, and an account of
 * all that they brought about.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { WebSocket } from 'ws';
import { Metrics } from '../../src/gateway/metrics.ts';
import type { OpenApi } from '../../src/gateway/openapi.ts';
import { ERRORS, type ErrorCode } from '../../src/protocol/errors.ts';
import { bareGateway, type BareGateway } from './gateway.ts';
import { Contract, endpointsOf, mediaOf, type Endpoint, type Reply } from './openapi.ts';
import { startServer, TOKEN, type Server } from './server.ts';

export interface Ask {
  /** Another than the operation's. */
  readonly method?: string;
  readonly path?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly token?: string | null;
  /** Of another server. */
  readonly url?: string;
  /** Over a WebSocket. */
  readonly upgrade?: boolean;
}

let server: Server;
let contract: Contract;
export let endpoints: ReadonlyMap<string, Endpoint>;
/** `operation code`, `operation status type`, and `operation header`. */
const seen = new Set<string>();

export async function begin(env: Readonly<Record<string, string>>): Promise<void> {
  server = await startServer({ env });
  const document = (await (await fetch(`${server.url}/openapi.json`)).json()) as OpenApi;
  contract = new Contract(document);
  endpoints = new Map(endpointsOf(document).map((each) => [each.operation.operationId, each]));
}

export const end = (): Promise<void> => server.stop();

/** What is in the document, and no answer so far was. */
export function leftOut(): string[] {
  const all = [...endpoints].flatMap(([id, { operation }]) => [
    ...operation['x-nox-errors'].map((code) => `${id} ${code}`),
    ...Object.entries(operation.responses).flatMap(([status, { content, headers }]) => [
      ...(content === undefined ? [''] : Object.keys(content)).map((media) => `${id} ${status} ${media}`),
      ...(Number(status) < 400
        ? Object.keys(headers).filter((name) => !name.startsWith('ratelimit-'))
        : []
      ).map((name) => `${id} ${name}`),
    ]),
  ]);
  return [...new Set(all)].filter((each) => !seen.has(each)).sort();
}

export function endpointOf(id: string): Endpoint {
  const endpoint = endpoints.get(id);
  assert(endpoint !== undefined, `no operation ${id}`);
  return endpoint;
}

/** Holds an answer against the document, and remembers of what kind it was. */
export function note(id: string, reply: Reply, code?: ErrorCode): Reply {
  const endpoint = endpointOf(id);
  const where = `${id}: ${reply.status} ${reply.body.toString().slice(0, 500)}`;
  assert.equal(contract.fault(endpoint, reply), undefined, where);
  seen.add(`${id} ${reply.status} ${reply.body.length === 0 ? '' : String(mediaOf(reply.headers))}`);
  if (reply.status < 400) for (const name of Object.keys(reply.headers)) seen.add(`${id} ${name}`);
  if (endpoint.method === 'HEAD' && code !== undefined) {
    // Its status is all that it says.
    assert.equal(reply.status, ERRORS[code].status, where);
    seen.add(`${id} ${code}`);
    return reply;
  }
  const given =
    reply.body.length > 0 && mediaOf(reply.headers) === 'application/json'
      ? jsonOf(reply)['code']
      : undefined;
  if (code !== undefined) assert.equal(given, code, where);
  if (typeof given === 'string' && reply.status >= 400) {
    assert.equal(reply.status, ERRORS[given as ErrorCode].status, where);
    seen.add(`${id} ${given}`);
  }
  return reply;
}

export const jsonOf = ({ body }: Reply) => JSON.parse(body.toString()) as Record<string, unknown>;

function payloadOf(body: unknown): string | Buffer | undefined {
  return body === undefined || typeof body === 'string' || Buffer.isBuffer(body)
    ? body
    : JSON.stringify(body);
}

function headersOf({ headers = {}, token = TOKEN }: Ask): Record<string, string> {
  return { ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...headers };
}

/** A WebSocket that is closed as soon as it is open; or the answer in its place. */
async function upgrade(url: string, headers: Record<string, string>): Promise<Reply> {
  const socket = new WebSocket(url.replace('http', 'ws'), { headers });
  const answer = Promise.withResolvers<IncomingMessage>();
  socket.on('upgrade', answer.resolve).on('error', answer.reject);
  socket.on('unexpected-response', (_request, response) => {
    answer.resolve(response);
  });
  const response = await answer.promise;
  const given = Object.entries(response.headers).map(([name, value]) => [name, String(value)] as const);
  const reply = { status: response.statusCode ?? 0, headers: Object.fromEntries(given) };
  if (reply.status === 101) {
    socket.on('open', () => {
      socket.close();
    });
    await once(socket, 'close');
    return { ...reply, body: Buffer.alloc(0) };
  }
  const pieces: Buffer[] = [];
  for await (const piece of response) pieces.push(piece as Buffer);
  return { ...reply, body: Buffer.concat(pieces) };
}

/** To the real server. */
export async function send(id: string, ask: Ask = {}): Promise<Reply> {
  const { method, path } = endpointOf(id);
  if (ask.upgrade === true) return upgrade(`${server.url}${ask.path ?? path}`, headersOf(ask));
  const payload = payloadOf(ask.body);
  const stop = new AbortController();
  const response = await fetch(`${ask.url ?? server.url}${ask.path ?? path}`, {
    method: ask.method ?? method,
    headers: headersOf(ask),
    signal: stop.signal,
    ...(payload === undefined ? {} : { body: payload as string }),
  });
  // A watch has no end: its first event is enough.
  const endless = id === 'getWorkspacesIdWatch' && response.status === 200 && ask.method !== 'HEAD';
  const first = endless
    ? ((await response.body?.getReader().read())?.value as Uint8Array | undefined)
    : undefined;
  const body: Buffer = Buffer.from(
    endless ? (first ?? new Uint8Array()) : new Uint8Array(await response.arrayBuffer()),
  );
  if (endless) stop.abort();
  return { status: response.status, headers: Object.fromEntries(response.headers), body };
}

export const succeed = async (id: string, ask: Ask = {}): Promise<Reply> => {
  const reply = note(id, await send(id, ask));
  assert(reply.status < 400, `${id}: ${reply.status} ${reply.body.toString()}`);
  return reply;
};
export const refuse = async (id: string, code: ErrorCode, ask: Ask = {}) =>
  note(id, await send(id, ask), code);

/** To a gateway without a runner. */
export async function inject({ app }: BareGateway, id: string, ask: Ask = {}): Promise<Reply> {
  const { method, path } = endpointOf(id);
  const payload = payloadOf(ask.body);
  const response = await app.inject({
    method,
    url: ask.path ?? path,
    headers: headersOf(ask),
    ...(payload === undefined ? {} : { payload }),
  });
  const headers = Object.entries(response.headers).map(([name, value]) => [name, String(value)]);
  return {
    status: response.statusCode,
    headers: Object.fromEntries(headers) as Reply['headers'],
    body: response.rawPayload,
  };
}

export async function withGateway(
  options: Parameters<typeof bareGateway>[0],
  use: (gateway: BareGateway) => Promise<void>,
): Promise<void> {
  const gateway = await bareGateway({ metrics: new Metrics(), ...options });
  try {
    await use(gateway);
  } finally {
    await gateway.app.close();
    gateway.store.close();
  }
}

/** What is sent, as it is, and what comes back until the connection is closed. */
export async function raw(text: string): Promise<Reply> {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  let all = '';
  socket.on('data', (data) => (all += data.toString())).write(text);
  await once(socket, 'close');
  const [head = '', body = ''] = all.split('\r\n\r\n');
  const headers = head.split('\r\n').slice(1);
  const pairs = headers.map((line) => [line.split(':')[0]?.toLowerCase(), line.split(': ')[1]] as const);
  return {
    status: Number(head.split(' ')[1]),
    // It was no request yet: there is no id.
    headers: { 'x-request-id': 'none', ...(Object.fromEntries(pairs) as Record<string, string>) },
    // Node does not know yet which method it was; a client of HEAD reads no body.
    body: Buffer.from(text.startsWith('HEAD ') ? '' : body),
  };
}
