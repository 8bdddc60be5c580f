/** Started by test/unit/run-faults.test.ts with the gateway's state on a disk of 4 MiB; prints what came of it. */
import { rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ADMIN } from '../../src/gateway/principal.ts';
import { Quota } from '../../src/gateway/quota.ts';
import { newRunId } from '../../src/gateway/store/ids.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import { accept, END, events, log, make, never, order, rowOf, until } from './book.ts';

const [dir = ''] = process.argv.slice(2);
const state = join(dir, 'state');
const filler = join(dir, 'filler');
const go = Promise.withResolvers<undefined>();
const made = make(
  async function* ({ stdin }) {
    yield { type: 'started' };
    if (stdin === 'loud')
      for (let each = 0; each < 200; each += 1) {
        yield { type: 'output', stream: 'stdout', data: Buffer.alloc(65_536, 'x') };
        await sleep(1);
      }
    else await go.promise;
    yield END;
  },
  { dir: state, slots: 3, outputBytes: 100_000_000 },
);
const { book, store } = made;
const stateOf = (id: string) => rowOf(made, id)?.state;
const outcomeOf = (id: string) => book.record(id, ADMIN).result?.outcome;

// One run prints more than the disk has.
const loud = accept(made, order({ stdin: 'loud' }));
await until('the loud one has ended', () => stateOf(loud) === 'ended');
const { bsize, bavail } = statfsSync(dir);
const spared = bsize * bavail;
const truncated = book.record(loud, ADMIN).truncated;
const printed = statSync(join(state, 'runs', `${loud}.ndjson`)).size;

const background = [0, 1, 2].map(() => accept(made, order()));
const queued = accept(made, order());
const waiting = book.wait(order(), never);
const watched = await book.watch(order(), never);
await until('three run', () => background.every((id) => stateOf(id) === 'running'));
await until('so do those that are seen', () => store.runs.page(ADMIN, {}, 10).runs.length === 7);

for (let size = 65_536; size >= 1; size /= 2)
  for (let more = true; more;)
    try {
      writeFileSync(filler, Buffer.alloc(size), { flag: 'a' });
    } catch {
      more = false;
    }
// What the database has already been given it still uses.
const insert = () => {
  const run = { id: newRunId(Date.now()), token: 'x', runtime: 'x', workspace: undefined, requestId: 'x' };
  store.runs.insert({ ...run, state: 'queued', request: '' });
};
for (let more = true; more;)
  try {
    insert();
  } catch {
    more = false;
  }

const quota = new Quota(store.usage);
let refusal = 'none';
let refused: string | undefined;
const before = made.asked.length;
try {
  book.background((id) => {
    refused = id;
    return order({}, quota.admit(ADMIN, 1));
  });
} catch (error) {
  refusal = error instanceof NoxError ? `${error.code}: ${error.message}` : String(error);
}
const half = {
  running: quota.left(ADMIN).running,
  asked: made.asked.length - before,
  kept: store.runs.page(ADMIN, {}, 1000).runs.some(({ id }) => id === refused),
};

go.resolve(undefined);
const { run: waitedFor } = await waiting;
await watched.ended;
const open = [...background, waitedFor.record.id, watched.record.id];
await until('they have ended', () => open.every((id) => book.record(id, ADMIN).state === 'ended'));
// Each has been tried to be written, and once more.
await sleep(1500);
const whileFull = { told: open.map(outcomeOf), written: open.map(stateOf) };

rmSync(filler);
const all = [...open, queued];
await until('they are written', () => all.every((id) => stateOf(id) === 'ended'));
const later = accept(made, order());
await until('the later one has ended', () => stateOf(later) === 'ended');
const lastEvents = await Promise.all(background.map(async (id) => (await events(book, id)).at(-1)));
await book.stop(0);
store.close();
const next = Store.open(state, { runs: 1000, days: 1 }, log);
const { ended: cutOff } = next.runs.interrupted();
const outcomes = [...all, later].map((id) => next.runs.get(id, ADMIN).outcome);
next.close();
process.stdout.write(
  JSON.stringify({ spared, truncated, printed, refusal, half, whileFull, cutOff, outcomes, lastEvents }),
);
process.exit(0);
