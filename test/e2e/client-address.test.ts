/** Attacks on the client's address in log and audit file: only a trusted proxy's X-Forwarded-For may change it. */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { parseConfig } from '../../src/config.ts';
import { buildGateway } from '../../src/gateway/app.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { trustOf } from '../../src/gateway/client-address.ts';
import { NOBODY } from '../support/executor.ts';
import { post, startServer, type Server } from '../support/server.ts';
import { until } from '../support/tools.ts';
import { DEFAULT_LIMITS } from '../../src/protocol/limits.ts';

interface Line {
  readonly client: string;
  readonly who: string;
  readonly route: string;
  readonly status: number;
}

/** What the audit file says of one refused request that a peer sends with these headers. */
async function audited(
  trustedProxy: string[],
  headers: Record<string, string | string[]>,
  host: '127.0.0.1' | '::1' | '::' = '127.0.0.1',
): Promise<Line & { readonly answered: number }> {
  const lines: Line[] = [];
  const audit = { write: (entry: object) => void lines.push(entry as Line) };
  const log = pino({ level: 'silent' });
  const options = {
    executor: NOBODY,
    token: 'secret',
    forbidden: [],
    maxBodyBytes: 1024,
    maxUploadBytes: 1024,
    limits: DEFAULT_LIMITS,
    ...{
      state: '/dev/null',
      slots: 1,
      queueWaitSeconds: 1,
      backgroundQueue: 0,
      keep: { outputBytes: 1, allOutputBytes: 1 },
    },
    store: Store.open(':memory:', { runs: 0, days: 0 }, log),
  };
  const app = await buildGateway({ ...options, trustedProxy, audit, log });
  await app.listen({ host, port: 0 });
  try {
    const { port } = app.server.address() as { port: number };
    const answered = await new Promise<number>((resolve, reject) => {
      const to = host === '::' ? '127.0.0.1' : host;
      const call = request({ host: to, port, path: '/run_py', method: 'POST', headers, agent: false });
      call.on('error', reject);
      call.on('response', (response) => {
        response.resume();
        response.on('end', () => resolve(response.statusCode ?? 0));
      });
      call.end('{}');
    });
    const [line] = lines;
    return { client: '', who: '', route: '', status: 0, ...line, answered };
  } finally {
    await app.close();
  }
}

const forwarded = (value: string) => ({ 'x-forwarded-for': value });

