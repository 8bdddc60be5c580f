/** Debian's nginx and Caddy with the generated configuration, before a real Nox and before a server that watches. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server as HttpServer } from 'node:http';
import { connect as connectH2 } from 'node:http2';
import { get as getClear } from 'node:http';
import { request } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { parseConfig } from '../../src/config.ts';
import { HOST, startProxy, type Proxy } from '../support/proxies.ts';
import { makeDirectory, RUN_UID, startServer, TOKEN, type Server } from '../support/server.ts';
import { until } from '../support/tools.ts';

const MIB = 1024 * 1024;
const LIMIT = 80 * MIB;
const SETTINGS = { NOX_MAX_UPLOAD: String(LIMIT), NOX_TIMEOUT: '8' };
const config = parseConfig('runner', SETTINGS);

interface Call {
  readonly method?: string;
  readonly path: string;
  readonly headers?: Record<string, string>;
  /** Pieces, sent as they come; whoever sends them may wait between. */
  readonly body?: AsyncIterable<Uint8Array> | Iterable<Uint8Array | string>;
  readonly from?: string;
}
interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly text: string;
  readonly json: Record<string, unknown>;
}

/** What a client sends, with the token; one that is refused stops sending. */
async function open(
  proxy: Proxy,
  { method = 'POST', path, headers = {}, body = [], from }: Call,
): Promise<IncomingMessage> {
  const outgoing = request({
    ...{ host: '127.0.0.1', port: proxy.port, ca: proxy.ca, servername: HOST, agent: false, method, path },
    ...(from === undefined ? {} : { localAddress: from }),
    headers: { host: HOST, authorization: `Bearer ${TOKEN}`, ...headers },
  });
  const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
  let refused = false;
  answered.then(
    () => (refused = true),
    () => (refused = true),
  );
  outgoing.on('error', () => undefined);
  const send = async () => {
    for await (const piece of body) {
      if (refused || outgoing.destroyed) return;
      if (!outgoing.write(piece)) await Promise.race([once(outgoing, 'drain'), answered]);
    }
    outgoing.end();
  };
  await Promise.race([send(), answered]);
  return (await answered)[0];
}

async function call(proxy: Proxy, options: Call): Promise<Answer> {
  const response = await open(proxy, options);
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += String(chunk);
  const json = text.startsWith('{') ? (JSON.parse(text) as Record<string, unknown>) : {};
  return { status: response.statusCode ?? 0, headers: response.headers, text, json };
}

const runPy = (proxy: Proxy, code: string, more: Partial<Call> = {}) =>
  call(proxy, { path: '/run_py', body: [JSON.stringify({ code })], ...more });

const HEAD = '--b\r\ncontent-disposition: form-data; name="f"; filename="x"\r\n\r\n';
const TAIL = '\r\n--b--\r\n';
const FORM = { 'content-type': 'multipart/form-data; boundary=b' };

function* form(bytes: number): Iterable<Uint8Array | string> {
  yield HEAD;
  const piece = Buffer.alloc(64 * 1024, 'x');
  for (let left = bytes; left > 0; left -= piece.length)
    yield piece.subarray(0, Math.min(left, piece.length));
  yield TAIL;
}

