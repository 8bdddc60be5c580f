import type { FastifyInstance } from 'fastify';
import type { Metrics } from '../metrics.ts';
import { requireScope } from '../principal.ts';

/** `GET /metrics`: the text format of Prometheus, for a token with the scope `admin`. */
export function metricsRoute(app: FastifyInstance, metrics: Metrics): void {
  app.get('/metrics', async (request, reply) => {
    requireScope(request, 'admin');
    return reply.type(metrics.contentType).send(await metrics.render());
  });
}
