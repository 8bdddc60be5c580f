import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import type { Executor } from '../../protocol/executor.ts';
import { closed, describeRoute } from '../route.ts';

/** `GET /health` and `HEAD`, without a token: 200 `{"status":"ok"}`, or 503 while no code can run. */
export function healthRoute(app: FastifyInstance, executor: Executor): void {
  describeRoute(app, {
    method: 'GET',
    url: '/health',
    summary: 'Whether code can run now',
    scope: 'none',
    head: true,
    answers: {
      200: closed({ status: Type.Literal('ok') }, { title: 'Healthy' }),
      503: closed({ status: Type.String({ description: 'Why not' }) }, { title: 'Unhealthy' }),
    },
    errors: ['bad_request'],
  });
  app.get('/health', async (_request, reply) => {
    const { ok, status } = await executor.health();
    return reply.code(ok ? 200 : 503).send({ status });
  });
}
