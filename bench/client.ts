/** HTTP clients that cost little and hold little: they share two cores with what they measure. */
import { Agent, request, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import type { Server } from '../test/support/server.ts';

const TIMEOUT_MS = 120_000;

export interface Reply {
  readonly status: number;
  readonly text: string;
  readonly ms: number;
}

/**
 * A request as it goes over the wire, for a connection that is kept.
 *
 * @param body undefined: a GET
 */
export function wireRequest(
  server: Server,
  path: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): string {
  const text = body === undefined ? '' : JSON.stringify(body);
  const ofBody = { 'Content-Type': 'application/json', 'Content-Length': String(Buffer.byteLength(text)) };
  const all = {
    Host: new URL(server.url).host,
    Authorization: `Bearer ${server.token}`,
    ...headers,
    ...(body === undefined ? {} : ofBody),
  };
  const head = Object.entries(all).map(([name, value]) => `${name}: ${value}`);
  return `${[`${body === undefined ? 'GET' : 'POST'} ${path} HTTP/1.1`, ...head].join('\r\n')}\r\n\r\n${text}`;
}

/** A connection that is kept, for one request at a time, whose answers have a length. */
export class Connection {
  readonly #server: Server;
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #waiting: PromiseWithResolvers<Omit<Reply, 'ms'>> | undefined;

  constructor(server: Server) {
    this.#server = server;
    const { hostname, port } = new URL(server.url);
    this.#socket = connect({ host: hostname, port: Number(port), noDelay: true });
    this.#socket.setTimeout(TIMEOUT_MS, () => this.#socket.destroy(new Error('no answer in time')));
    this.#socket.on('error', (error) => this.#waiting?.reject(error));
    this.#socket.on('close', () => this.#waiting?.reject(new Error('the server closed the connection')));
    this.#socket.on('data', (data: Buffer) => {
      this.#received = Buffer.concat([this.#received, data]);
      this.#parse();
    });
  }

  async post(path: string, body: unknown): Promise<Reply> {
    const began = performance.now();
    this.#waiting = Promise.withResolvers();
    this.#socket.write(wireRequest(this.#server, path, body));
    const answer = await this.#waiting.promise;
    return { ...answer, ms: performance.now() - began };
  }

  close(): void {
    this.#waiting = undefined;
    this.#socket.destroy();
  }

  #parse(): void {
    const headEnd = this.#received.indexOf('\r\n\r\n');
    if (headEnd < 0) return;
    const head = this.#received.toString('latin1', 0, headEnd);
    const length = /^content-length: (\d+)/im.exec(head)?.[1];
    if (length === undefined) {
      this.#socket.destroy(new Error(`an answer without a length: ${head}`));
      return;
    }
    const end = headEnd + 4 + Number(length);
    if (this.#received.length < end) return;
    const text = this.#received.toString('utf8', headEnd + 4, end);
    this.#received = this.#received.subarray(end);
    this.#waiting?.resolve({ status: Number(head.slice(9, 12)), text });
  }
}

/** For bodies and answers of any size. */
export function open(
  server: Server,
  path: string,
  headers: Readonly<Record<string, string | number>>,
): { readonly call: ReturnType<typeof request>; readonly reply: Promise<IncomingMessage> } {
  const call = request(`${server.url}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, ...headers },
    agent: new Agent(),
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

export async function post(server: Server, path: string, body: unknown): Promise<Reply> {
  const began = performance.now();
  const data = JSON.stringify(body);
  const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(data) };
  const { call, reply } = open(server, path, headers);
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
