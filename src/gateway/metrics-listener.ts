/** The separate address for metrics: `GET /metrics`, nothing else, and no token. Meant for loopback or a private network. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { Metrics } from './metrics.ts';

const TIMEOUT_MS = 10_000;
const CONNECTIONS_MAX = 32;

/**
 * @param address `host:port`; an IPv6 address in brackets
 * @returns the server, which listens
 * @throws Error with the remedy
 */
export async function listenForMetrics(metrics: Metrics, address: string): Promise<Server> {
  const colon = address.lastIndexOf(':');
  const host = address.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  const server = createServer(
    { headersTimeout: TIMEOUT_MS, requestTimeout: TIMEOUT_MS, maxHeaderSize: 8192 },
    (request, response) => {
      request.resume();
      const known = request.url?.split('?')[0] === '/metrics';
      if (!known || (request.method !== 'GET' && request.method !== 'HEAD')) {
        response.writeHead(known ? 405 : 404, known ? { allow: 'GET, HEAD' } : {}).end();
        return;
      }
      metrics.render().then(
        (text) => response.writeHead(200, { 'content-type': metrics.contentType }).end(text),
        () => response.writeHead(500).end(),
      );
    },
  );
  server.maxConnections = CONNECTIONS_MAX;
  server.timeout = TIMEOUT_MS;
  server.listen(Number(address.slice(colon + 1)), host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    const { message } = cause as Error;
    throw new Error(
      `NOX_METRICS_ADDR: cannot listen on ${address} (${message}): take a free port of an address that this machine has`,
      { cause },
    );
  }
  return server;
}
