/** `/v1/runs` and webhooks when one of the halves is killed, the disk is full, or the clock is set back. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  eventually,
  makeDirectory,
  post,
  restart,
  runSh,
  TOKEN,
  withServer,
  type Server,
} from '../support/server.ts';
import {
  call,
  collect,
  ended,
  eventsOf,
  idOf,
  mark,
  NDJSON,
  open,
  run,
  runsOf,
  sh,
  sleeping,
  type Json,
} from '../support/v1.ts';

const CUT_OFF = 'The server ended while the run was under way';
const workspace = 'default';
const textIn = (server: Server, name: string): string => {
  try {
    return readFileSync(join(server.workspace, name), 'utf8');
  } catch {
    return '';
  }
};
const listed = async (server: Server) => runsOf(await call(server, 'GET', '/v1/runs?limit=1000'));
const kill = async (server: Server, half: 'runner' | 'gateway') => {
  const child = server.processes.findLast(({ spawnargs }) =>
    spawnargs.some((each) => each.endsWith(`/${half}/main.js`)),
  );
  assert.ok(child !== undefined);
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
};
const inOrder = ({ createdAt, startedAt, endedAt }: Json) => {
  const times = [createdAt, startedAt ?? createdAt, endedAt].map((time) => Date.parse(String(time)));
  assert.deepEqual(
    times,
    times.toSorted((a, b) => a - b),
    JSON.stringify({ createdAt, startedAt, endedAt }),
  );
};

test('runner killed -9 with 20 runs alive of every kind: each is told by name, none runs again, new ones work', () =>
  withServer({ split: true, env: { NOX_SLOTS: '20', NOX_TIMEOUT: '600' } }, async (server) => {
    const seconds = mark();
    const body = sh(`echo begun >> begun; sleep ${seconds}`, { workspace });
    const each = <T>(make: (n: number) => Promise<T>) => Promise.all([0, 1, 2, 3].map(make));
    const key = (n: number) => ({ 'idempotency-key': `key-${String(n)}` });
    const waited = each(() => run(server, body));
    const keyed = each((n) => run(server, body, key(n)));
    const reference = each(() => runSh(server, ['bash', '-c', `echo begun >> begun; sleep ${seconds}`]));
    const watched = each(async () => collect(await open(server, 'POST', '/v1/runs', NDJSON, body)));
    const background = await each(async () => idOf(await run(server, { ...body, background: true })));
    await eventually('20 run', () => sleeping(seconds) === 20);
    await kill(server, 'runner');

    for (const answer of [...(await waited), ...(await reference)])
      assert.deepEqual([answer.status, (answer.body as Json)['code']], [503, 'runner_unavailable']);
    for (const events of await watched) {
      const last = events.at(-1);
      assert.deepEqual([last?.type, last?.run?.['outcome']], ['end', 'sandbox_error']);
      assert.ok(String(last?.run?.['reason']).length > 0);
    }
    const keyedIds = (await keyed).map(idOf);
    for (const id of [...background, ...keyedIds]) {
      const { outcome, reason } = await ended(server, id);
      assert.equal(outcome, 'sandbox_error');
      assert.ok(String(reason).length > 0);
    }
    await eventually('nothing of them is alive', () => sleeping(seconds) === 0);
    await eventually('none is left as alive', async () =>
      (await listed(server)).every(({ state }) => state === 'ended'),
    );

    const again = await restart(server, 'runner');
    await eventually('it is healthy', async () => (await fetch(`${again.url}/health`)).status === 200);
    assert.deepEqual(await each(async (n) => idOf(await run(again, body, key(n)))), keyedIds);
    assert.equal((await run(again, sh('echo new'))).body['stdout'], 'new\n');
    const stream = await collect(await open(again, 'POST', '/v1/runs', NDJSON, sh('echo new')));
    assert.equal(stream.at(-1)?.run?.['outcome'], 'ok');
    const id = idOf(await run(again, sh('echo new', { background: true })));
    assert.equal((await ended(again, id))['stdout'], 'new\n');
    assert.equal(textIn(again, 'begun'), 'begun\n'.repeat(20));
    assert.equal(sleeping(seconds), 0);
  }));

test('runner killed -9 under a batch: what has begun does not run again, what has not waits for the next runner', () =>
  withServer({ split: true, env: { NOX_SLOTS: '2', NOX_QUEUE_WAIT: '120' } }, async (server) => {
    const seconds = mark();
    const item = (n: number) =>
      n < 3
        ? sh(`echo ${String(n)} >> begun; sleep ${seconds}`, { workspace })
        : sh(`echo ${String(n)} >> begun`, { workspace });
    const body = { runs: [0, 1, 2, 3, 4].map(item) };
    const answer = call(server, 'POST', '/v1/batch', body);
    await eventually('two run', () => sleeping(seconds) === 2);
    await eventually('the runner has the third', async () => {
      const headers = { authorization: `Bearer ${TOKEN}` };
      const metrics = await fetch(`${server.url}/metrics`, { headers });
      return (await metrics.text()).includes('\nnox_queue_length 1\n');
    });
    await kill(server, 'runner');
    await eventually('they are not alive', () => sleeping(seconds) === 0);
    // What is begun now finds no runner.
    await sleep(500);
    const again = await restart(server, 'runner');
    const results = (await answer).body['results'] as { error?: Json; run?: Json }[];
    // The third was with the runner, which nobody can ask any more whether it had begun it.
    const lost = Array.from({ length: 3 }, () => 'runner_unavailable');
    assert.deepEqual(
      results.map(({ error, run: ran }) => error?.['code'] ?? ran?.['outcome']),
      [...lost, 'ok', 'ok'],
    );
    assert.equal(textIn(again, 'begun').split('\n').sort().join(''), '0134');
  }));

test('gateway killed -9 with runs whose clients wait: they end by name, a key is not run twice', () =>
  withServer({ split: true, env: { NOX_SLOTS: '6', NOX_TIMEOUT: '600' } }, async (server) => {
    const seconds = mark();
    const body = sh(`echo begun >> begun; sleep ${seconds}`, { workspace });
    const key = { 'idempotency-key': 'only-once' };
    const lost = [
      run(server, body),
      run(server, body, key),
      open(server, 'POST', '/v1/runs', NDJSON, body).then(collect),
    ].map((each) =>
      each.then(
        () => 'answered',
        () => 'broken',
      ),
    );
    await eventually('three run', () => sleeping(seconds) === 3);
    await eventually('three are kept', async () => (await listed(server)).length === 3);
    const again = await restart(server, 'gateway', 'SIGKILL');
    await Promise.all(lost);
    await eventually('nothing is alive', () => sleeping(seconds) === 0);
    const runs = await listed(again);
    assert.equal(runs.length, 3);
    for (const each of runs) {
      assert.deepEqual([each['state'], each['outcome'], each['reason']], ['ended', 'sandbox_error', CUT_OFF]);
      inOrder(each);
    }
    const repeated = await run(again, body, key);
    assert.deepEqual([repeated.status, repeated.body['outcome']], [200, 'sandbox_error']);
    assert.ok(runs.some(({ id }) => id === repeated.body['id']));
    assert.equal(textIn(again, 'begun'), 'begun\n'.repeat(3));
  }));

test('both killed -9: what waits is run in its order, what ran ends by name', () =>
  withServer({ split: true, env: { NOX_SLOTS: '1', NOX_TIMEOUT: '600' } }, async (server) => {
    const seconds = mark();
    const running = idOf(await run(server, sh(`sleep ${seconds}`, { background: true })));
    await eventually('it runs', () => sleeping(seconds) === 1);
    const ids: string[] = [];
    for (let n = 0; n < 8; n += 1)
      ids.push(idOf(await run(server, sh(`echo ${String(n)} >> order`, { background: true, workspace }))));
    await kill(server, 'gateway');
    await kill(server, 'runner');
    // The gateway first: what it tries finds no runner, and waits.
    const again = await (await server.start('gateway')).start('runner');
    for (const id of ids) assert.equal((await ended(again, id))['outcome'], 'ok');
    assert.equal(textIn(again, 'order'), '0\n1\n2\n3\n4\n5\n6\n7\n');
    const { outcome, reason } = await ended(again, running);
    assert.deepEqual([outcome, reason, sleeping(seconds)], ['sandbox_error', CUT_OFF, 0]);
    assert.deepEqual(
      (await listed(again)).map(({ id }) => id),
      [running, ...ids].toReversed(),
    );
  }));

test('a client that goes while it waits ends its run; one that goes in mid-stream of another’s does not', () =>
  withServer({ split: true, env: { NOX_TIMEOUT: '600' } }, async (server) => {
    const seconds = mark();
    const { port, hostname } = new URL(server.url);
    const socket = connect(Number(port), hostname);
    const body = JSON.stringify(sh(`sleep ${seconds}`));
    socket.write(
      `POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token}\r\nContent-Length: ${String(body.length)}\r\n\r\n${body}`,
    );
    await eventually('it runs', () => sleeping(seconds) === 1);
    socket.destroy();
    await eventually('it is gone', () => sleeping(seconds) === 0);
    await eventually('that is kept', async () => (await listed(server))[0]?.['outcome'] === 'cancelled');

    const id = idOf(
      await run(
        server,
        sh('echo up; until test -e go; do sleep 0.05; done; echo down', { workspace, background: true }),
      ),
    );
    const reader = await open(server, 'GET', `/v1/runs/${id}/events`, NDJSON);
    for await (const { text } of eventsOf(reader)) if (text === 'up\n') break;
    reader.destroy();
    await runSh(server, 'touch go');
    const { outcome, stdout } = await ended(server, id);
    assert.deepEqual([outcome, stdout], ['ok', 'up\ndown\n']);
  }));

test('an answer and what is kept of it agree, also for a run that had to wait', () =>
  withServer({ split: true, env: { NOX_SLOTS: '1' } }, async (server) => {
    const answers = await Promise.all(Array.from({ length: 4 }, () => run(server, sh('sleep 0.3'))));
    await eventually('all are kept', async () =>
      (await listed(server)).every(({ state }) => state === 'ended'),
    );
    const list = new Map((await listed(server)).map((each) => [each['id'], each]));
    const starts = new Set<unknown>();
    for (const { body } of answers) {
      const id = String(body['id']);
      const kept = (await call(server, 'GET', `/v1/runs/${id}`)).body;
      for (const name of ['createdAt', 'startedAt', 'endedAt', 'outcome', 'state'])
        assert.deepEqual([kept[name], list.get(id)?.[name]], [body[name], body[name]], name);
      inOrder(body);
      starts.add(body['startedAt']);
    }
    assert.equal(starts.size, 4, 'one after the other');
  }));

/** A receiver of webhooks that refuses the first try of each. */
async function withReceiver(
  use: (url: string, seen: { headers: IncomingHttpHeaders; body: Json }[]) => Promise<void>,
): Promise<void> {
  const seen: { headers: IncomingHttpHeaders; body: Json }[] = [];
  const receiver = createServer((request, response) => {
    let body = '';
    request.on('data', (piece: Buffer) => (body += piece.toString()));
    request.on('end', () => {
      const { headers } = request;
      const known = seen.some((each) => each.headers['nox-delivery'] === headers['nox-delivery']);
      seen.push({ headers, body: JSON.parse(body) as Json });
      response.writeHead(known ? 200 : 500).end();
    });
  }).listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  try {
    await use(`http://127.0.0.1:${String((receiver.address() as AddressInfo).port)}/`, seen);
  } finally {
    receiver.closeAllConnections();
    receiver.close();
  }
}
const WEBHOOKS = { NOX_WEBHOOK: 'on', NOX_WEBHOOK_ALLOW: '127.0.0.0/8' };

