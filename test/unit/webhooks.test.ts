/** Webhooks cannot be turned against the local network: the attacks, one by one. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { pino } from 'pino';
import { Store } from '../../src/gateway/store/store.ts';
import { Webhooks } from '../../src/gateway/webhooks/deliver.ts';
import { send, signatureOf } from '../../src/gateway/webhooks/send.ts';
import { WebhookTargets } from '../../src/gateway/webhooks/target.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import { eventually } from '../support/server.ts';

const never = () => Promise.reject(new Error('asked for a name'));
const DELIVERY = { id: 'whd_1', run: 'run_1', secret: 's', body: '{"é":1}' };

test('addresses of this machine and its network, in every notation', () => {
  const targets = new WebhookTargets([], never);
  for (const host of [
    ...['127.0.0.1', '127.1', '2130706433', '0x7f000001', '0177.0.0.1', '0x7f.1', '127.0.0.1.'],
    ...['0.0.0.0', '0', '10.0.0.1', '100.64.0.1', '169.254.169.254', '172.31.255.255', '192.168.0.1'],
    ...['192.0.2.1', '198.18.0.1', '224.0.0.1', '255.255.255.255', '１２７.0.0.1'],
    ...[
      '[::1]',
      '[::]',
      '[::ffff:127.0.0.1]',
      '[::ffff:7f00:1]',
      '[::ffff:169.254.169.254]',
      '[::127.0.0.1]',
    ],
    ...['[fe80::1]', '[fc00::1]', '[fd00:ec2::254]', '[ff02::1]', '[64:ff9b::7f00:1]', '[64:ff9b:1::a00:1]'],
    ...['[2002:7f00:1::]', '[2001::1]', '[2001:db8::1]', '[3fff::1]', '[fec0::1]', '[100::1]'],
  ])
    for (const scheme of ['http', 'https'])
      assert.throws(() => targets.check(`${scheme}://${host}/x`), /not of the public network/, host);
  for (const host of ['8.8.8.8', '1.1.1.1', '[2606:4700::1111]', 'example.com'])
    assert.equal(targets.check(`https://${host}/x`).protocol, 'https:');
});

test('other schemes, users, ports of other services', () => {
  const targets = new WebhookTargets([], never);
  for (const url of [
    ...['file:///etc/passwd', 'gopher://8.8.8.8/', 'ftp://8.8.8.8/', 'data:,x', '//8.8.8.8/', '', 'https://'],
    ...['https://a@8.8.8.8/', 'https://a:b@8.8.8.8/', 'https://8.8.8.8:25/', 'http://8.8.8.8:22/'],
  ])
    assert.throws(() => targets.check(url), { code: 'invalid_request' }, url);
});

test('a name is checked with all of its addresses, each time anew', async () => {
  const answers = [['8.8.8.8'], ['127.0.0.1'], ['8.8.8.8', '::ffff:10.0.0.1'], ['fe80::1%eth0'], []];
  const targets = new WebhookTargets([], () =>
    Promise.resolve((answers.shift() ?? []).map((address) => ({ address, family: 0 }))),
  );
  assert.equal((await targets.resolve('https://rebinding.test/')).address, '8.8.8.8');
  for (let left = answers.length; left > 0; left -= 1)
    await assert.rejects(targets.resolve('https://rebinding.test/'), { code: 'invalid_request' });
});

async function withTarget(answer: RequestListener, use: (port: number) => Promise<void>): Promise<void> {
  const server = createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    await use((server.address() as AddressInfo).port);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test('the connection goes to the address that was checked, with the name as its host; it is signed', async () => {
  let asked = 0;
  const targets = new WebhookTargets(['127.0.0.0/8'], () => {
    asked += 1;
    return Promise.resolve([{ address: '127.0.0.1', family: 4 }]);
  });
  const seen: { headers: NodeJS.Dict<string | string[]>; body: string }[] = [];
  await withTarget(
    (request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (piece: string) => (body += piece));
      request.on('end', () => {
        seen.push({ headers: request.headers, body });
        response.writeHead(204).end();
      });
    },
    async (port) => {
      const target = await targets.resolve(`http://name.invalid:${String(port)}/hook`);
      assert.equal(await send(target, DELIVERY), 204);
      assert.equal(asked, 1);
      const { headers, body } = seen[0] ?? { headers: {}, body: '' };
      assert.equal(headers['host'], `name.invalid:${String(port)}`);
      assert.deepEqual(
        [headers['nox-delivery'], headers['nox-run-id'], body],
        ['whd_1', 'run_1', DELIVERY.body],
      );
      const [, t = '', v1] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(String(headers['nox-signature'])) ?? [];
      assert.equal(createHmac('sha256', 's').update(`${t}.${body}`).digest('hex'), v1);
    },
  );
  assert.match(signatureOf('s', 'b', 1999), /^t=1,/);
});

test('redirects are not followed; endless and slow answers cost nothing', async () => {
  const targets = new WebhookTargets(['127.0.0.0/8'], never);
  const at = (port: number) => targets.resolve(`http://127.0.0.1:${String(port)}/`);
  let calls = 0;
  await withTarget(
    (_request, response) => {
      calls += 1;
      response.writeHead(307, { location: '/again' }).end();
    },
    async (port) => {
      assert.equal(await send(await at(port), DELIVERY), 307);
      assert.equal(calls, 1);
    },
  );
  await withTarget(
    (_request, response) => {
      response.writeHead(200);
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536)));
        if (!response.destroyed) response.once('drain', more);
      };
      more();
    },
    async (port) => {
      assert.equal(await send(await at(port), DELIVERY), 200);
    },
  );
  await withTarget(
    () => undefined,
    async (port) => {
      await assert.rejects(send(await at(port), DELIVERY, 200));
    },
  );
});

test('what was delivered is not delivered again while a full disk keeps that from being noted', async () => {
  const log = pino({ level: 'silent' });
  const store = Store.open(':memory:', { runs: 1000, days: 1 }, log);
  const run = { id: 'run_1', token: 'x', runtime: 'x', workspace: undefined, requestId: 'x' };
  store.runs.insert({ ...run, state: 'running' });
  store.runs.finish('run_1', { outcome: 'ok' });
  let calls = 0;
  let refused = 0;
  const { webhooks } = store;
  const remove = webhooks.remove.bind(webhooks);
  const full = () => {
    refused += 1;
    throw new NoxError('internal', 'full');
  };
  Object.assign(webhooks, { remove: full, later: full });
  await withTarget(
    (_request, response) => {
      calls += 1;
      response.writeHead(204).end();
    },
    async (port) => {
      webhooks.add({ id: 'whd_1', run: 'run_1', url: `http://127.0.0.1:${String(port)}/`, secret: 's' });
      const delivery = new Webhooks(store, new WebhookTargets(['127.0.0.0/8'], never), log);
      await eventually('it could not be noted, again and again', () => refused >= 3);
      Object.assign(webhooks, { remove });
      await eventually('it is noted', () => webhooks.due(8).length === 0);
      assert.equal(calls, 1);
      delivery.stop();
    },
  );
  store.close();
});