/** The most memory that a process has had, in bytes. */
async function peak(pid: number | undefined): Promise<number> {
  const status = await readFile(`/proc/${pid ?? 0}/status`, 'utf8');
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

for (const kind of ['nginx', 'caddy'] as const) {
  describe(`${kind} before a real server`, () => {
    let dir: string;
    let audit: string;
    let server: Server;
    let proxy: Proxy;
    before(async () => {
      dir = await makeDirectory();
      audit = join(dir, 'audit.log');
      server = await startServer({
        split: true,
        env: {
          ...SETTINGS,
          NOX_TRUSTED_PROXY: '127.0.0.1',
          NOX_AUDIT_FILE: audit,
          NOX_API_UID: String(RUN_UID),
        },
      });
      const upstream = new URL(server.url).host;
      proxy = await startProxy({ kind, internal: kind === 'caddy', upstream, config });
    });
    after(async () => {
      await proxy.stop();
      await server.stop();
      await rm(dir, { recursive: true });
    });

    const entry = (id: string) =>
      until(id, async () => {
        const lines = (await readFile(audit, 'utf8')).split('\n').filter(Boolean);
        return lines
          .map((line) => JSON.parse(line) as Record<string, unknown>)
          .find(({ requestId }) => requestId === id);
      });

    test('all four calls pass', async () => {
      const health = await call(proxy, { method: 'GET', path: '/health' });
      assert.equal(health.text, '{"status":"ok"}');
      const upload = await call(proxy, { path: '/put?path=a%20b/c.txt', headers: FORM, body: form(5) });
      assert.deepEqual(upload.json, { saved: join(server.workspace, 'a b/c.txt') });
      const code = await runPy(proxy, 'print(open("a b/c.txt").read())');
      assert.deepEqual(code.json, { returncode: 0, stdout: 'xxxxx\n', stderr: '' });
      const command = await call(proxy, { path: '/run_sh', body: ['{"cmd":"cat","stdin":"é"}'] });
      assert.deepEqual(command.json, { returncode: 0, stdout: 'é', stderr: '' });
    });

    test('a run of several seconds, and one that times out', async () => {
      assert.equal((await runPy(proxy, 'import time; time.sleep(6); print(1)')).json['stdout'], '1\n');
      const late = await runPy(proxy, 'import time; print(2, flush=True); time.sleep(60)');
      assert.deepEqual([late.status, late.json['code'], late.json['stdout']], [408, 'timeout', '2\n']);
    });

    test('64 MB go up, with the gateway’s memory bounded', async () => {
      const [, gateway] = server.processes;
      const idle = await peak(gateway?.pid);
      const started = performance.now();
      const upload = await call(proxy, { path: '/put?path=large', headers: FORM, body: form(64 * MIB) });
      const seconds = (performance.now() - started) / 1000;
      assert.equal(upload.status, 200, upload.text);
      const more = (await peak(gateway?.pid)) - idle;
      console.log(
        `${kind}: 64 MiB in ${seconds.toFixed(1)} s, the gateway grew by ${(more / MIB).toFixed(0)} MiB`,
      );
      assert(more < 48 * MIB, String(more));
      const size = await call(proxy, { path: '/run_sh', body: ['{"cmd":"stat -c %s large"}'] });
      assert.equal(size.json['stdout'], `${64 * MIB}\n`);
    });

    test('a large answer comes whole', async () => {
      const { json } = await runPy(proxy, 'print("y" * 9_000_000)');
      assert.equal(String(json['stdout']).length, 9_000_001);
    });

    for (const [name, bytes, announced] of [
      ['a little over the limit, announced', LIMIT + 70_000, true],
      ['a little over the limit, not announced', LIMIT + 4096, false],
      ['far over the limit, announced', 2 * LIMIT, true],
    ] as const) {
      test(`413 by name: ${name}`, async () => {
        const length = String(bytes + HEAD.length + TAIL.length);
        const headers = announced ? { ...FORM, 'content-length': length } : FORM;
        const body = announced ? [HEAD] : form(bytes);
        const held = async function* () {
          yield* body as Iterable<Uint8Array>;
          if (announced) await sleep(20_000, undefined, { ref: false });
        };
        const answer = await call(proxy, { path: '/put?path=over', headers, body: held() });
        assert.deepEqual([answer.status, answer.json['code']], [413, 'payload_too_large'], answer.text);
        assert.match(String(answer.headers['content-type']), /^application\/json/);
      });
    }

    test('413 by name: a JSON body beyond the server’s own limit for it', async () => {
      const answer = await call(proxy, {
        path: '/run_py',
        body: [JSON.stringify({ code: ' '.repeat(9 * MIB) })],
      });
      assert.deepEqual([answer.status, answer.json['code']], [413, 'payload_too_large'], answer.text);
    });

    test('a wrong token is refused before its body has come', async () => {
      const body = async function* () {
        yield Buffer.from(HEAD);
        await sleep(20_000, undefined, { ref: false });
      };
      const headers = {
        ...FORM,
        authorization: 'Bearer wrong',
        'content-length': '50000000',
        'x-request-id': `${kind}-bad`,
      };
      const answer = await call(proxy, { path: '/put?path=x', headers, body: body(), from: '127.0.0.6' });
      assert.deepEqual(
        [answer.status, answer.json['code'], answer.headers['www-authenticate']],
        [401, 'unauthorized', 'Bearer'],
      );
      const { client, who } = await entry(`${kind}-bad`);
      assert.deepEqual([client, who], ['127.0.0.6', 'nobody']);
    });

    test('forged headers do not reach the audit file, the real address does', async () => {
      const forged = {
        ...{ 'x-forwarded-for': '203.0.113.9', 'x-real-ip': '203.0.113.9', forwarded: 'for=203.0.113.9' },
        ...{ 'x-forwarded-host': 'evil.example', 'x-request-id': `${kind}-forged` },
      };
      assert.equal((await runPy(proxy, '1', { headers: forged, from: '127.0.0.5' })).status, 200);
      assert.equal((await entry(`${kind}-forged`))['client'], '127.0.0.5');
      assert(
        !(await readFile(audit, 'utf8')).includes('203.0.113.9') && !server.log().includes('203.0.113.9'),
      );
    });

    test('headers beyond 16 KiB are refused, by name', async () => {
      const answer = await runPy(proxy, '1', {
        headers: { 'x-a': 'x'.repeat(8500), 'x-b': 'x'.repeat(8500) },
      });
      assert.deepEqual([answer.status, answer.json['code']], [431, 'headers_too_large'], answer.text);
    });

    test('security headers on every answer, HSTS on none, no version', async () => {
      const answers = [
        await call(proxy, { method: 'GET', path: '/health' }),
        await call(proxy, { method: 'GET', path: '/nothing', headers: { authorization: 'x' } }),
        await call(proxy, {
          path: '/put?path=x',
          headers: { ...FORM, 'content-length': String(3 * LIMIT) },
          body: [HEAD],
        }),
      ];
      for (const { headers } of answers) {
        assert.equal(headers['x-content-type-options'], 'nosniff');
        assert.equal(headers['x-frame-options'], 'DENY');
        assert.equal(headers['referrer-policy'], 'no-referrer');
        assert.equal(headers['content-security-policy'], "frame-ancestors 'none'");
        assert.equal(headers['strict-transport-security'], undefined);
        assert.doesNotMatch(JSON.stringify(headers), /\d+\.\d+\.\d+|Caddy/);
        assert.match(String(headers['server'] ?? 'nginx'), /^nginx$/);
      }
    });

    test('HTTP/2, also for an upload; TLS 1.2 and 1.3, not 1.1', async () => {
      const session = connectH2(`https://${HOST}:${proxy.port}`, {
        createConnection: () =>
          connectTls({
            host: '127.0.0.1',
            port: proxy.port,
            ca: proxy.ca,
            servername: HOST,
            ALPNProtocols: ['h2'],
          }),
      });
      const stream = session.request({
        ...{ ':method': 'POST', ':path': '/put?path=h2', authorization: `Bearer ${TOKEN}` },
        ...FORM,
      });
      for (const piece of form(3 * MIB)) if (!stream.write(piece)) await once(stream, 'drain');
      stream.end();
      const [headers] = (await once(stream, 'response')) as [Record<string, unknown>];
      assert.equal(headers[':status'], 200);
      session.destroy();
      for (const version of ['TLSv1.1', 'TLSv1.2', 'TLSv1.3'] as const) {
        const socket = connectTls({
          ...{ host: '127.0.0.1', port: proxy.port, ca: proxy.ca, servername: HOST },
          ...{ minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' },
        });
        const end = once(socket, 'secureConnect');
        if (version === 'TLSv1.1') await assert.rejects(end, /alert|protocol/i);
        else await end;
        socket.destroy();
      }
    });

    test('clear text is sent on to TLS, and reaches no server', async () => {
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        const headers = { host: `${HOST}:${proxy.httpPort}` };
        getClear({ host: '127.0.0.1', port: proxy.httpPort, path: '/health?a=b', headers }, resolve).on(
          'error',
          reject,
        );
      });
      response.resume();
      assert.equal(response.statusCode, 308);
      assert.equal(response.headers.location, `https://${HOST}:${proxy.port}/health?a=b`);
    });

    test('a server that is down: 503 by name, with Retry-After', async () => {
      const [, gateway] = server.processes;
      gateway?.kill('SIGTERM');
      await until('exit', () => (gateway?.exitCode === null ? undefined : true));
      const answer = await call(proxy, { method: 'GET', path: '/health' });
      assert.deepEqual(
        [answer.status, answer.json['code'], answer.headers['retry-after']],
        [503, 'shutting_down', '1'],
        answer.text,
      );
      assert.equal(answer.headers['x-content-type-options'], 'nosniff');
    });
  });

  describe(`${kind} before a server that watches`, () => {
    let upstream: HttpServer;
    let proxy: Proxy;
    const upgraded: Duplex[] = [];
    let seen: { bytes: number; headers: IncomingMessage['headers'] };
    before(async () => {
      upstream = createServer((incoming, outgoing) => {
        seen = { bytes: 0, headers: incoming.headers };
        incoming.on('error', () => undefined);
        if (incoming.url === '/events') {
          outgoing.writeHead(200, { 'content-type': 'text/event-stream' });
          outgoing.write('data: 1\n\n');
          setTimeout(() => outgoing.end('data: 2\n\n'), 1500);
        } else if (incoming.url === '/silence') {
          setTimeout(() => outgoing.end('late'), 8000).unref();
        } else {
          incoming.on('data', (chunk: Buffer) => (seen.bytes += chunk.length));
          incoming.on('end', () => outgoing.end(String(seen.bytes)));
        }
      });
      upstream.on('upgrade', (incoming, socket) => {
        seen = { bytes: 0, headers: incoming.headers };
        upgraded.push(socket);
        socket.write(
          `HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${incoming.headers.upgrade ?? ''}\r\nConnection: Upgrade\r\n\r\n`,
        );
        socket.on('data', (data) => socket.write(data));
        socket.on('end', () => socket.end());
        socket.on('error', () => undefined);
      });
      upstream.listen(0, '127.0.0.1');
      await once(upstream, 'listening');
      const { port } = upstream.address() as AddressInfo;
      // The silence that is allowed, shortened: it must not count while an upload lasts.
      const edit = (text: string) => text.replaceAll('128s', '2s');
      proxy = await startProxy({ kind, isPublic: true, upstream: `127.0.0.1:${port}`, config, edit });
    });
    after(async () => {
      await proxy.stop();
      for (const socket of upgraded) socket.destroy();
      upstream.closeAllConnections();
      upstream.close();
    });

    test('an upload is passed on as it comes, and may last longer than a silence', async () => {
      let first = -1;
      const pieces = async function* () {
        yield Buffer.alloc(1000);
        await until('the first bytes are there', () => (seen.bytes === 1000 ? true : undefined));
        first = seen.bytes;
        for (let piece = 0; piece < 10; piece += 1) {
          await sleep(500);
          yield Buffer.alloc(1000);
        }
      };
      seen = { bytes: 0, headers: {} };
      const answer = await call(proxy, { path: '/', body: pieces() });
      assert.deepEqual([answer.status, answer.text, first], [200, '11000', 1000]);
    });

    test('events come one by one', async () => {
      const response = await open(proxy, { method: 'GET', path: '/events' });
      const times: number[] = [];
      response.on('data', () => times.push(performance.now()));
      await once(response, 'end');
      assert.equal(times.length, 2);
      assert((times[1] ?? 0) - (times[0] ?? 0) > 1000);
    });

    test('a server that says nothing for too long is given up, by name', async () => {
      const answer = await call(proxy, { method: 'GET', path: '/silence' });
      assert.deepEqual([answer.status, answer.json['code']], [503, 'shutting_down'], answer.text);
    });

    for (const [upgrade, passes] of [
      ['websocket', true],
      ['h2c', false],
    ] as const) {
      test(`an upgrade to ${upgrade} ${passes ? 'passes' : 'does not'}`, async () => {
        const socket = connectTls({ host: '127.0.0.1', port: proxy.port, ca: proxy.ca, servername: HOST });
        await once(socket, 'secureConnect');
        socket.write(
          `GET /ws HTTP/1.1\r\nHost: ${HOST}\r\nConnection: Upgrade\r\nUpgrade: ${upgrade}\r\n\r\n`,
        );
        const [head] = (await once(socket, 'data')) as [Buffer];
        assert.equal(/^HTTP\/1\.1 101/.test(head.toString()), passes, head.toString());
        if (passes) {
          await sleep(50);
          socket.write('ping');
          const [echo] = (await once(socket, 'data')) as [Buffer];
          assert.equal(echo.toString(), 'ping');
        }
        socket.destroy();
      });
    }

    test('what the server is told: the token, the host, the address of the connection and nothing forged', async () => {
      const headers = {
        'x-forwarded-for': '1.1.1.1',
        'x-forwarded-proto': 'gopher',
        'x-real-ip': '1.1.1.1',
        forwarded: 'for=1.1.1.1',
      };
      await call(proxy, { path: '/', headers, from: '127.0.0.9' });
      assert.equal(seen.headers.authorization, `Bearer ${TOKEN}`);
      assert.equal(seen.headers.host, HOST);
      assert.equal(seen.headers['x-forwarded-for'], '127.0.0.9');
      assert.equal(seen.headers['x-forwarded-proto'], 'https');
      assert.doesNotMatch(JSON.stringify(seen.headers), /1\.1\.1\.1|gopher/);
    });

    test('a server that was down is used again at once', async () => {
      const { port } = upstream.address() as AddressInfo;
      for (const socket of upgraded) socket.destroy();
      upstream.closeAllConnections();
      await new Promise((resolve) => upstream.close(resolve));
      assert.equal((await call(proxy, { path: '/' })).status, 503);
      upstream.listen(port, '127.0.0.1');
      await once(upstream, 'listening');
      assert.equal((await call(proxy, { path: '/' })).status, 200);
    });

    test('HSTS on a public domain', async () => {
      const { headers } = await call(proxy, { path: '/' });
      assert.equal(headers['strict-transport-security'], 'max-age=31536000');
    });
  });
}