test('webhooks outlive a gateway that is killed -9, that of a run that it cut off too', () =>
  withReceiver((url, seen) =>
    withServer({ split: true, env: { ...WEBHOOKS, NOX_TIMEOUT: '600' } }, async (server) => {
      const seconds = mark();
      const more = { background: true, webhook: { url, secret: 'a-secret-of-sixteen' } };
      const done = idOf(await run(server, sh('true', more)));
      const cut = idOf(await run(server, sh(`sleep ${seconds}`, more)));
      const of = (id: string) => seen.filter(({ body }) => body['id'] === id);
      await eventually('the first try', () => of(done).length === 1);
      await eventually('the other runs', () => sleeping(seconds) === 1);
      await restart(server, 'gateway', 'SIGKILL');
      // Tries are about ten seconds apart.
      for (let each = 0; each < 3 && (of(done).length < 2 || of(cut).length < 2); each += 1)
        await eventually('second tries', () => of(done).length >= 2 && of(cut).length >= 2).catch(
          () => undefined,
        );
      for (const [id, outcome] of [
        [done, 'ok'],
        [cut, 'sandbox_error'],
      ] as const) {
        const tries = of(id);
        assert.equal(tries.length, 2, `${outcome}: tried, and tried again`);
        assert.equal(new Set(tries.map(({ headers }) => headers['nox-delivery'])).size, 1);
        assert.deepEqual(
          tries.map(({ body }) => body['outcome']),
          [outcome, outcome],
        );
      }
    }),
  ));

