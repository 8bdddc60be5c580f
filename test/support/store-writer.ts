/** Started, and killed, by test/unit/store.test.ts: writes without end, and prints each write that was acknowledged. */
import { writeSync } from 'node:fs';
import { pino } from 'pino';
import { newRunId } from '../../src/gateway/store/ids.ts';
import { Store } from '../../src/gateway/store/store.ts';

const [dir = ''] = process.argv.slice(2);
const store = Store.open(dir, { runs: 1e6, days: 30 }, pino({ level: 'silent' }));
for (let each = 0; ; each += 1) {
  const id = newRunId(Date.now());
  const key = `key-${id}`;
  store.durably(() => {
    store.idempotency.reserve('tok_x', key, 'request', id);
    const run = { id, token: 'tok_x', runtime: 'python', workspace: undefined, requestId: 'r' };
    store.runs.insert({ ...run, state: 'queued', request: 'x'.repeat(each % 9000) });
  });
  writeSync(1, `queued ${id}\n`);
  if (each % 2 === 0) {
    store.runs.markRunning(id);
    writeSync(1, `running ${id}\n`);
  }
  if (each % 4 === 0) {
    store.runs.finish(id, { outcome: 'ok', result: '{}' });
    writeSync(1, `ended ${id}\n`);
  }
  if (each % 10 === 0) {
    const { token } = store.tokens.create({
      ...{ name: 'n', scopes: ['run'], runtimes: null, workspaces: null, quotas: {}, expires: null },
    });
    writeSync(1, `token ${token.id}\n`);
  }
}
