/** Opens the gateway's port, and closes it in an orderly way. */
import { Server, type AddressInfo } from 'node:net';
import os from 'node:os';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';

/** @returns the address as a URL, with the port that was really taken */
export async function listen(app: FastifyInstance, host: string, port: number): Promise<string> {
  // Fastify would name all addresses of the machine in a log line of its own, which is off. Asking the kernel for them
  // takes a netlink socket, and nox-api.service has none.
  const { networkInterfaces } = os;
  os.networkInterfaces = () => ({});
  try {
    await app.listen({ host, port });
    const { address, family, port: taken } = app.server.address() as AddressInfo;
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${String(taken)}`;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const remedy: Record<string, string> = {
      EADDRINUSE: 'another program has this port; set NOX_PORT to a free one',
      EACCES: 'ports below 1024 need a privilege; set NOX_PORT to 1024 or more',
      EADDRNOTAVAIL: 'this machine has no such address; set NOX_BIND_ADDR to one of its own',
    };
    const reason = remedy[code ?? ''] ?? String(error);
    throw new Error(`cannot listen on ${host}:${String(port)}: ${reason}`, { cause: error });
  } finally {
    os.networkInterfaces = networkInterfaces;
  }
}

/** How long a client that has connected may take to send its request, when the port has been closed. */
const LATE_MS = 1000;

/**
 * Closes the port, then what is left. Who has connected before it was closed is refused by name as long as there is
 * time: a connection that breaks without an answer would leave its client in doubt whether the call was made.
 */
export async function unlisten(app: FastifyInstance): Promise<void> {
  await accepted(app);
  const late = new AbortController();
  const closed = new Promise<void>((resolve) => {
    // Not that of node:http, which ends connections that have sent nothing yet.
    Server.prototype.close.call(app.server, () => {
      resolve();
    });
  });
  await Promise.race([closed, sleep(LATE_MS, undefined, { signal: late.signal }).catch(() => undefined)]);
  late.abort();
  await app.close();
}

/**
 * Who waits to be accepted when a port is closed is cut off by the kernel: so all of them are accepted first. What
 * comes in the microseconds between is cut off all the same.
 */
async function accepted(app: FastifyInstance): Promise<void> {
  let came = true;
  const onConnection = () => {
    came = true;
  };
  app.server.on('connection', onConnection);
  for (const deadline = performance.now() + LATE_MS; came && performance.now() < deadline;) {
    came = false;
    // Of the event loop: what was waiting is accepted before it.
    await setImmediate();
  }
  app.server.off('connection', onConnection);
}