/** Runs in the server: to `Date.now` are added the seconds that a file has. */
function shiftClock(file: string): void {
  const { readFileSync: read } = process.getBuiltinModule('node:fs');
  const { now } = Date;
  Date.now = () => now() + 1000 * Number(read(file, 'utf8'));
}

test('the clock set back by two days, and forward again, under a live server', async () => {
  const dir = await makeDirectory();
  const file = join(dir, 'shift');
  const shift = (days: number) => {
    writeFileSync(file, String(days * 86_400));
  };
  shift(0);
  const module = encodeURIComponent(`(${shiftClock.toString()})(${JSON.stringify(file)})`);
  const env = {
    ...WEBHOOKS,
    NOX_SLOTS: '4',
    NODE_OPTIONS: `--import=data:text/javascript,${module}`,
  };
  await withReceiver((url, seen) =>
    withServer({ split: true, env }, async (first) => {
      let server = first;
      const order: string[] = [];
      const accept = async (body: Json, headers = {}) => {
        const answer = await run(server, body, headers);
        order.unshift(idOf(answer));
        return answer;
      };
      const token = async (rights: Json): Promise<Server> => {
        const { body } = await call(server, 'POST', '/v1/tokens', { name: 't', scopes: ['run'], ...rights });
        return { ...server, token: String(body['secret']) };
      };
      const soon = () => new Date(Date.now() + 3_600_000).toISOString();
      const expiring = await token({ expires: soon() });
      const limited = await token({ quotas: { runsPerMinute: 2, cpuSecondsPerDay: 100 } });
      const key = { 'idempotency-key': 'across-the-shift' };

      await accept(sh('true', { background: true, webhook: { url, secret: 'a-secret-of-sixteen' } }));
      await eventually('the first try of the webhook', () => seen.length === 1);
      const keyed = await accept(sh('echo once >> once', { workspace }), key);
      const alive = idOf(
        await accept(sh('until test -e go; do sleep 0.05; done', { workspace, background: true })),
      );
      await eventually(
        'it runs',
        async () => (await call(server, 'GET', `/v1/runs/${alive}`)).body['state'] === 'running',
      );
      for (const each of [limited, limited]) order.unshift(idOf(await run(each, sh('true'))));

      shift(-2);
      await eventually('the webhook is tried again', () => seen.length === 2);
      await runSh(server, 'touch go');
      inOrder(await ended(server, alive));
      const { body: repeated } = await run(server, sh('echo once >> once', { workspace }), key);
      assert.equal(repeated['id'], keyed.body['id']);
      assert.equal(textIn(server, 'once'), 'once\n');
      assert.equal((await run(expiring, sh('true'))).status, 200);
      order.unshift('of the expiring');
      for (const background of [false, true]) {
        const { body } = await accept(sh('echo new', { background }));
        const found = await ended(server, String(body['id']));
        assert.equal(found['outcome'], 'ok');
        inOrder(found);
      }
      const refused = await run(limited, sh('true'));
      // A slow machine may have let a place come back meanwhile.
      if (refused.status === 200) order.unshift('of the limited');
      else {
        assert.equal(refused.body['code'], 'rate_limited');
        assert.ok(Number(refused.headers.get('retry-after')) <= 60);
      }
      const self = await call(limited, 'GET', '/v1/tokens/self');
      assert.equal(self.status, 200, JSON.stringify(self.body));

      server = await restart(server, 'gateway', 'SIGKILL');
      const check = async () => {
        await eventually('all have ended', async () =>
          (await listed(server)).every(({ state }) => state === 'ended'),
        );
        const runs = await listed(server);
        assert.equal(runs.length, order.length);
        for (const [at, each] of runs.entries()) {
          if (order[at]?.startsWith('run_') === true) assert.equal(each['id'], order[at], 'newest first');
          inOrder(each);
        }
        const pages: unknown[] = [];
        for (let after = ''; ;) {
          const { body } = await call(server, 'GET', `/v1/runs?limit=2${after}`);
          const { runs: page, next } = body as { runs: Json[]; next: string | null };
          pages.push(...page.map(({ id }) => id));
          if (next === null) break;
          after = `&after=${next}`;
        }
        assert.deepEqual(
          pages,
          runs.map(({ id }) => id),
        );
      };
      await check();
      shift(0);
      await accept(sh('true'));
      assert.equal(idOf(await run(server, sh('echo once >> once', { workspace }), key)), keyed.body['id']);
      await check();
    }),
  );
  rmSync(dir, { recursive: true });
});

