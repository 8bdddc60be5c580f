/** Errors of single operations, but those on files; and those of no operation. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ERRORS_OF_NO_ROUTE } from '../../../src/gateway/openapi.ts';
import { ERRORS, type ErrorCode } from '../../../src/protocol/errors.ts';
import type { Endpoint, Reply } from '../../support/openapi.ts';
import { TOKEN, withServer } from '../../support/server.ts';
import {
  endpointOf,
  endpoints,
  jsonOf,
  note,
  raw,
  refuse,
  send,
  succeed,
  type Ask,
} from '../../support/truth.ts';
import {
  cancelSleepers,
  emptyOf,
  FILE,
  idsWith,
  makeToken,
  multipart,
  onRun,
  startSleeper,
  validOf,
} from './asks.ts';

export function ownErrors(): void {
  describe('errors of their own', () => {
    test('quotas and rates', async () => {
      const { secret: rated } = await makeToken({ quotas: { runsPerMinute: 1 } });
      const { secret: small } = await makeToken({ quotas: { cpuSecondsPerDay: 1 } });
      const spin = { code: 'while True: pass' };
      await succeed('postRunPy', { body: spin, token: small });
      await succeed('postRunPy', { body: { code: '' }, token: rated });
      for (const id of ['postRunPy', 'postRunSh', 'postRuns', 'getTerminal']) {
        const ask = await validOf(id);
        await refuse(id, 'rate_limited', { ...ask, token: rated });
        await refuse(id, 'quota_exceeded', { ...ask, token: small });
      }
    });

    test('/run_py and /run_sh', async () => {
      await withServer({ env: { NOX_TIMEOUT: '1' } }, async ({ url }) => {
        await refuse('postRunPy', 'timeout', { url, body: { code: 'import time\ntime.sleep(600)' } });
        await refuse('postRunSh', 'timeout', { url, body: { cmd: 'sleep 600' } });
      });
      await refuse('postRunPy', 'invalid_path', { body: { code: '', filename: '../x' } });
      await refuse('postRunSh', 'empty_command', { body: { cmd: ' ' } });
      await refuse('postRunSh', 'forbidden_command', { body: { cmd: 'rm x' } });
      await refuse('postRunSh', 'unbalanced_quote', { body: { cmd: '"' } });
    });

    test('/put', async () => {
      await refuse('postPut', 'invalid_path', { ...FILE, path: '/put?path=..%2Fx' });
    });

    test('/v1/tokens', async () => {
      for (const id of idsWith('token_not_found')) await refuse(id, 'token_not_found', emptyOf(id));
    });

    test('/v1/runs', async () => {
      const body = { code: 'print(1)' };
      await refuse('postRuns', 'invalid_path', { body: { ...body, files: [{ path: '../x', text: '' }] } });
      await refuse('postRuns', 'unknown_runtime', { body: { ...body, runtime: 'no-such' } });
      await refuse('postRuns', 'workspace_not_found', { body: { ...body, workspace: 'no-such' } });
      const headers = { 'idempotency-key': 'truth-2' };
      await succeed('postRuns', { body, headers });
      await refuse('postRuns', 'idempotency_conflict', { body: { code: 'print(2)' }, headers });
      for (const id of idsWith('run_not_found')) await refuse(id, 'run_not_found', emptyOf(id));
      const ended = await startSleeper({ interactive: true });
      await cancelSleepers();
      for (const id of idsWith('run_ended')) {
        const path = endpointOf(id).path.replace('{id}', ended);
        await refuse(id, 'run_ended', { path, body: id === 'postRunsIdSignal' ? { signal: 'SIGTERM' } : {} });
      }
      const wrong = { ...onRun(ended, '/events'), headers: { 'last-event-id': '999999' } };
      await refuse('getRunsIdEvents', 'range_not_satisfiable', wrong);
    });

    test('input that a program does not read', async () => {
      const id = await startSleeper({ interactive: true });
      const fill = async (what: string, body: object): Promise<Reply> => {
        const operation = what === '/stdin' ? 'postRunsIdStdin' : 'postRunsIdSignal';
        for (let each = 0; each < 100; each += 1) {
          const reply = note(operation, await send(operation, { ...onRun(id, what), body }));
          if (reply.status === 429) return reply;
        }
        throw new Error(`${what} takes more than it should`);
      };
      for (const length of [60_000, 1000]) await fill('/stdin', { text: 'x'.repeat(length) });
      await fill('/signal', { signal: 'SIGWINCH' });
      await cancelSleepers();
    });

    test('workspace_full: to the brim', async () => {
      const fill = multipart('f', 'x'.repeat(41_000));
      const put = async (each: number) =>
        send('postPut', { ...fill, path: `/put?path=full/${String(each)}` });
      let each = 0;
      while ((await put(each)).status === 200) each += 1;
      const code = `# ${'x'.repeat(45_000)}`;
      const asks: Readonly<Record<string, Ask>> = {
        postPut: { ...multipart('f', code), path: '/put?path=f' },
        postRunPy: { body: { code, filename: 'kept.py' } },
        postRuns: { body: { code, entry: 'kept.py', workspace: 'default' } },
      };
      for (const id of Object.keys(asks)) await refuse(id, 'workspace_full', asks[id]);
      await succeed('postRunSh', { body: { cmd: ['bash', '-c', 'rm -r full'] } });
    });

    test('a method that a path does not take: Allow has those that it takes', async () => {
      for (const [id, { operation }] of endpoints) {
        const { path = endpointOf(id).path } = emptyOf(id);
        const isThere = (each: Endpoint) =>
          new RegExp(`^${each.path.replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(path.split('?')[0] ?? '');
        const methods = [...endpoints.values()].filter(isThere).map(({ method }) => method);
        const reply = await send(id, { path, method: 'OPTIONS' });
        const { allow = '' } = reply.headers;
        const expected = new Set(methods.flatMap((each) => (each === 'GET' ? [each, 'HEAD'] : [each])));
        assert.deepEqual(
          [reply.status, allow.split(', ').sort()],
          [405, [...expected].sort()],
          operation.summary,
        );
        assert.equal(jsonOf(reply)['code'], 'method_not_allowed');
      }
    });

    test('those of no operation', async () => {
      const head = `authorization: Bearer ${TOKEN}\r\nhost: x\r\nconnection: close\r\n`;
      const asks: Record<string, string> = {
        not_found: `GET /no HTTP/1.1\r\n${head}\r\n`,
        method_not_allowed: `PUT /run_py HTTP/1.1\r\n${head}\r\n`,
        headers_too_large: `GET /docs HTTP/1.1\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`,
      };
      for (const [code, text] of Object.entries(asks)) {
        const reply = await raw(text);
        assert.deepEqual([reply.status, jsonOf(reply)['code']], [ERRORS[code as ErrorCode].status, code]);
      }
      // Takes 20 s of silence: test/e2e/http.test.ts has its own.
      assert.deepEqual(
        ERRORS_OF_NO_ROUTE.filter((code) => asks[code] === undefined),
        ['request_timeout'],
      );
    });
  });
}
