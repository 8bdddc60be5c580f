/** Opens the gateway's port, and closes it in an orderly way. */
import type { FastifyInstance } from 'fastify';

/** @returns the address as a URL, with the port that was really taken */
export async function listen(app: FastifyInstance, host: string, port: number): Promise<string> {
  try {
    return await app.listen({ host, port });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const remedy: Record<string, string> = {
      EADDRINUSE: 'another program has this port; set NOX_PORT to a free one',
      EACCES: 'ports below 1024 need a privilege; set NOX_PORT to 1024 or more',
      EADDRNOTAVAIL: 'this machine has no such address; set NOX_BIND_ADDR to one of its own',
    };
    const reason = remedy[code ?? ''] ?? String(error);
    throw new Error(`cannot listen on ${host}:${String(port)}: ${reason}`, { cause: error });
  }
}
