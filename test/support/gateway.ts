/** A gateway without a socket and without a runner. */
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { buildGateway, type GatewayOptions } from '../../src/gateway/app.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { NOBODY } from './executor.ts';
import { TOKEN } from './server.ts';
import { DEFAULT_LIMITS } from '../../src/protocol/limits.ts';

export interface BareGateway {
  readonly app: FastifyInstance;
  readonly store: Store;
}

export async function bareGateway(options: Partial<GatewayOptions> = {}): Promise<BareGateway> {
  const log = pino({ level: 'silent' });
  const store = Store.open(':memory:', { runs: 1000, days: 1 }, log);
  const app = await buildGateway({
    executor: NOBODY,
    token: TOKEN,
    forbidden: ['rm'],
    maxBodyBytes: 64 * 1024,
    maxUploadBytes: 64 * 1024,
    limits: DEFAULT_LIMITS,
    ...{ state: '/dev/null', slots: 1, queueWaitSeconds: 1, backgroundQueue: 0 },
    keep: { outputBytes: 1, allOutputBytes: 1 },
    store,
    log,
    ...options,
  });
  return { app, store };
}