test(
  'the gateway’s disk full: refused by name or run all the same, what runs is kept when there is room, a start says why',
  { skip: process.getuid?.() !== 0 && 'a disk of its own needs root' },
  async () => {
    const dir = await makeDirectory();
    const disk = join(dir, 'disk');
    const filler = join(disk, 'filler');
    const fill = () => {
      execFileSync('bash', ['-c', `cat /dev/zero >> ${filler} 2>/dev/null; true`]);
    };
    execFileSync('mkdir', [disk]);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=755', 'tmpfs', disk]);
    try {
      const env = { NOX_STATE: join(disk, 'state'), NOX_SLOTS: '4' };
      await withServer({ split: true, env }, async (server) => {
        const body = sh('until test -e go; do sleep 0.05; done; echo done', { workspace });
        const ids = await Promise.all(
          [0, 1, 2].map(async () => idOf(await run(server, { ...body, background: true }))),
        );
        await eventually('they run', async () =>
          (await listed(server)).every(({ state }) => state === 'running'),
        );
        fill();
        let refused = await run(server, sh('true', { background: true }));
        // What the database has already been given it still uses.
        for (let tries = 0; refused.status === 202 && tries < 2000; tries += 1)
          refused = await run(server, sh('true', { background: true }));
        assert.deepEqual([refused.status, refused.body['code']], [500, 'internal']);
        assert.match(String(refused.body['detail']), /disk is full: the administrator makes room.*NOX_STATE/);
        const waited = await run(server, sh('echo all the same'));
        assert.deepEqual([waited.status, waited.body['stdout']], [200, 'all the same\n']);
        assert.equal((await post(server, '/run_py', { code: 'print(1)' })).body['stdout'], '1\n');
        await runSh(server, 'touch go');
        for (const id of ids) assert.equal((await ended(server, id))['outcome'], 'ok');
        rmSync(filler);
        const ofIds = async (on: Server) => (await listed(on)).filter(({ id }) => ids.includes(String(id)));
        await eventually('their ends are written', async () =>
          (await ofIds(server)).every(({ outcome }) => outcome === 'ok'),
        );
        await run(server, sh('echo later', { background: true }));
        const seconds = mark();
        await run(server, sh(`sleep ${seconds}`, { background: true }));
        await eventually('one runs', () => sleeping(seconds) === 1);
        await kill(server, 'gateway');
        fill();
        await assert.rejects(
          server.start('gateway'),
          /disk is full: the administrator makes room on the disk of NOX_STATE/,
        );
        rmSync(filler);
        const again = await server.start('gateway');
        assert.equal((await ofIds(again)).length, 3);
        assert.equal((await run(again, sh('true'))).status, 200);
      });
    } finally {
      execFileSync('umount', [disk]);
      rmSync(dir, { recursive: true });
    }
  },
);
