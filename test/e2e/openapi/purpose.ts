/** What each operation is for: every success, and every kind of it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { NOBODY } from '../../support/executor.ts';
import { mediaOf } from '../../support/openapi.ts';
import { endpoints, inject, jsonOf, note, refuse, send, succeed, withGateway } from '../../support/truth.ts';
import { cancelSleepers, makeWorkspace, onRun, onWorkspace, startRun, validOf } from './asks.ts';

export function purpose(): void {
  describe('what each operation is for', () => {
    test('every operation, asked rightly, answers as the document says', async () => {
      for (const id of endpoints.keys()) await succeed(id, await validOf(id));
      await cancelSleepers();
    });

    test('every example of a body works, every example of a parameter fits its schema', async () => {
      for (const [id, { operation }] of endpoints) {
        const examples = operation.requestBody?.content['application/json']?.examples ?? {};
        for (const { value } of Object.values(examples)) {
          const { path } = await validOf(id);
          const reply = await succeed(id, { ...(path === undefined ? {} : { path }), body: value });
          const { returncode, outcome } = jsonOf(reply);
          assert([undefined, 0].includes(returncode as number), reply.body.toString());
          assert([undefined, 'ok', null].includes(outcome as string), reply.body.toString());
        }
        for (const { name, schema, example } of operation.parameters ?? [])
          if (example !== undefined && typeof schema['pattern'] === 'string')
            assert.match(example as string, new RegExp(schema['pattern']), name);
      }
    });

    test('the other kinds of success', async () => {
      for (const id of ['getOpenapiJson', 'getDocs']) {
        const { headers } = await succeed(id);
        const again = await succeed(id, { headers: { 'if-none-match': String(headers['etag']) } });
        assert.equal(again.status, 304);
      }
      for (const accept of ['text/event-stream', 'application/x-ndjson']) {
        const headers = { accept };
        await succeed('postRuns', { body: { code: 'print("é")' }, headers });
        const id = await startRun({ code: 'import os; os.write(1, b"\\xff")', background: true });
        await succeed('getRunsIdEvents', { ...onRun(id, '/events'), headers });
      }
      await succeed('postRuns', {
        body: { code: 'print(1)' },
        headers: { accept: 'application/octet-stream' },
      });
      const key = { 'idempotency-key': 'truth-1' };
      const first = await succeed('postRuns', { body: { code: 'print(1)' }, headers: key });
      const second = await succeed('postRuns', { body: { code: 'print(1)' }, headers: key });
      assert.equal(jsonOf(first)['id'], jsonOf(second)['id']);
      const ended = await succeed('getRunsId', onRun(String(jsonOf(first)['id'])));
      assert.equal(ended.headers['nox-outcome'], 'ok');
      const compiled = { runtime: 'c', code: '#error no', workspace: 'default', changes: true };
      await succeed('postRuns', { body: compiled });
      await succeed('postRuns', { body: { command: ['no-such-program'], labels: { a: 'b' } } });
      await withGateway(
        { executor: { ...NOBODY, health: () => Promise.resolve({ ok: false, status: 'no sandbox' }) } },
        async (gateway) => {
          for (const id of ['getHealth', 'headHealth'])
            assert.equal(note(id, await inject(gateway, id)).status, 503);
        },
      );
    });

    test('HEAD is answered wherever GET is: its status and type, no body', async () => {
      for (const [id, { method }] of endpoints) {
        if (method !== 'GET') continue;
        const { path } = await validOf(id);
        const ask = path === undefined ? {} : { path };
        const [got, head] = [await send(id, ask), await send(id, { ...ask, method: 'HEAD' })];
        assert.deepEqual([head.status, mediaOf(head.headers)], [got.status, mediaOf(got.headers)], id);
        assert.equal(head.body.length, 0, id);
      }
    });

    test('streams of a batch', async () => {
      const body = { runs: [{ code: 'print("é")' }, { runtime: 'no-such', code: '' }] };
      for (const [accept, last] of [
        ['text/event-stream', 'event: end\ndata: {"end":true}\n\n'],
        ['application/x-ndjson', '{"end":true}\n'],
      ] as const) {
        const reply = await succeed('postBatch', { body, headers: { accept } });
        assert.equal(mediaOf(reply.headers), accept);
        assert(reply.body.toString().endsWith(last), reply.body.toString());
      }
    });

    test('a file: whole, in part, not again', async () => {
      const id = await makeWorkspace();
      const at = onWorkspace(id, '/files/content?path=f');
      const { headers: whole } = await succeed('getWorkspacesIdFilesContent', at);
      assert.match(String(whole['last-modified']), / GMT$/);
      assert.equal(whole['accept-ranges'], 'bytes');
      for (const each of ['getWorkspacesIdFilesContent', 'headWorkspacesIdFilesContent']) {
        const same = await succeed(each, { ...at, headers: { 'if-none-match': String(whole['etag']) } });
        assert.deepEqual([same.status, same.headers['etag']], [304, whole['etag']]);
      }
      const range = { range: 'bytes=1-2' };
      const part = await succeed('getWorkspacesIdFilesContent', { ...at, headers: range });
      assert.deepEqual(
        [part.status, part.headers['content-range'], part.body.toString()],
        [206, 'bytes 1-2/5', 'xx'],
      );
      // Of a HEAD a range means nothing.
      const head = await succeed('headWorkspacesIdFilesContent', { ...at, headers: range });
      assert.deepEqual([head.status, head.headers['content-length']], [200, '5']);
      await succeed('putWorkspacesIdFilesContent', { ...at, body: 'y' });
      // HEAD goes where GET goes: by a link to the file.
      const command = ['ln', '-s', 'f', 'link'];
      assert.equal(jsonOf(await succeed('postRuns', { body: { command, workspace: id } }))['outcome'], 'ok');
      const link = onWorkspace(id, '/files/content?path=link');
      for (const each of ['getWorkspacesIdFilesContent', 'headWorkspacesIdFilesContent'])
        assert.equal((await succeed(each, link)).headers['content-length'], '1');
      for (const each of ['getWorkspacesIdArchive', 'headWorkspacesIdArchive'])
        await refuse(each, 'invalid_path', onWorkspace(id, '/archive?path=f'));
    });

    test('files that are made by writing them, archives of both kinds', async () => {
      const id = await makeWorkspace();
      const append = onWorkspace(id, '/files/append?path=new');
      assert.equal((await succeed('postWorkspacesIdFilesAppend', { ...append, body: 'y' })).status, 201);
      for (const format of ['tar.gz', 'zip']) {
        const { body } = await succeed(
          'getWorkspacesIdArchive',
          onWorkspace(id, `/archive?format=${format}`),
        );
        const into = onWorkspace(id, `/archive?path=to-${format}&format=${format}`);
        const { entries } = jsonOf(await succeed('putWorkspacesIdArchive', { ...into, body }));
        assert((entries as number) >= 2);
      }
    });
  });
}
