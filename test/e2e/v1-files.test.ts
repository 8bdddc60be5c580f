/** Files and workspaces over HTTP, with gateway and runner apart and in one process. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { eventually, runPy, runSh, startServer, type Server } from '../support/server.ts';

const WS = '/v1/workspaces/default';

for (const split of [true, false])
  describe(split ? 'gateway and runner apart' : 'in one process', () => {
    let server: Server;
    before(async () => {
      server = await startServer({ split, env: { NOX_MAX_UPLOAD: '32M' } });
    });
    after(async () => {
      await server.stop();
      const faults = server
        .log()
        .split('\n')
        .filter((line) => line.includes('"level":50'));
      assert.deepEqual(faults, [], 'nothing of this is a fault of the server');
    });

    const call = (
      method: string,
      path: string,
      body?: string | Uint8Array | object,
      headers: Record<string, string> = {},
      token = server.token,
    ) =>
      fetch(`${server.url}${path}`, {
        method,
        headers: { authorization: `Bearer ${token}`, ...headers },
        ...(body === undefined
          ? {}
          : {
              body:
                typeof body === 'string' || body instanceof Uint8Array
                  ? (body as string)
                  : JSON.stringify(body),
            }),
      });
    const content = (path: string) => `${WS}/files/content?path=${path}`;
    const json = async (
      response: Promise<Response>,
    ): Promise<Record<string, unknown> & { status: number }> => {
      const answer = await response;
      return { status: answer.status, ...((await answer.json()) as Record<string, unknown>) };
    };
    const refused = async (response: Promise<Response>, status: number, code: string) => {
      const answer = await json(response);
      assert.deepEqual([answer.status, answer['code']], [status, code], JSON.stringify(answer));
    };

    test('a file is written, read, asked about, replaced under conditions, removed', async () => {
      const put = await call('PUT', content('d/f%20%ff'), 'hello', {
        'content-type': 'multipart/form-data; boundary=x',
      });
      assert.equal(put.status, 201);
      const etag = put.headers.get('etag') ?? '';
      const got = await call('GET', content('d/f%20%ff'));
      assert.equal(await got.text(), 'hello');
      assert.equal(got.headers.get('etag'), etag);
      assert.equal(got.headers.get('content-length'), '5');
      assert.match(
        got.headers.get('content-disposition') ?? '',
        /^attachment; filename="f _"; filename\*=UTF-8''f%20%FF$/,
      );
      assert.equal(got.headers.get('x-content-type-options'), 'nosniff');
      const head = await call('HEAD', content('d/f%20%ff'));
      assert.deepEqual([head.status, head.headers.get('content-length'), await head.text()], [200, '5', '']);
      const part = await call('GET', content('d/f%20%ff'), undefined, { range: 'bytes=1-2' });
      assert.deepEqual(
        [part.status, part.headers.get('content-range'), await part.text()],
        [206, 'bytes 1-2/5', 'el'],
      );
      await refused(
        call('GET', content('d/f%20%ff'), undefined, { range: 'bytes=9-' }),
        416,
        'range_not_satisfiable',
      );
      const same = await call('GET', content('d/f%20%ff'), undefined, { 'if-none-match': `"x", ${etag}` });
      assert.deepEqual([same.status, await same.text()], [304, '']);
      await refused(
        call('PUT', content('d/f%20%ff'), 'no', { 'if-match': '"x"' }),
        412,
        'precondition_failed',
      );
      await refused(
        call('PUT', content('d/f%20%ff'), 'no', { 'if-none-match': '*' }),
        412,
        'precondition_failed',
      );
      assert.equal((await call('PUT', content('d/f%20%ff'), 'new', { 'if-match': etag })).status, 200);
      assert.equal((await call('DELETE', `${WS}/files?path=d&recursive=true`)).status, 204);
      await refused(call('GET', content('d/f%20%ff')), 404, 'file_not_found');
    });

    test('mistakes are told, never a fault of the server', async () => {
      await refused(call('GET', content('../etc/passwd')), 400, 'invalid_path');
      await refused(call('GET', `${WS}/files/content`), 422, 'invalid_request');
      await refused(call('GET', `${WS}/files?limit=0`), 422, 'invalid_request');
      await refused(call('GET', `${WS}/files?path=%00`), 400, 'invalid_path');
      await refused(call('GET', '/v1/workspaces/no/files'), 404, 'workspace_not_found');
      await refused(call('GET', '/v1/workspaces/No!/files'), 422, 'invalid_request');
      await refused(call('PUT', `${content('f')}&mode=7777`, ''), 422, 'invalid_request');
      await refused(call('PUT', content('f'), '', { 'if-match': 'x' }), 422, 'invalid_request');
      await refused(call('PUT', content('f'), new Uint8Array(33 * 2 ** 20)), 413, 'payload_too_large');
      await refused(call('POST', `${WS}/files/move`, { from: 'a', to: '\ud800' }), 400, 'invalid_path');
      await refused(call('POST', `${WS}/files/move`, { from: 'none', to: 'b' }), 404, 'file_not_found');
      await refused(call('PUT', `${WS}/archive?path=x`, 'no archive'), 422, 'hostile_archive');
    });

    test('append, mkdir, move, copy, list', async () => {
      assert.equal((await call('POST', `${WS}/files/append?path=t/log`, 'a')).status, 201);
      assert.equal((await call('POST', `${WS}/files/append?path=t/log`, 'b')).status, 200);
      assert.equal((await call('POST', `${WS}/files/mkdir`, { path: 't/d' })).status, 201);
      assert.equal((await call('POST', `${WS}/files/copy`, { from: 't/log', to: 't/d/copy' })).status, 200);
      assert.equal((await call('POST', `${WS}/files/copy`, { from: 't/d', to: 't/e' })).status, 200);
      assert.equal((await call('POST', `${WS}/files/move`, { from: 't/log', to: 't/e/\udcff' })).status, 200);
      const list = await json(call('GET', `${WS}/files?path=t&recursive=true&limit=3`));
      const rest = await json(call('GET', `${WS}/files?path=t&recursive=true&after=${String(list['next'])}`));
      const paths = [list, rest].flatMap((page) =>
        (page['entries'] as { path: string }[]).map(({ path }) => path),
      );
      assert.deepEqual(paths, ['t/d', 't/d/copy', 't/e', 't/e/copy', 't/e/\udcff']);
      assert.equal(await (await call('GET', content('t/e/%FF'))).text(), 'ab');
      await call('DELETE', `${WS}/files?path=t&recursive=true`);
    });

    test('archives out and in', async () => {
      await call('PUT', content('a/f'), 'text');
      const tar = new Uint8Array(await (await call('GET', `${WS}/archive?path=a`)).arrayBuffer());
      assert.match(gunzipSync(tar).toString('latin1'), /^f\0/);
      assert.equal((await call('PUT', `${WS}/archive?path=b`, tar)).status, 200);
      const zip = new Uint8Array(await (await call('GET', `${WS}/archive?path=b&format=zip`)).arrayBuffer());
      assert.equal((await call('PUT', `${WS}/archive?path=c&format=zip`, zip)).status, 200);
      assert.equal(await (await call('GET', content('c/f'))).text(), 'text');
      for (const path of ['a', 'b', 'c']) await call('DELETE', `${WS}/files?path=${path}&recursive=true`);
    });

    test('a watch tells what a run does', async () => {
      const stop = new AbortController();
      const { body, headers } = await fetch(`${server.url}${WS}/watch`, {
        headers: { authorization: `Bearer ${server.token}` },
        signal: stop.signal,
      });
      assert.equal(headers.get('content-type'), 'text/event-stream; charset=utf-8');
      assert.equal(headers.get('x-accel-buffering'), 'no');
      let text = '';
      const reading = (async () => {
        for await (const piece of body ?? []) text += Buffer.from(piece as Uint8Array).toString();
      })();
      await eventually('ready', () => text.includes('event: ready'));
      await runSh(server, 'touch of-a-run');
      await eventually('created', () => text.includes('"event":"created","path":"of-a-run","type":"file"'));
      await runSh(server, 'unlink of-a-run');
      await eventually('removed', () => text.includes('event: removed'));
      stop.abort();
      await assert.rejects(reading);
    });

    test('a client that goes away in the middle of an upload leaves the old file, and nothing else', async () => {
      await call('PUT', content('f'), 'old');
      const { port, hostname } = new URL(server.url);
      for (const path of [content('f'), `${WS}/files/append?path=f`, `${WS}/archive?path=u&format=zip`]) {
        const socket = connect(Number(port), hostname);
        await once(socket, 'connect');
        const method = path.includes('append') ? 'POST' : 'PUT';
        socket.write(
          `${method} ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token}\r\nContent-Length: 1000000\r\n\r\n`,
        );
        socket.write(Buffer.alloc(300_000, 'x'));
        await eventually('the upload has begun', () =>
          readdirSync(server.workspace).some((name) => name.startsWith('.nox-')),
        );
        socket.destroy();
        await eventually(
          'it is swept',
          () => !readdirSync(server.workspace).some((name) => name.startsWith('.nox-')),
        );
      }
      assert.deepEqual(readdirSync(server.workspace), ['f']);
      assert.equal(readFileSync(join(server.workspace, 'f'), 'utf8'), 'old');
    });

    test('a reader that stops reading holds up nobody else', async () => {
      writeFileSync(join(server.workspace, 'big'), '');
      truncateSync(join(server.workspace, 'big'), 500 * 2 ** 20);
      const { port, hostname } = new URL(server.url);
      const sockets = [content('big'), `${WS}/archive`].map((path) => {
        const socket = connect(Number(port), hostname);
        socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token}\r\n\r\n`);
        socket.pause();
        return socket;
      });
      await once(sockets[0] as NonNullable<(typeof sockets)[0]>, 'connect');
      for (let n = 0; n < 5; n += 1) assert.equal((await call('GET', content('f'))).status, 200);
      assert.equal((await runPy(server, 'print(1)')).body.stdout, '1\n');
      for (const socket of sockets) socket.destroy();
      await call('DELETE', `${WS}/files?path=big`);
    });

    test('workspaces: made, used by runs and files alike, cloned, kept and restored, deleted', async () => {
      const at = '/v1/workspaces/mine';
      assert.equal(
        (await json(call('POST', '/v1/workspaces', { id: 'mine', quotaBytes: 2 ** 20 }))).status,
        201,
      );
      await refused(call('POST', '/v1/workspaces', { id: 'mine' }), 409, 'already_exists');
      await call('PUT', `${at}/files/content?path=f`, 'one');
      await refused(
        call('PUT', `${at}/files/content?path=big`, new Uint8Array(2 ** 21)),
        413,
        'workspace_full',
      );
      const snapshot = await json(call('POST', `${at}/snapshots`, { label: 'first' }));
      await call('PUT', `${at}/files/content?path=f`, 'two');
      assert.equal((await json(call('POST', `${at}/clone`, { id: 'copy', quotaBytes: null }))).status, 201);
      assert.equal((await call('POST', `${at}/snapshots/${String(snapshot['id'])}/restore`)).status, 204);
      assert.equal(await (await call('GET', `${at}/files/content?path=f`)).text(), 'one');
      assert.equal(await (await call('GET', '/v1/workspaces/copy/files/content?path=f')).text(), 'two');
      const { usage } = await json(call('GET', at));
      assert.equal((usage as { entries: number }).entries, 1);
      const page = await json(call('GET', '/v1/workspaces?limit=2'));
      assert.deepEqual([(page['workspaces'] as unknown[]).length, page['next']], [2, 'default']);
      assert.equal((await call('DELETE', `${at}/snapshots/${String(snapshot['id'])}`)).status, 204);
      await refused(
        call('POST', `${at}/snapshots/${String(snapshot['id'])}/restore`),
        404,
        'snapshot_not_found',
      );
      const soon = new Date(Date.now() + 3000).toISOString();
      assert.equal((await json(call('PATCH', '/v1/workspaces/copy', { expires: soon }))).status, 200);
      assert.equal((await call('DELETE', at)).status, 204);
      await eventually(
        'the copy has expired',
        async () => (await call('GET', '/v1/workspaces/copy')).status === 404,
      );
      await refused(call('DELETE', WS), 422, 'invalid_request');
      assert.ok(existsSync(server.workspace));
    });

    test('a token sees only its workspaces, and only with the scope `files`', async () => {
      const token = async (rights: object) =>
        String((await json(call('POST', '/v1/tokens', { name: 't', ...rights })))['secret']);
      const bound = await token({
        scopes: ['files'],
        workspaces: ['hers'],
        quotas: { storageBytes: 2 ** 20 },
      });
      const runner = await token({ scopes: ['run'] });
      const as = (secret: string, method: string, path: string, body?: object) =>
        call(method, path, body, {}, secret);
      await refused(as(bound, 'POST', '/v1/workspaces', {}), 403, 'forbidden');
      await refused(as(bound, 'POST', '/v1/workspaces', { id: 'other' }), 403, 'forbidden');
      await refused(as(bound, 'POST', '/v1/workspaces', { id: 'hers' }), 429, 'quota_exceeded');
      assert.equal(
        (await as(bound, 'POST', '/v1/workspaces', { id: 'hers', quotaBytes: 2 ** 20 })).status,
        201,
      );
      await refused(
        as(bound, 'PATCH', '/v1/workspaces/hers', { quotaBytes: 2 ** 21 }),
        429,
        'quota_exceeded',
      );
      for (const [method, path] of [
        ['GET', WS],
        ['GET', `${WS}/files`],
        ['PUT', content('stolen')],
        ['GET', `${WS}/archive`],
        ['GET', `${WS}/watch`],
        ['DELETE', `${WS}/files?path=f`],
        ['POST', `${WS}/clone`],
        ['POST', `${WS}/snapshots`],
      ] as const)
        await refused(as(bound, method, path), 403, 'forbidden');
      const { workspaces } = await json(as(bound, 'GET', '/v1/workspaces'));
      assert.deepEqual(
        (workspaces as { id: string }[]).map(({ id }) => id),
        ['hers'],
      );
      await refused(as(runner, 'GET', `${WS}/files`), 403, 'forbidden');
      await refused(as(runner, 'GET', '/v1/workspaces'), 403, 'forbidden');
    });
  });

test('a gateway that is killed in the middle of an upload leaves the old file, and nothing else', async () => {
  const server = await startServer({ split: true });
  try {
    writeFileSync(join(server.workspace, 'f'), 'old');
    const { port, hostname } = new URL(server.url);
    const socket = connect(Number(port), hostname);
    socket.on('error', () => undefined);
    socket.write(
      `PUT ${WS}/files/content?path=f HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token}\r\nContent-Length: 1000000\r\n\r\n`,
    );
    socket.write(Buffer.alloc(300_000, 'x'));
    const unfinished = () => readdirSync(server.workspace).some((name) => name.startsWith('.nox-'));
    await eventually('the upload has begun', unfinished);
    server.processes[1]?.kill('SIGKILL');
    await eventually('it is swept', () => !unfinished());
    assert.deepEqual(readdirSync(server.workspace), ['f']);
    assert.equal(readFileSync(join(server.workspace, 'f'), 'utf8'), 'old');
  } finally {
    await server.stop();
  }
});
