import assert from 'node:assert/strict';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { pino } from 'pino';
import { ADMIN, type Principal } from '../../src/gateway/principal.ts';
import { Database } from '../../src/gateway/store/database.ts';
import { newRunId } from '../../src/gateway/store/ids.ts';
import { MIGRATIONS } from '../../src/gateway/store/migrations.ts';
import { CUT_OFF, lastSql, pageSql, type NewRun } from '../../src/gateway/store/runs.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { PAGE_SQL, PREFIX_SQL } from '../../src/gateway/store/tokens.ts';
import { dayOf } from '../../src/gateway/store/usage.ts';
import { NoxError, type ErrorCode } from '../../src/protocol/errors.ts';
import { eventually } from '../support/server.ts';

const log = pino({ level: 'silent' });
const KEEP = { runs: 1e6, days: 30 };
const DAY_MS = 86_400_000;
const ALICE: Principal = { ...ADMIN, id: 'tok_alice', scopes: new Set(['run']) };
const WRITER = fileURLToPath(new URL('../support/store-writer.ts', import.meta.url));
const FULL = fileURLToPath(new URL('../support/store-full.ts', import.meta.url));

let dir: string;
let store: Store;
let file: string;
beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), 'nox-store-')), 'state');
  file = join(dir, 'nox.db');
  store = Store.open(dir, KEEP, log);
});
afterEach(() => {
  try {
    store.close();
  } catch {
    // Closed by the test.
  }
  rmSync(join(dir, '..'), { recursive: true });
});

/** A process that writes into the state, once it has begun; and what it says that it has written. */
async function startWriter(): Promise<{ readonly child: ChildProcess; readonly told: () => string }> {
  const path = join(dir, '..', 'told');
  const out = openSync(path, 'w');
  const child = spawn(process.execPath, [WRITER, dir], {
    stdio: ['ignore', out, 'inherit'],
  });
  closeSync(out);
  const told = () => readFileSync(path, 'utf8');
  await eventually('the first write', () => told() !== '');
  return { child, told };
}

const reopen = () => {
  store.close();
  store = Store.open(dir, KEEP, log);
};
const isCode = (code: ErrorCode) => (error: unknown) => error instanceof NoxError && error.code === code;

function newRun(more: Partial<NewRun> = {}): NewRun {
  const run = { token: 'tok_alice', runtime: 'python', workspace: 'default', requestId: 'r' };
  return { id: newRunId(Date.now()), ...run, state: 'running', ...more };
}

/** Runs that have all ended, the oldest first. */
function fill(count: number, of: (n: number) => Partial<NewRun> = () => ({}), ended = Date.now()): string[] {
  return store.durably(() =>
    Array.from({ length: count }, (_, n) => {
      const run = newRun(of(n));
      store.runs.insert(run, ended);
      store.runs.finish(run.id, { outcome: n % 10 === 0 ? 'failed' : 'ok', result: '{}' }, ended);
      return run.id;
    }),
  );
}

