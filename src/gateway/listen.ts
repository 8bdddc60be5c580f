/** Opens the gateway's port, and closes it in an orderly way. */
import type { AddressInfo } from 'node:net';
import os from 'node:os';
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
