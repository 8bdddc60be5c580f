/**
 * Libraries load parts of themselves at their first use. A server that gives up root may not be able to read its own
 * program afterwards (a clone in /root), so all of that must happen before: one of each kind of request is played
 * through, without a socket.
 */
import type { Logger } from 'pino';
import { NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import { DEFAULT_LIMITS } from '../protocol/limits.ts';
import { buildGateway } from './app.ts';
import { Metrics } from './metrics.ts';
import { Store } from './store/store.ts';

const refuse = () => Promise.reject(new NoxError('shutting_down', 'preload'));

const NOBODY: Executor = {
  run: () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) }),
  put: async (_request, body) => {
    for await (const chunk of body) if (chunk.length < 0) break;
    return refuse();
  },
  ask: refuse,
  send: refuse,
  fetch: refuse,
  health: () => Promise.resolve({ ok: true, status: 'ok' }),
  close: () => Promise.resolve(),
};

const TOKEN = '{"name":"x","scopes":["run"]}';

export async function preloadGateway(log: Logger): Promise<void> {
  const silent = log.child({}, { level: 'silent' });
  const store = Store.open(':memory:', { runs: 0, days: 0 }, silent);
  const metrics = new Metrics();
  const options = {
    ...{ token: 'preload', forbidden: [], maxBodyBytes: 1024, maxUploadBytes: 1024 },
    limits: DEFAULT_LIMITS,
    ...{
      state: '/dev/null',
      slots: 1,
      queueWaitSeconds: 1,
      backgroundQueue: 0,
      keep: { outputBytes: 1, allOutputBytes: 1 },
    },
  };
  const app = await buildGateway({ ...options, executor: NOBODY, store, metrics, log: silent });
  const headers = { authorization: 'Bearer preload' };
  const form = '--b\r\ncontent-disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n--b--\r\n';
  await app.inject({ url: '/health' });
  await app.inject({ url: '/nothing' });
  await app.inject({ url: '/metrics', headers });
  await app.inject({ method: 'POST', url: '/run_py', headers, payload: '{"code":""}' });
  await app.inject({ method: 'POST', url: '/run_sh', headers, payload: '{' });
  const multipart = { ...headers, 'content-type': 'multipart/form-data; boundary=b' };
  await app.inject({ method: 'POST', url: '/put?path=x', headers: multipart, payload: form });
  const { secret } = (await app.inject({ method: 'POST', url: '/v1/tokens', headers, payload: TOKEN })).json<{
    secret: string;
  }>();
  await app.inject({ url: '/v1/tokens/self', headers: { authorization: `Bearer ${secret}` } });
  await app.inject({ url: '/v1/tokens?limit=1', headers });
  for (const accept of ['application/json', 'text/event-stream'])
    await app.inject({
      ...{ method: 'POST', url: '/v1/runs', payload: '{"code":""}' },
      headers: { ...headers, accept },
    });
  await app.inject({ url: '/v1/runs?limit=1', headers });
  await app.close();
  store.close();
  metrics.close();
}
