/** Started by test/unit/store.test.ts with the state on a small disk; prints what came of it. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pino } from 'pino';
import { newRunId } from '../../src/gateway/store/ids.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { Authenticator } from '../../src/gateway/tokens.ts';
import { NoxError } from '../../src/protocol/errors.ts';

const [dir = ''] = process.argv.slice(2);
const filler = join(dir, 'filler');
const logged: string[] = [];
const log = pino({ level: 'info' }, { write: (line: string) => void logged.push(line) });
const keep = { runs: 1e6, days: 30 };
const admin = { id: 'admin', scopes: new Set(['admin'] as const) };
let store = Store.open(join(dir, 'state'), keep, log);

const accepted: string[] = [];
const refusals: string[] = [];
const accept = (): boolean => {
  const id = newRunId(Date.now());
  try {
    store.durably(() => {
      const run = { id, token: 'admin', runtime: 'python', workspace: undefined, requestId: 'r' };
      store.runs.insert({ ...run, state: 'queued', request: 'x'.repeat(5000) });
    });
    accepted.push(id);
    return true;
  } catch (error) {
    if (!(error instanceof NoxError)) throw error;
    refusals.push(`${error.code}: ${error.message}`);
    return false;
  }
};

const rights = { scopes: ['run'] as const, runtimes: null, workspaces: null, quotas: {}, expires: null };
const { token, secret } = store.tokens.create({ name: 'n', ...rights });
for (let each = 0; each < 20; each += 1) accept();
try {
  for (;;) writeFileSync(filler, Buffer.alloc(4096), { flag: 'a' });
} catch {
  // Full.
}
// What the file has already been given is still used.
for (let each = 0; each < 1000 && accept(); each += 1);
for (let each = 0; each < 20; each += 1) accept();
// To look at something works, and to come in: that its use cannot be noted keeps no token out.
const visible = accepted.filter((id) => {
  try {
    return store.runs.get(id, admin as never).state === 'queued';
  } catch {
    return false;
  }
}).length;
const { id: whileFull } = new Authenticator('x', store.tokens).authenticate(`Bearer ${secret}`);
const letIn = whileFull === token.id && store.tokens.get(token.id).used === null;
store.usage.add('admin', 5000);
store.usage.flush();
const refusedWhileFull = refusals.length;
const acceptedWhileFull = accepted.length;
rmSync(filler);
for (let each = 0; each < 20; each += 1) accept();
store.usage.flush();
const usage = store.usage.of('admin');
store.close();
store = Store.open(join(dir, 'state'), keep, log);
const queued = store.runs.interrupted().queued;
store.close();
const errors = logged.filter((line) => line.includes('"level":50')).length;
process.stdout.write(
  JSON.stringify({
    accepted,
    acceptedWhileFull,
    visible,
    letIn,
    refusals,
    refusedWhileFull,
    queued,
    usage,
    errors,
  }),
);