describe('X-Forwarded-For', () => {
  test('a forged one from an untrusted peer counts for nothing', async () => {
    for (const trusted of [[], ['10.0.0.0/8'], ['::1'], ['127.0.0.2/31']])
      assert.equal((await audited(trusted, forwarded('203.0.113.9'))).client, '127.0.0.1');
  });

  test('from a trusted peer it is the client', async () => {
    for (const trusted of [['127.0.0.1'], ['127.0.0.0/8'], ['::1', '127.0.0.1']])
      assert.equal((await audited(trusted, forwarded('203.0.113.9'))).client, '203.0.113.9');
  });

  test('several hops: the last one that no trusted proxy is; what a client wrote before it is not believed', async () => {
    const trusted = ['127.0.0.1', '10.0.0.0/8'];
    const client = async (value: string) => (await audited(trusted, forwarded(value))).client;
    assert.equal(await client('198.51.100.1, 203.0.113.9, 10.1.2.3'), '203.0.113.9');
    assert.equal(await client('127.0.0.1, 203.0.113.9'), '203.0.113.9');
    assert.equal(await client('10.9.9.9, 10.1.2.3'), '10.9.9.9');
  });

  test('two headers are one list', async () => {
    const headers = { 'x-forwarded-for': ['198.51.100.1', '203.0.113.9'] };
    assert.equal((await audited(['127.0.0.1'], headers)).client, '203.0.113.9');
  });

  for (const garbage of [
    ...['', ',', ' , ,', 'unknown', 'localhost', '"evil"', '{"client":"x"}', '_hidden', '1.2.3', '1.2.3.4.5'],
    ...['127.1', '0x7f.1', '2130706433', '0177.0.0.1', '1.2.3.4:80', '[::1]', '[2001:db8::1]:80', '::1%lo'],
    ...['fe80::1%evil', '256.0.0.1', '1.2.3.4/8', '1.2.3.4;rm', '\u00e9', 'a'.repeat(9000), ','.repeat(9000)],
  ]) {
    test(`garbage ${JSON.stringify(garbage.slice(0, 20))} of ${garbage.length} characters leaves the proxy’s address`, async () => {
      const line = await audited(['127.0.0.1'], forwarded(garbage));
      assert.deepEqual([line.client, line.answered], ['127.0.0.1', 401]);
    });
  }

  test('garbage behind a good hop hides nothing of what a proxy saw', async () => {
    const { client } = await audited(['127.0.0.1', '10.0.0.1'], forwarded('203.0.113.9, garbage, 10.0.0.1'));
    assert.equal(client, '10.0.0.1');
  });

  test('a thousand trusted hops are walked in no time', async () => {
    const started = performance.now();
    const { client } = await audited(['127.0.0.0/8'], forwarded(`203.0.113.9${',127.0.0.1'.repeat(1500)}`));
    assert.equal(client, '203.0.113.9');
    assert(performance.now() - started < 2000);
  });

  test('headers beyond 16 KiB are refused before anything is made of them', async () => {
    const { answered, client } = await audited(['127.0.0.1'], forwarded('1.2.3.4,'.repeat(4000)));
    assert.deepEqual([answered, client], [431, '']);
  });

  test('IPv6: peer, block and client', async () => {
    const headers = forwarded('2001:db8::9');
    assert.equal((await audited(['::1'], headers, '::1')).client, '2001:db8::9');
    assert.equal((await audited(['::/16'], headers, '::1')).client, '2001:db8::9');
    assert.equal((await audited(['fd00::/8'], headers, '::1')).client, '::1');
    assert.equal((await audited(['127.0.0.1'], headers, '::1')).client, '::1');
  });

  test('an IPv4 peer of an IPv6 socket is itself, in either notation', async () => {
    assert.equal((await audited([], {}, '::')).client, '127.0.0.1');
    assert.equal((await audited(['127.0.0.1'], forwarded('203.0.113.9'), '::')).client, '203.0.113.9');
    assert.equal((await audited(['10.0.0.1'], forwarded('203.0.113.9'), '::')).client, '127.0.0.1');
    assert.equal((await audited(['127.0.0.1'], forwarded('::ffff:203.0.113.9'))).client, '203.0.113.9');
  });

  test('other headers that name a client are nothing', async () => {
    const headers = { forwarded: 'for=203.0.113.9', 'x-real-ip': '203.0.113.9', 'client-ip': '203.0.113.9' };
    assert.equal((await audited(['127.0.0.1'], headers)).client, '127.0.0.1');
  });

  test('a peer that is gone, a name, a zone are not trusted', () => {
    const trust = trustOf(['127.0.0.0/8', '::/1']);
    assert(trust !== false);
    for (const address of ['', 'localhost', 'fe80::1%eth0', '127.1', 'undefined']) assert(!trust(address));
  });
});

describe('NOX_TRUSTED_PROXY', () => {
  const parse = (text: string) => parseConfig('runner', { NOX_TRUSTED_PROXY: text }).trustedProxy;

  test('addresses and blocks of both families, between spaces of any number', () => {
    assert.deepEqual(parse(''), []);
    assert.deepEqual(parse(' 127.0.0.1  10.0.0.0/8\t::1 fd00::/8 '), [
      ...['127.0.0.1', '10.0.0.0/8', '::1', 'fd00::/8'],
    ]);
  });

  for (const text of [
    ...[
      'localhost',
      'loopback',
      'true',
      '*',
      '1',
      '0.0.0.0/0',
      '::/0',
      '10.0.0.0/33',
      '::1/129',
      '10.0.0.0/',
    ],
    ...['10.0.0.0/-1', '10.0.0.0/8,::1', '127.1', 'fe80::1%eth0', '10.0.0.0/8/8', '10.0.0.0/255.0.0.0'],
  ]) {
    test(`${JSON.stringify(text)} is fatal and names itself`, () => {
      assert.throws(() => parse(text), /^ConfigError: NOX_TRUSTED_PROXY: ".*" is not addresses or blocks/);
    });
  }
});

describe('a real server', () => {
  let server: Server;
  before(async () => {
    server = await startServer({
      split: true,
      env: { NOX_TRUSTED_PROXY: '127.0.0.1', NOX_LOG_LEVEL: 'info' },
    });
  });
  after(() => server.stop());

  test('the log line has the client', async () => {
    await fetch(`${server.url}/run_py`, { method: 'POST', headers: forwarded('203.0.113.77'), body: '{}' });
    await post(server, '/run_sh', { cmd: 'true' });
    for (const line of [
      /"client":"203\.0\.113\.77".*"status":401/,
      /"client":"127\.0\.0\.1".*"route":"\/run_sh","status":200/,
    ])
      await until(String(line), () => line.test(server.log()) || undefined);
  });
});
