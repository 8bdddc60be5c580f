/**
 * WebSockets (RFC 6455): a request that asks for one goes through Fastify like any other, with all of its hooks, and its
 * handler takes the connection over.
 */
import { ServerResponse, type IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Socket } from 'node:net';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { WebSocketServer, type WebSocket } from 'ws';
import { NoxError } from '../protocol/errors.ts';

export const TERMINAL_PATH = '/v1/terminal';
/** What a server must say that was offered subprotocols; the token must not be said back. */
const SUBPROTOCOL = 'nox.terminal';
/** Browsers cannot send an `Authorization`: the token comes as a subprotocol. */
const BEARER = /^nox\.bearer\.(\S+)$/;
/** Of one message of a client. */
const MESSAGE_BYTES = 256 * 1024;

interface Upgrade {
  readonly socket: Duplex;
  readonly head: Buffer;
}

const upgrades = new WeakMap<IncomingMessage, Upgrade>();
const server = new WebSocketServer({
  ...{ noServer: true, clientTracking: false, perMessageDeflate: false, maxPayload: MESSAGE_BYTES },
  handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
});

/** Everything else that asks for another protocol is answered in this one. */
export function isTerminalUpgrade(request: IncomingMessage): boolean {
  return (
    request.method === 'GET' &&
    request.headers.upgrade?.toLowerCase() === 'websocket' &&
    request.url?.split('?')[0] === TERMINAL_PATH
  );
}

export function routeUpgrades(app: FastifyInstance): void {
  app.server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    socket.on('error', () => undefined);
    takeToken(request);
    upgrades.set(request, { socket, head });
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket);
    response.once('finish', () => {
      socket.end();
    });
    app.routing(request, response);
  });
}

/** From the subprotocols to where it is looked for; nothing behind this sees it elsewhere. */
function takeToken(request: IncomingMessage): void {
  const { headers } = request;
  const offered = (headers['sec-websocket-protocol'] ?? '').split(',').map((each) => each.trim());
  const [token] = offered.flatMap((each) => BEARER.exec(each)?.[1] ?? []);
  if (token === undefined) return;
  headers.authorization ??= `Bearer ${token}`;
  const rest = offered.filter((each) => !BEARER.test(each));
  if (rest.length === 0) delete headers['sec-websocket-protocol'];
  else headers['sec-websocket-protocol'] = rest.join(', ');
}

/**
 * Takes the connection over. The answer's `close` still comes when it ends.
 *
 * @throws NoxError `bad_request` for a request that asks for no WebSocket
 */
export async function toWebSocket(reply: FastifyReply): Promise<WebSocket> {
  const { raw } = reply.request;
  const upgrade = upgrades.get(raw);
  const { 'sec-websocket-key': key = '', 'sec-websocket-version': version } = raw.headers;
  if (upgrade === undefined || !/^[+/0-9A-Za-z]{22}==$/.test(key) || version !== '13')
    throw new NoxError('bad_request', `${TERMINAL_PATH} is a WebSocket (RFC 6455, version 13)`);
  reply.hijack();
  reply.request.ending.answered = true;
  void reply.code(101);
  return new Promise((resolve, reject) => {
    reply.raw.once('close', () => {
      reject(new NoxError('bad_request', 'It was no handshake that can be answered'));
    });
    // What it refuses beyond that it answers itself.
    const nameRequest = (headers: string[]) => headers.push(`x-request-id: ${reply.request.id}`);
    server.once('headers', nameRequest);
    server.handleUpgrade(raw, upgrade.socket, upgrade.head, resolve);
    server.off('headers', nameRequest);
  });
}
