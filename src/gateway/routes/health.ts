import type { FastifyInstance } from 'fastify';
import type { Executor } from '../../protocol/executor.ts';

/** `GET /health` and `HEAD`, without a token: 200 `{"status":"ok"}`, or 503 while no code can run. */
export function healthRoute(app: FastifyInstance, executor: Executor): void {
  app.get('/health', async (_request, reply) => {
    const { ok, status } = await executor.health();
    return reply.code(ok ? 200 : 503).send({ status });
  });
}
