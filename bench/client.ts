/** An HTTP client that costs little and holds little. */
import { Agent, request, type IncomingMessage } from 'node:http';
import type { Server } from '../test/support/server.ts';

const TIMEOUT_MS = 120_000;

export interface Reply {
  readonly status: number;
  readonly text: string;
  readonly ms: number;
}

export function keepAlive(): Agent {
  return new Agent({ keepAlive: true, maxSockets: Infinity });
}

export function open(
  server: Server,
  path: string,
  headers: Readonly<Record<string, string | number>>,
  agent?: Agent,
): { readonly call: ReturnType<typeof request>; readonly reply: Promise<IncomingMessage> } {
  const call = request(`${server.url}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, ...headers },
    agent: agent ?? new Agent(),
    timeout: TIMEOUT_MS,
  });
  call.setNoDelay(true);
  call.on('timeout', () => {
    call.destroy(new Error('no answer in time'));
  });
  const reply = new Promise<IncomingMessage>((resolve, reject) => {
    call.once('response', resolve);
    call.once('error', reject);
  });
  return { call, reply };
}

export async function post(server: Server, path: string, body: unknown, agent?: Agent): Promise<Reply> {
  const began = performance.now();
  const data = JSON.stringify(body);
  const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(data) };
  const { call, reply } = open(server, path, headers, agent);
  call.end(data);
  const response = await reply;
  const text = await readText(response);
  return { status: response.statusCode ?? 0, text, ms: performance.now() - began };
}

export async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
