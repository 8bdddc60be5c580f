import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import type { Metrics } from '../metrics.ts';
import { addRoute } from '../route.ts';

/** `GET /metrics`: the text format of Prometheus, for a token with the scope `admin`. */
export function metricsRoute(app: FastifyInstance, metrics: Metrics): void {
  addRoute(app, {
    method: 'GET',
    url: '/metrics',
    summary: 'Counters and gauges, in the text format of Prometheus',
    scope: 'admin',
    answers: { 200: Type.String({ contentMediaType: 'text/plain' }) },
    errors: [],
    handler: async ({ reply }) => reply.type(metrics.contentType).send(await metrics.render()),
  });
}
