/** A client of `/v1` for the tests. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { eventually, type Server } from './server.ts';

export type Json = Record<string, unknown>;
export interface Answered {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Json;
}
export interface Event {
  readonly id: number;
  readonly type: string;
  readonly text?: string;
  readonly run?: Json;
}

export const NDJSON = { accept: 'application/x-ndjson' };

export async function call(
  on: Server,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answered> {
  const response = await fetch(`${on.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${on.token}`, ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    body: text === '' ? {} : (JSON.parse(text) as Json),
  };
}

export const run = (on: Server, body: unknown, headers: Record<string, string> = {}): Promise<Answered> =>
  call(on, 'POST', '/v1/runs', body, headers);
export const sh = (script: string, more: Json = {}): Json => ({ command: ['bash', '-c', script], ...more });
export const idOf = ({ body }: Answered): string => {
  assert.equal(typeof body['id'], 'string', JSON.stringify(body));
  return String(body['id']);
};
export const runsOf = ({ body }: Answered): Json[] => body['runs'] as Json[];

export async function ended(on: Server, id: string): Promise<Json> {
  let found: Json = {};
  await eventually(`the end of ${id}`, async () => {
    found = (await call(on, 'GET', `/v1/runs/${id}`)).body;
    return found['state'] === 'ended';
  });
  return found;
}

/** Raw, so that a test can stop reading, or go. */
export async function open(
  on: Server,
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: unknown,
): Promise<IncomingMessage> {
  const request = httpRequest(`${on.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${on.token}`, ...headers },
  });
  request.on('error', () => undefined);
  request.end(body === undefined ? undefined : JSON.stringify(body));
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  response.on('error', () => undefined);
  return response;
}

export async function* eventsOf(response: IncomingMessage): AsyncGenerator<Event> {
  let rest = '';
  response.setEncoding('utf8');
  for await (const chunk of response as AsyncIterable<string>) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) yield JSON.parse(line) as Event;
  }
}

export async function collect(response: IncomingMessage): Promise<Event[]> {
  const all: Event[] = [];
  for await (const event of eventsOf(response)) all.push(event);
  return all;
}

/** Processes of this machine that sleep for this long. */
export const sleeping = (seconds: string): number =>
  readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8') === `sleep\0${seconds}\0`;
    } catch {
      return false;
    }
  }).length;

/** Seconds that nobody else sleeps for. */
export const mark = (): string =>
  `${String(100_000 + (process.pid % 100_000))}.${String(Math.floor(Math.random() * 1e9))}`;
