/** Errors that many operations share. */
import { describe, test } from 'node:test';
import { Metrics } from '../../../src/gateway/metrics.ts';
import type { Scope } from '../../../src/gateway/principal.ts';
import { NoxError, type ErrorCode } from '../../../src/protocol/errors.ts';
import type { Executor } from '../../../src/protocol/executor.ts';
import { NOBODY } from '../../support/executor.ts';
import { bareGateway } from '../../support/gateway.ts';
import { endpointOf, inject, note, raw, refuse, withGateway } from '../../support/truth.ts';
import { emptyOf, idsWith, makeToken, multipart, validOf } from './asks.ts';

const LARGE = 'x'.repeat(70_000);

export function sharedErrors(): void {
  describe('errors that many operations share', () => {
    test('unauthorized', async () => {
      for (const id of idsWith('unauthorized'))
        await refuse(id, 'unauthorized', { ...emptyOf(id), token: null });
    });

    test('forbidden: a token without the scope', async () => {
      const secrets = new Map<string, string>();
      for (const scope of ['run', 'files'] as const)
        secrets.set(scope, (await makeToken({ scopes: [scope] })).secret);
      for (const id of idsWith('forbidden')) {
        const needed = endpointOf(id).operation['x-nox-scope'] as Scope;
        const token = secrets.get(needed === 'run' ? 'files' : 'run') ?? '';
        await refuse(id, 'forbidden', { ...emptyOf(id), token });
      }
    });

    test('bad_request: a header that is none', async () => {
      for (const id of idsWith('bad_request')) {
        const { method } = endpointOf(id);
        const { path = endpointOf(id).path } = emptyOf(id);
        const text = `${method} ${path} HTTP/1.1\r\nhost: x\r\nno header\r\n\r\n`;
        note(id, await raw(text), 'bad_request');
      }
    });

    test('invalid_request: a query that the operation does not know, or no body that it takes', async () => {
      for (const id of idsWith('invalid_request')) {
        const { path = endpointOf(id).path, body } = emptyOf(id);
        const old = /^\/(put|run_)/.test(path);
        await refuse(
          id,
          'invalid_request',
          old ? { path, body: '[]' } : { path: `${path}${path.includes('?') ? '&' : '?'}nope=1`, body },
        );
      }
    });

    test('payload_too_large', async () => {
      for (const id of idsWith('payload_too_large')) {
        const { path = endpointOf(id).path } = emptyOf(id);
        const huge = multipart('f', 'x'.repeat(300_000));
        const json = { path, body: `"${path.includes('?') ? 'x'.repeat(200_000) : LARGE}"` };
        const ask = id === 'postPut' ? { ...huge, path: '/put?path=x' } : json;
        await refuse(id, 'payload_too_large', ask);
      }
    });

    test('shutting_down', async () => {
      await withGateway({}, async (gateway) => {
        await gateway.app.ready();
        await gateway.app.calls.stop(0);
        for (const id of idsWith('shutting_down'))
          note(id, await inject(gateway, id, emptyOf(id)), 'shutting_down');
        note('getHealth', await inject(gateway, 'getHealth'));
      });
    });

    test('internal: the state is gone, or a handler fails', async () => {
      const { app, store } = await bareGateway({ metrics: new Metrics() });
      const { secret } = store.tokens.create({
        ...{
          name: 'n',
          scopes: ['run', 'files'],
          runtimes: null,
          workspaces: null,
          expires: null,
          quotas: {},
        },
      });
      // What needs no token needs no state either.
      app.addHook('preHandler', (request, _reply, done) => {
        done(request.headers['x-fault'] === undefined ? undefined : new Error('a fault'));
      });
      await app.ready();
      store.close();
      for (const id of idsWith('internal')) {
        const open = endpointOf(id).operation['x-nox-scope'] === 'none';
        const ask = open ? { headers: { 'x-fault': '1' } } : { token: secret };
        note(id, await inject({ app, store }, id, { ...emptyOf(id), ...ask }), 'internal');
      }
      await app.close();
    });

    test('what only a machine in need can bring about, by a runner that says so', async () => {
      const codes = [
        'queue_full',
        'queue_timeout',
        'runner_unavailable',
        'sandbox_error',
        'workspace_conflict',
      ];
      for (const code of codes as ErrorCode[]) {
        const fail = () => Promise.reject(new NoxError(code, 'played'));
        const run = () => ({ [Symbol.asyncIterator]: () => ({ next: fail }) });
        const executor: Executor = { ...NOBODY, run, put: fail, ask: fail, send: fail, fetch: fail };
        await withGateway({ executor }, async (gateway) => {
          for (const id of idsWith(code)) note(id, await inject(gateway, id, await validOf(id)), code);
        });
      }
    });
  });
}
