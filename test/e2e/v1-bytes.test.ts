/** `POST /v1/runs` with `Accept: application/octet-stream`: the standard output of a run, as it is. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually, startServer, type Server } from '../support/server.ts';
import { call, ended, idOf, mark, open, run, runsOf, sh, sleeping, type Json } from '../support/v1.ts';

const BYTES = { accept: 'application/octet-stream' };

async function whole(response: IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of response) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}

for (const split of [true, false])
  describe(split ? 'gateway and runner apart' : 'in one process', () => {
    let server: Server;
    before(async () => {
      server = await startServer({ split, env: { NOX_TIMEOUT: '600' } });
    });
    after(() => server.stop());
    const ask = (body: Json) => open(server, 'POST', '/v1/runs', BYTES, body);

    test('every byte comes, and nothing else; how it ended is in the trailers, and in the run', async () => {
      const code =
        'import sys\nsys.stdout.buffer.write(bytes(range(256)) * 3)\nsys.stderr.write("no")\nsys.exit(3)';
      const response = await ask({ code });
      assert.equal(response.statusCode, 200);
      assert.equal(response.headers['content-type'], 'application/octet-stream');
      assert.equal(response.headers['x-content-type-options'], 'nosniff');
      assert.equal((await whole(response)).compare(Buffer.from([...Array(768).keys()])), 0);
      assert.deepEqual(response.trailers, { 'nox-outcome': 'failed', 'nox-exit-code': '3' });
      const { outcome, usage } = await ended(server, String(response.headers['nox-run-id']));
      assert.deepEqual([outcome, (usage as Json)['stderrBytes']], ['failed', 2]);
    });

    test('hundred megabytes, beyond every bound of what is kept, come as they were written', async () => {
      const code =
        'import sys, hashlib, random\nsum = hashlib.sha256()\nfor n in range(1600):\n' +
        '  piece = random.randbytes(random.randint(1, 131072))\n  sum.update(piece)\n  sys.stdout.buffer.write(piece)\n' +
        'sys.stdout.flush()\nopen("sum", "w").write(sum.hexdigest())';
      const response = await ask({ code, workspace: 'default' });
      const sum = createHash('sha256');
      for await (const piece of response) sum.update(piece as Buffer);
      assert.equal(response.trailers['nox-outcome'], 'ok');
      const path = '/v1/workspaces/default/files/content?path=sum';
      const told = await fetch(`${server.url}${path}`, {
        headers: { authorization: `Bearer ${server.token}` },
      });
      assert.equal(sum.digest('hex'), await told.text());
    });

    test('it comes while the program runs, which takes input and signals as ever', async () => {
      const response = await ask({ ...sh('echo first; read word; echo $word; sleep 60'), interactive: true });
      const id = String(response.headers['nox-run-id']);
      const pieces = response[Symbol.asyncIterator]();
      assert.equal(String((await pieces.next()).value), 'first\n');
      await call(server, 'POST', `/v1/runs/${id}/stdin`, { text: 'second\n' });
      assert.equal(String((await pieces.next()).value), 'second\n');
      await call(server, 'POST', `/v1/runs/${id}/signal`, { signal: 'SIGTERM' });
      assert.equal((await pieces.next()).done, true);
      assert.equal(response.trailers['nox-outcome'], 'signaled');
      assert.equal(response.trailers['nox-exit-code'], '');
    });

    test('a limit that fires is told like any other end', async () => {
      const response = await ask({ ...sh('echo a; sleep 60'), limits: { wallSeconds: 3 } });
      assert.equal(String(await whole(response)), 'a\n');
      assert.equal(response.trailers['nox-outcome'], 'timeout');
    });

    test('what does not begin is an error like any other', async () => {
      for (const [body, status, code] of [
        [{ runtime: 'none', code: '' }, 422, 'unknown_runtime'],
        [sh('true', { workspace: 'nowhere' }), 404, 'workspace_not_found'],
        [sh('true', { background: true }), 422, 'invalid_request'],
      ] as const) {
        const answer = await run(server, body, BYTES);
        assert.deepEqual([answer.status, answer.body['code']], [status, code]);
      }
      const keyed = await run(server, sh('true'), { ...BYTES, 'idempotency-key': 'a' });
      assert.deepEqual([keyed.status, keyed.body['code']], [422, 'invalid_request']);
      assert.equal(
        runsOf(await call(server, 'GET', '/v1/runs')).filter(({ state }) => state !== 'ended').length,
        0,
      );
    });

    test('events are preferred where a client takes both, and JSON where it takes anything', async () => {
      const both = await open(
        server,
        'POST',
        '/v1/runs',
        { accept: `${BYTES.accept}, application/x-ndjson` },
        sh('true'),
      );
      assert.match(String(both.headers['content-type']), /^application\/x-ndjson/);
      both.resume();
      idOf(await run(server, sh('true'), { accept: '*/*' }));
      idOf(await run(server, sh('true'), { accept: 'application/octet-stream;q=0' }));
    });

    test('a client that goes ends its run', async () => {
      const seconds = mark();
      const response = await ask(sh(`echo on; sleep ${seconds}`));
      await once(response, 'data');
      await eventually('it runs', () => sleeping(seconds) === 1);
      response.destroy();
      await eventually('it is ended', () => sleeping(seconds) === 0);
      assert.equal((await ended(server, String(response.headers['nox-run-id'])))['outcome'], 'cancelled');
    });

    test('one that nobody reads can be cancelled', async () => {
      const response = await ask(sh('head -c 50000000 /dev/zero'));
      const broken = once(response, 'error');
      // Until nothing more fits into what is between them.
      await sleep(1000);
      const id = String(response.headers['nox-run-id']);
      const answer = await call(server, 'POST', `/v1/runs/${id}/cancel`);
      assert.deepEqual([answer.status, answer.body['outcome']], [200, 'cancelled']);
      response.resume();
      assert.match(String((await broken)[0]), /aborted/);
    });

    test('a client that does not read holds up its program, nobody else, and then gets all', async () => {
      const response = await ask(
        sh('head -c 50000000 /dev/zero; echo done > done', { workspace: 'default' }),
      );
      response.pause();
      for (let n = 0; n < 3; n += 1) idOf(await run(server, sh('true')));
      const path = '/v1/workspaces/default/files?path=done';
      assert.equal((await call(server, 'GET', `/v1/workspaces/default/files/stat?path=done`)).status, 404);
      assert.equal((await whole(response)).length, 50_000_000);
      assert.equal((await call(server, 'DELETE', path)).status, 204);
    });
  });

test('runner killed -9: the answer is broken off, not ended', async () => {
  const server = await startServer({ split: true });
  try {
    const response = await open(server, 'POST', '/v1/runs', BYTES, sh('echo on; sleep 60'));
    await once(response, 'data');
    server.processes[0]?.kill('SIGKILL');
    await assert.rejects(whole(response), /aborted/);
    const id = String(response.headers['nox-run-id']);
    assert.equal((await ended(server, id))['outcome'], 'sandbox_error');
  } finally {
    await server.stop();
  }
});
