/** docs/api.md is true: each of its examples is executed on a real server, and its calls are those of the server. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import type { OpenApi } from '../../src/gateway/openapi.ts';
import { examplesOf, execute, faultsOf } from '../support/examples.ts';
import { endpointsOf } from '../support/openapi.ts';
import { startServer, type Server } from '../support/server.ts';

const TASKS = [
  'Run a script',
  'Grade submissions',
  'Wait for a long job',
  'Upload a data set',
  'Watch a build',
  'Give a colleague a token',
];
/** What the document says of the administrator's settings; and the time limit is not what a slow machine is to reach. */
const SETTINGS = { NOX_WEBHOOK: 'on', NOX_WEBHOOK_ALLOW: '127.0.0.0/8', NOX_TIMEOUT: '600' };

const text = readFileSync(new URL('../../docs/api.md', import.meta.url), 'utf8');
const examples = examplesOf(text);
/** In the order of the document. */
const sections = Object.groupBy(examples, ({ section }) => section);

let server: Server;
before(async () => {
  server = await startServer({ env: SETTINGS });
});
after(() => server.stop());

test('each task has its section, with examples that show their answers', () => {
  assert.deepEqual(Object.keys(sections), TASKS);
  for (const task of TASKS) {
    const answered = sections[task]?.filter(({ answer }) => answer !== undefined) ?? [];
    assert.ok(answered.length >= 2, `${task}: ${answered.length}`);
  }
});

// From the last to the first: what one has left behind is not what another needs.
for (const [section, own = []] of Object.entries(sections).reverse())
  test(`docs/api.md: ${section}`, async () => {
    const printed = await execute(own, { NOX: server.url, TOKEN: server.token });
    const faults = faultsOf(own, printed);
    assert.ok(faults.length === 0, faults.join('\n\n'));
  });

test('the calls that docs/api.md names are those of GET /openapi.json', async () => {
  const document = (await (await fetch(`${server.url}/openapi.json`)).json()) as OpenApi;
  const there = endpointsOf(document).map(({ method, path }) => `${method} ${path}`);
  const calls = text.matchAll(/`((?:GET|POST|PUT|PATCH|DELETE) \/[^\s`?]*)/g);
  const named = new Set([...calls].map(([, call = '']) => call));
  for (const [, path = ''] of text.matchAll(/`GET (\/[^\s`?]*)[^`]*`, `HEAD`/g)) named.add(`HEAD ${path}`);
  const known = new Set(there);
  const unnamed = there.filter((call) => !named.has(call));
  assert.deepEqual(unnamed, [], 'not in docs/api.md');
  const unknown = [...named].filter((call) => !known.has(call));
  assert.deepEqual(unknown, [], 'not in GET /openapi.json');
});