describe('the file', () => {
  test('is for its owner alone, with its log, whatever the umask and the modes before', () => {
    store.close();
    chmodSync(dir, 0o755);
    chmodSync(file, 0o666);
    const umask = process.umask(0);
    try {
      store = Store.open(dir, KEEP, log);
      store.tokens.page(1);
      fill(1);
    } finally {
      process.umask(umask);
    }
    assert.equal(statSync(dir).mode & 0o7777, 0o700);
    for (const path of [file, `${file}-wal`]) assert.equal(statSync(path).mode & 0o7777, 0o600, path);
  });

  const refused = (pattern: RegExp) => {
    assert.throws(
      () => Store.open(dir, KEEP, log),
      (error: Error) => {
        assert.match(error.message, pattern);
        assert.ok(error.message.includes(dir), error.message);
        return true;
      },
    );
  };

  test('of a newer version is refused by name and left as it is', () => {
    store.close();
    const db = new DatabaseSync(file);
    db.exec(`PRAGMA user_version=${MIGRATIONS.length + 1}`);
    db.close();
    const before = readFileSync(file);
    const known = MIGRATIONS.length;
    refused(
      new RegExp(
        `nox\\.db has version ${known + 1}, this Nox knows ${known}: install the Nox that wrote it or a newer one`,
      ),
    );
    assert.deepEqual(readFileSync(file), before);
  });

  test('of another program is refused', () => {
    store.close();
    rmSync(file);
    const db = new DatabaseSync(file);
    db.exec('CREATE TABLE theirs (a)');
    db.close();
    refused(/is a database of another program: set NOX_STATE/);
  });

  test('in use by another gateway is refused', { timeout: 60_000 }, async () => {
    store.close();
    const { child } = await startWriter();
    try {
      refused(/nox\.db is in use: another gateway runs on it; stop that one/);
    } finally {
      const closed = once(child, 'close');
      child.kill('SIGKILL');
      await closed;
    }
  });

  const DAMAGES: Record<string, () => void> = {
    garbage: () => writeFileSync(file, Buffer.alloc(20_000, 'garbage')),
    'a torn header': () => writeFileSync(file, readFileSync(file).fill(0, 0, 100)),
    'half of it': () => truncateSync(file, statSync(file).size / 2),
    'a page of tokens overwritten': () => {
      const bytes = readFileSync(file);
      const at = bytes.lastIndexOf('tok_');
      writeFileSync(file, bytes.fill(0xff, at - (at % 4096), at - (at % 4096) + 4096));
    },
    'nothing, beside its log': () => {
      writeFileSync(`${file}-wal`, Buffer.alloc(5000, 1));
      writeFileSync(file, '');
    },
  };
  for (const [name, damage] of Object.entries(DAMAGES)) {
    test(`${name} is refused by name, with the remedy, and never replaced`, () => {
      store.tokens.create(RIGHTS);
      fill(100);
      store.close();
      damage();
      const before = readFileSync(file);
      refused(/nox\.db is damaged \(.*\): restore it from a backup, or move it and .*nox\.db-wal away/s);
      assert.deepEqual(readFileSync(file), before);
    });
  }

  const IN_PLACE: Record<string, () => void> = {
    'a symbolic link': () => symlinkSync('/etc/passwd', file),
    'a directory': () => mkdirSync(file),
  };
  for (const [name, make] of Object.entries(IN_PLACE)) {
    test(`${name} in its place is refused`, () => {
      store.close();
      rmSync(file);
      make();
      refused(/NOX_STATE: cannot use .*: make it a directory of the server's user/);
    });
  }

  test('every step leads to the tables of a new file, one after the other', () => {
    const schema = (path: string) => {
      const db = new DatabaseSync(path);
      const rows = db.prepare('SELECT name, sql FROM sqlite_schema ORDER BY name').all();
      db.close();
      return JSON.stringify(rows);
    };
    store.close();
    const old = join(dir, 'old.db');
    const db = new DatabaseSync(old);
    for (const step of MIGRATIONS) db.exec(step);
    db.close();
    assert.equal(schema(old), schema(file));
  });

  test('a transaction is all or nothing, also inside another one', () => {
    const run = newRun();
    assert.throws(() =>
      store.durably(() => {
        store.runs.insert(run);
        throw new Error('no');
      }),
    );
    assert.throws(() => store.runs.get(run.id, ADMIN), isCode('run_not_found'));
    store.durably(() => store.durably(() => store.runs.insert(run)));
    assert.equal(store.runs.get(run.id, ADMIN).id, run.id);
  });

  test('what is promised to be durable is not put into a transaction that is not', () => {
    const db = Database.open(':memory:', log);
    assert.throws(() => db.transaction(() => db.durably(() => 1)), /not durable/);
    db.close();
  });
});

const RIGHTS = {
  ...{ name: 'n', scopes: ['run'] as const, runtimes: null, workspaces: null, quotas: {}, expires: null },
};

test(
  'killed at any moment, again and again: intact, with every write that was acknowledged',
  { timeout: 300_000 },
  async () => {
    store.close();
    const seen = new Map<string, string>();
    for (let round = 0; round < 25; round += 1) {
      const { child, told } = await startWriter();
      await sleep(Math.random() * 150);
      child.kill('SIGKILL');
      await once(child, 'close');
      // A line that is whole was acknowledged.
      for (const line of told().split('\n').slice(0, -1)) {
        const [state = '', id = ''] = line.split(' ');
        seen.set(id, state);
      }
    }
    const db = new DatabaseSync(file);
    assert.deepEqual({ ...db.prepare('PRAGMA integrity_check').get() }, { integrity_check: 'ok' });
    assert.deepEqual(db.prepare('PRAGMA foreign_key_check').all(), []);
    const count = (sql: string) => Number(Object.values(db.prepare(sql).get() ?? {})[0]);
    const runs = count('SELECT count(*) FROM runs');
    // Written together, or not at all.
    assert.equal(count('SELECT count(*) FROM idempotency JOIN runs ON idempotency.run = runs.id'), runs);
    assert.equal(count('SELECT count(*) FROM runs JOIN run_data USING (n)'), runs);
    db.close();
    store = Store.open(dir, KEEP, log);
    const ORDER = ['queued', 'running', 'ended'];
    for (const [id, state] of seen) {
      if (state === 'token') assert.equal(store.tokens.get(id).id, id);
      // One more may have been written than was told.
      else
        assert.ok(ORDER.indexOf(store.runs.get(id, ADMIN).state) >= ORDER.indexOf(state), `${id} ${state}`);
    }
    assert.ok(seen.size > 25, `${seen.size} writes`);
    const { ended, queued } = store.runs.interrupted();
    for (const id of ended) {
      const { state, outcome, reason } = store.runs.get(id, ADMIN);
      assert.deepEqual([state, outcome, reason], ['ended', 'sandbox_error', CUT_OFF]);
    }
    for (const id of queued) assert.ok(store.runs.request(id) !== undefined);
  },
);

test('a full disk: told by name, nothing lost, reading goes on, and so does writing afterwards', async () => {
  const small = mkdtempSync(join(tmpdir(), 'nox-full-'));
  chmodSync(small, 0o777);
  const { stdout } = await promisify(execFile)(
    'bwrap',
    [
      ...['--bind', '/', '/', '--dev', '/dev', '--size', '4194304', '--tmpfs', small],
      process.execPath,
      FULL,
      small,
    ],
    { maxBuffer: 1 << 24 },
  );
  rmSync(small, { recursive: true });
  const told = JSON.parse(stdout) as {
    accepted: string[];
    acceptedWhileFull: number;
    visible: number;
    letIn: boolean;
    refusals: string[];
    refusedWhileFull: number;
    queued: string[];
    usage: unknown;
    errors: number;
  };
  assert.ok(told.refusedWhileFull >= 20);
  for (const refusal of told.refusals)
    assert.match(
      refusal,
      /^internal: The server's state cannot be written, because its disk is full: .*NOX_STATE/,
    );
  assert.equal(told.visible, told.acceptedWhileFull);
  assert.ok(told.letIn, 'a token is let in, though its use cannot be noted');
  assert.equal(told.accepted.length, told.acceptedWhileFull + 20, 'with room again, all are taken');
  assert.equal(told.refusals.length, told.refusedWhileFull);
  assert.deepEqual(told.queued, told.accepted);
  assert.deepEqual(told.usage, { runs: 1, cpuMs: 5000 });
  assert.equal(told.errors, 1, 'one line in the log');
});

describe('runs', () => {
  test('queued, running, ended; the request is kept until then, the first end for good', () => {
    const run = newRun({ state: 'queued', request: '{"code":1}', metadata: '{"a":1}' });
    store.runs.insert(run, 1000);
    assert.deepEqual(
      { ...store.runs.get(run.id, ALICE) },
      {
        ...{ id: run.id, token: 'tok_alice', created: 1000, started: null, ended: null, state: 'queued' },
        ...{
          runtime: 'python',
          workspace: 'default',
          outcome: null,
          reason: null,
          requestId: 'r',
          metadata: '{"a":1}',
        },
      },
    );
    assert.equal(store.runs.request(run.id), '{"code":1}');
    assert.equal(store.runs.markRunning(run.id, 2000), true);
    assert.equal(store.runs.markRunning(run.id, 2001), false);
    assert.equal(store.runs.finish(run.id, { outcome: 'ok', result: '{"b":2}' }, 3000), true);
    assert.equal(store.runs.finish(run.id, { outcome: 'cancelled', result: '{}' }, 3001), false);
    const { state, started, ended, outcome } = store.runs.get(run.id, ALICE);
    assert.deepEqual([state, started, ended, outcome], ['ended', 2000, 3000, 'ok']);
    assert.deepEqual([store.runs.request(run.id), store.runs.result(run.id)], [undefined, '{"b":2}']);
  });

  test('an end without a start, and one of a run that is not there', () => {
    const run = newRun({ state: 'queued', request: '{}' });
    store.runs.insert(run);
    assert.equal(store.runs.finish(run.id, { outcome: 'cancelled', reason: 'asked' }), true);
    assert.equal(store.runs.markRunning(run.id), false);
    assert.equal(store.runs.finish('run_none', { outcome: 'ok' }), false);
  });

  test('a run is seen by its token and by administrators, by nobody else', () => {
    const run = newRun();
    store.runs.insert(run);
    assert.equal(store.runs.get(run.id, ADMIN).id, run.id);
    for (const other of ['tok_bob', 'tok_alic', '%', '', "' OR 1=1 --"]) {
      const principal = { ...ALICE, id: other };
      assert.throws(() => store.runs.get(run.id, principal), isCode('run_not_found'));
      assert.deepEqual(store.runs.page(principal, {}, 100).runs, []);
    }
    assert.throws(() => store.runs.get("' OR 1=1 --", ADMIN), isCode('run_not_found'));
  });

  test('after a restart: the running ended with the reason, the queued come back in order', () => {
    const queued = [0, 1, 2].map(() => newRun({ state: 'queued', request: '{}' }));
    // The clock goes backwards: the order is that in which they were accepted.
    queued.forEach((run, n) => store.runs.insert(run, 5000 - n));
    const running = newRun();
    store.runs.insert(running);
    reopen();
    assert.deepEqual(store.runs.interrupted(), { ended: [running.id], queued: queued.map(({ id }) => id) });
    const { outcome, reason } = store.runs.get(running.id, ADMIN);
    assert.deepEqual([outcome, reason], ['sandbox_error', CUT_OFF]);
    assert.deepEqual(store.runs.interrupted().ended, []);
  });

  test('pages: each run once, newest first, while others are added and removed', () => {
    const ids = fill(250);
    const got: string[] = [];
    let after: string | undefined;
    for (let page = 0; page < 10; page += 1) {
      const { runs, next } = store.runs.page(ALICE, {}, 100, after);
      got.push(...runs.map(({ id }) => id));
      fill(10);
      if (next === null) break;
      after = next;
    }
    assert.deepEqual(got, ids.toReversed());
    assert.deepEqual(store.runs.page(ALICE, {}, 100, 'run_gone'), { runs: [], next: null });
  });

  test('property: pages with any filter and limit are the runs that a plain loop finds', () => {
    const runtimes = ['python', 'bash'];
    const workspaces = ['a', 'b', undefined];
    const all = fill(120, (n) => ({
      token: n % 3 === 0 ? 'tok_alice' : 'tok_bob',
      ...{ runtime: runtimes[n % 2] ?? '', workspace: workspaces[n % 5] },
    })).map((id) => store.runs.get(id, ADMIN));
    fc.assert(
      fc.property(
        fc.constantFrom(ADMIN, ALICE),
        fc.record(
          {
            outcome: fc.constantFrom('ok' as const, 'failed' as const),
            runtime: fc.constantFrom(...runtimes, 'none'),
            workspace: fc.constantFrom('a', 'b'),
            ended: fc.boolean(),
          },
          { requiredKeys: [] },
        ),
        fc.integer({ min: 1, max: 130 }),
        (principal, filter, limit) => {
          const expected = all
            .filter((run) => principal === ADMIN || run.token === principal.id)
            .filter((run) => filter.ended === undefined || filter.ended === (run.ended !== null))
            .filter((run) =>
              (['outcome', 'runtime', 'workspace'] as const).every((name) =>
                [undefined, run[name]].includes(filter[name]),
              ),
            )
            .map(({ id }) => id)
            .toReversed();
          const got: string[] = [];
          let after: string | undefined;
          do {
            const page = store.runs.page(principal, filter, limit, after);
            assert.ok(page.runs.length <= limit);
            got.push(...page.runs.map(({ id }) => id));
            after = page.next ?? undefined;
          } while (after !== undefined);
          assert.deepEqual(got, expected);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('a filter that nearly nothing fits: a page looks at a bounded number, and the next goes on', () => {
    const [needle] = fill(1, () => ({ runtime: 'perl' }));
    fill(10_050);
    const first = store.runs.page(ALICE, { runtime: 'perl' }, 10);
    assert.deepEqual(first.runs, []);
    assert.ok(first.next !== null);
    const second = store.runs.page(ALICE, { runtime: 'perl' }, 10, first.next);
    assert.deepEqual([second.runs.map(({ id }) => id), second.next], [[needle], null]);
  });

  test('pages go by an index and sort nothing, however many runs there are', () => {
    fill(1000);
    store.close();
    const db = new DatabaseSync(file);
    const plan = (sql: string) =>
      db
        .prepare(`EXPLAIN QUERY PLAN ${sql}`)
        .all(...Array.from(sql.matchAll(/\?/g), () => null))
        .map(({ detail }) => String(detail));
    const FILTERS = ['ended', 'outcome', 'runtime', 'workspace'] as const;
    for (const owned of [true, false])
      for (const names of [
        [],
        ...FILTERS.map((name) => [name]),
        [...FILTERS],
      ] as (typeof FILTERS)[number][][]) {
        const expected = owned
          ? /^SEARCH runs USING INDEX runs_by_token \(token=\? AND rowid<\?\)$/
          : /^SEARCH runs USING INTEGER PRIMARY KEY \(rowid<\?\)$/;
        const steps = plan(pageSql(owned, names));
        assert.equal(steps.filter((step) => expected.test(step)).length, 1, steps.join('\n'));
        assert.ok(!steps.some((step) => /TEMP B-TREE|SCAN runs/.test(step)), steps.join('\n'));
      }
    for (const owned of [true, false])
      assert.match(plan(lastSql(owned)).join('\n'), /^SEARCH runs USING (COVERING INDEX|INDEX|INTEGER)/);
    assert.match(plan(PREFIX_SQL).join('\n'), /^SEARCH tokens USING INDEX \S+ \(prefix=\?\)$/);
    assert.match(plan(PAGE_SQL)[0] ?? '', /^SEARCH tokens USING INTEGER PRIMARY KEY \(rowid<\?\)$/);
    db.close();
  });

  test('forgotten by age and by number, the oldest first; what has not ended stays', () => {
    const now = Date.now();
    const waiting = newRun({ state: 'queued', request: '{}' });
    store.runs.insert(waiting, now - 90 * DAY_MS);
    fill(700, undefined, now - 31 * DAY_MS);
    const kept = fill(50, undefined, now - DAY_MS);
    while (store.prune(now));
    assert.deepEqual(
      store.runs.page(ADMIN, {}, 1000).runs.map(({ id }) => id),
      [...kept.toReversed(), waiting.id],
    );
    while (store.runs.prune({ runs: 11, since: 0, bytes: Infinity }));
    assert.deepEqual(
      store.runs.page(ADMIN, {}, 1000).runs.map(({ id }) => id),
      [...kept.slice(-10).toReversed(), waiting.id],
    );
  });

  test('forgotten by size', () => {
    const big = 'x'.repeat(200_000);
    const ids = Array.from({ length: 60 }, () => {
      const run = newRun();
      store.runs.insert(run);
      store.runs.finish(run.id, { outcome: 'ok', result: big });
      return run.id;
    });
    while (store.runs.prune({ runs: 1e6, since: 0, bytes: 5_000_000 }));
    const left = store.runs.page(ADMIN, {}, 100).runs.map(({ id }) => id);
    assert.ok(left.length > 0 && left.length < 25, `${left.length} are left`);
    assert.deepEqual(left, ids.slice(-left.length).toReversed());
    store.prune();
    store.close();
    assert.ok(statSync(file).size < 8_000_000, `${statSync(file).size} bytes`);
  });

  test('ids sort by time and do not repeat', () => {
    const ids = Array.from({ length: 1000 }, (_, n) => newRunId(1_700_000_000_000 + n));
    for (const id of ids) assert.match(id, /^run_[0-9a-hjkmnp-tv-z]{24}$/);
    assert.deepEqual(ids.toSorted(), ids);
    assert.equal(new Set(Array.from({ length: 10_000 }, () => newRunId(0))).size, 10_000);
  });
});

describe('idempotency', () => {
  const reserve = (key: string, request: string, run?: string, now?: number) =>
    store.idempotency.reserve('tok_a', key, request, run, now);

  test('the same key: the run, the answer, or word that somebody is at it; never new again', () => {
    assert.deepEqual(reserve('a', 'x', 'run_1'), { kind: 'new' });
    assert.deepEqual(reserve('a', 'x', 'run_2'), { kind: 'run', run: 'run_1' });
    assert.deepEqual(reserve('b', 'x'), { kind: 'new' });
    assert.deepEqual(reserve('b', 'x'), { kind: 'pending' });
    store.idempotency.complete('tok_a', 'b', 201, '{"a":1}');
    store.idempotency.complete('tok_a', 'b', 500, 'later');
    assert.deepEqual(reserve('b', 'x'), { kind: 'answer', status: 201, body: '{"a":1}' });
  });

  test('another request under the key is a conflict; another token’s key is another key', () => {
    reserve('a', 'x', 'run_1');
    assert.throws(() => reserve('a', 'y'), isCode('idempotency_conflict'));
    assert.deepEqual(store.idempotency.reserve('tok_b', 'a', 'y'), { kind: 'new' });
  });

  test('across a crash: the run’s fate, and nothing runs again', () => {
    const run = newRun();
    store.durably(() => {
      reserve('a', 'x', run.id);
      store.runs.insert(run);
    });
    reserve('b', 'x');
    reopen();
    store.runs.interrupted();
    assert.deepEqual(reserve('a', 'x', 'run_new'), { kind: 'run', run: run.id });
    assert.equal(store.runs.get(run.id, ADMIN).outcome, 'sandbox_error');
    assert.deepEqual(reserve('b', 'x'), { kind: 'interrupted' });
  });

  test('a reservation and its run are one: without the run there is no reservation', () => {
    assert.throws(() =>
      store.durably(() => {
        reserve('a', 'x', 'run_1');
        throw new Error('refused');
      }),
    );
    assert.deepEqual(reserve('a', 'x', 'run_2'), { kind: 'new' });
    store.idempotency.abandon('tok_a', 'a');
    assert.deepEqual(reserve('a', 'other'), { kind: 'new' });
  });

  test('a key is known for a day, then it is new; what was answered cannot be abandoned', () => {
    const now = Date.now();
    reserve('a', 'x', undefined, now);
    store.idempotency.complete('tok_a', 'a', 200, '');
    store.idempotency.abandon('tok_a', 'a');
    assert.equal(reserve('a', 'x', undefined, now + DAY_MS - 1).kind, 'answer');
    // The clock was set back.
    assert.equal(reserve('a', 'x', undefined, now - DAY_MS).kind, 'answer');
    assert.deepEqual(reserve('a', 'y', undefined, now + DAY_MS), { kind: 'new' });
    for (let key = 0; key < 700; key += 1) reserve(String(key), 'x', undefined, now);
    while (store.idempotency.prune(now + DAY_MS));
    assert.equal(reserve('5', 'x', undefined, now).kind, 'new');
  });

  test('a long answer is not kept, its status is', () => {
    reserve('a', 'x');
    store.idempotency.complete('tok_a', 'a', 200, 'x'.repeat(65_537));
    assert.deepEqual(reserve('a', 'x'), { kind: 'answer', status: 200, body: undefined });
  });

  test('property: of any order of calls under one key at most one is new, unless it was abandoned', () => {
    let n = 0;
    fc.assert(
      fc.property(fc.array(fc.constantFrom('reserve', 'complete', 'crash'), { maxLength: 8 }), (calls) => {
        n += 1;
        const key = `p${n}`;
        const kinds = calls.flatMap((call) => {
          if (call === 'reserve') return [reserve(key, 'x').kind];
          if (call === 'complete') store.idempotency.complete('tok_a', key, 200, '');
          else reopen();
          return [];
        });
        assert.deepEqual(
          kinds.map((kind) => kind === 'new'),
          kinds.map((_, index) => index === 0),
        );
      }),
      { numRuns: 50 },
    );
  });
});

describe('usage', () => {
  const noon = Date.UTC(2026, 1, 3, 12);

  test('is added up by UTC day, before and after it is written, and over a restart', () => {
    store.usage.add('a', 1500.4, noon);
    store.usage.add('a', 500, noon);
    store.usage.add('b', 1, noon);
    store.usage.add('a', 7, noon + DAY_MS);
    assert.deepEqual(store.usage.of('a', noon), { runs: 2, cpuMs: 2000 });
    store.usage.flush();
    store.usage.add('a', 1, noon);
    assert.deepEqual(store.usage.of('a', noon), { runs: 3, cpuMs: 2001 });
    reopen();
    assert.deepEqual(store.usage.of('a', noon), { runs: 3, cpuMs: 2001 });
    assert.deepEqual(store.usage.of('a', noon + DAY_MS), { runs: 1, cpuMs: 7 });
    assert.deepEqual(store.usage.of('c', noon), { runs: 0, cpuMs: 0 });
    assert.equal(dayOf(Date.UTC(2026, 1, 3, 23, 59, 59)), '2026-02-03');
  });

  test('is forgotten after 400 days', () => {
    store.usage.add('a', 1, noon);
    store.usage.flush();
    store.usage.prune(noon + 400 * DAY_MS);
    assert.equal(store.usage.of('a', noon).runs, 1);
    store.usage.prune(noon + 401 * DAY_MS);
    assert.equal(store.usage.of('a', noon).runs, 0);
  });
});
