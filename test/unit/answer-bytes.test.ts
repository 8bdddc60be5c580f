/** A download that fails: before its first byte it is an error like any other, behind it the answer is broken off. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Executor } from '../../src/protocol/executor.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import { bareGateway } from '../support/gateway.ts';
import { NOBODY } from '../support/executor.ts';
import { TOKEN } from '../support/server.ts';

const file = {
  ...{ path: 'f', name: 'f', type: 'file', size: 10, mode: '0644' },
  ...{ modified: '2026-01-01T00:00:00.000Z', etag: '"1"' },
};

/** Of a file of ten bytes so many come. */
async function* body(bytes: number): AsyncGenerator<Uint8Array> {
  await Promise.resolve();
  if (bytes > 0) yield Buffer.alloc(bytes, 'x');
  if (bytes < 10) throw new NoxError('workspace_conflict', 'A file became shorter while it was read');
}

async function download(bytes: number): Promise<Response> {
  const fetched = () => Promise.resolve({ answer: { file, start: 0, end: 10 }, body: body(bytes) });
  const { app, store } = await bareGateway({
    executor: { ...NOBODY, fetch: fetched as unknown as Executor['fetch'] },
  });
  try {
    const url = await app.listen({ port: 0, host: '127.0.0.1' });
    const response = await fetch(`${url}/v1/workspaces/default/files/content?path=f`, {
      headers: { authorization: `Bearer ${TOKEN}`, connection: 'close' },
    });
    return new Response(await response.text(), { status: response.status, headers: response.headers });
  } finally {
    await app.close();
    store.close();
  }
}

test('whole', async () => {
  const response = await download(10);
  assert.deepEqual([response.status, await response.text()], [200, 'x'.repeat(10)]);
});

test('before the first byte: the error, whole', async () => {
  const response = await download(0);
  assert.equal(response.status, 409);
  assert.equal(((await response.json()) as { code: string }).code, 'workspace_conflict');
});

test('behind it: broken off', async () => {
  await assert.rejects(download(3), /terminated/);
});
