/** Webhooks on a real server: delivered, tried again after a restart of the receiver, refused where they must not go. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { eventually, post, withServer } from '../support/server.ts';

const SECRET = 'a-secret-of-sixteen';

test('the end of a run is told, and told again where it was refused', async () => {
  const seen: { delivery: unknown; body: { id?: string; outcome?: string; stdout?: string } }[] = [];
  const receiver = createServer((request, response) => {
    let body = '';
    request.on('data', (piece: Buffer) => (body += piece.toString()));
    request.on('end', () => {
      seen.push({ delivery: request.headers['nox-delivery'], body: JSON.parse(body) as object });
      response.writeHead(seen.length === 1 ? 500 : 200).end();
    });
  }).listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  const url = `http://127.0.0.1:${String((receiver.address() as AddressInfo).port)}/`;
  const env = { NOX_WEBHOOK: 'on', NOX_WEBHOOK_ALLOW: '127.0.0.0/8' };
  try {
    await withServer({ split: true, env }, async (server) => {
      const run = { code: 'print(1)', background: true, webhook: { url, secret: SECRET } };
      const accepted = await post(server, '/v1/runs', run);
      assert.equal(accepted.status, 202, JSON.stringify(accepted.body));
      await eventually('two tries', () => seen.length === 2);
      assert.equal(seen[0]?.delivery, seen[1]?.delivery);
      assert.deepEqual(
        [seen[1]?.body.id, seen[1]?.body.outcome, seen[1]?.body.stdout],
        [accepted.body['id'], 'ok', undefined],
      );
      assert.ok(!server.log().includes(SECRET));
    });
  } finally {
    receiver.closeAllConnections();
    receiver.close();
  }
});

test('attack: to the local network; and none where they are off', async () => {
  await withServer({ env: { NOX_WEBHOOK: 'on' } }, async (server) => {
    for (const url of [
      'http://127.0.0.1:8080/',
      'http://169.254.169.254/',
      'http://0x7f.1/',
      'file:///etc/passwd',
    ]) {
      const run = { code: '', background: true, webhook: { url, secret: SECRET } };
      assert.equal((await post(server, '/v1/runs', run)).status, 422, url);
    }
    const waiting = { code: '', webhook: { url: 'https://example.com/', secret: SECRET } };
    assert.equal((await post(server, '/v1/runs', waiting)).status, 422);
  });
  await withServer({}, async (server) => {
    const run = { code: '', background: true, webhook: { url: 'https://example.com/', secret: SECRET } };
    const answer = await post(server, '/v1/runs', run);
    assert.match(String(answer.body['detail']), /NOX_WEBHOOK/);
  });
});
