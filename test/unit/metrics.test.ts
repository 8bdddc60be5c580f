/** What /metrics says: valid, bounded whatever clients send, and the same as the documents and the dashboard say. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { Metrics } from '../../src/gateway/metrics.ts';
import type { RunResult } from '../../src/protocol/messages.ts';
import { RunnerStatus } from '../../src/protocol/status.ts';
import { validator } from '../../src/protocol/validate.ts';
import { parseExposition, type Family } from '../support/exposition.ts';

const STATUS: RunnerStatus = {
  queue: { waiting: 3, size: 128 },
  slots: { busy: 2, size: 4 },
  warm: { workspaces: 1, zygotes: 2, cells: 5, memoryBytes: 12_000_000 },
  memoryBytes: 90_000_000,
};
const RESULT: RunResult = {
  outcome: 'timeout',
  exitCode: null,
  signal: 9,
  omitted: { stdout: 0, stderr: 0 },
  limit: { name: 'wallSeconds', value: 2, unit: 'seconds' },
  usage: {
    ...{ wallSeconds: 2, userSeconds: 0.5, systemSeconds: 0.25, peakMemoryBytes: 1, peakProcesses: 1 },
    ...{ stdinBytes: 0, stdoutBytes: 0, stderrBytes: 0 },
  },
  timings: { queueSeconds: 0.3, prepareSeconds: 0.01, runSeconds: 1.99 },
};
const REQUEST = {
  ...{ route: '/run_py', method: 'POST', status: 200, seconds: 0.02, bytesIn: 10, bytesOut: 20 },
  failure: undefined,
};

const full = () =>
  new Metrics({
    runnerStatus: () => Promise.resolve(STATUS),
    audit: () => ({ head: { seq: 7, hash: '' }, lost: 2, waiting: 1 }),
    traces: () => ({ sent: 5, dropped: 1 }),
  });

async function scrape(metrics: Metrics): Promise<Map<string, Family>> {
  const text = await metrics.render();
  metrics.close();
  return parseExposition(text);
}
const value = (families: Map<string, Family>, name: string, labels: Record<string, string> = {}) =>
  [...families.values()]
    .flatMap(({ samples }) => samples)
    .find(
      (sample) =>
        sample.name === name && Object.entries(labels).every(([key, each]) => sample.labels[key] === each),
    )?.value;

test('a run: outcome, limit, times', async () => {
  const metrics = full();
  metrics.runBegan();
  metrics.runEnded('python', RESULT);
  metrics.runBegan();
  metrics.runFailed('command', 'queue_full');
  metrics.runBegan();
  metrics.runFailed('command', 'cancelled');
  const found = await scrape(metrics);
  assert.equal(value(found, 'nox_runs_total', { runtime: 'python', outcome: 'timeout' }), 1);
  assert.equal(value(found, 'nox_runs_total', { runtime: 'command', outcome: 'cancelled' }), 1);
  assert.equal(value(found, 'nox_runs_refused_total', { code: 'queue_full' }), 1);
  assert.equal(value(found, 'nox_limits_fired_total', { limit: 'wallSeconds' }), 1);
  assert.equal(value(found, 'nox_run_queue_seconds_sum'), 0.3);
  assert.equal(value(found, 'nox_run_wall_seconds_count', { runtime: 'python' }), 1);
  assert.equal(value(found, 'nox_run_cpu_seconds_total'), 0.75);
  assert.equal(value(found, 'nox_runs_in_flight'), 0);
});

test('what the runner and the audit file say', async () => {
  validator(RunnerStatus)(STATUS);
  const found = await scrape(full());
  const expected = {
    nox_queue_length: 3,
    nox_slots_busy: 2,
    nox_slots: 4,
    nox_warm_cells: 5,
    nox_runner_up: 1,
  };
  for (const [name, number] of Object.entries(expected)) assert.equal(value(found, name), number, name);
  assert.equal(value(found, 'nox_audit_lost_lines_total'), 2);
  assert.equal(value(found, 'nox_trace_spans_dropped_total'), 1);
});

test('a runner that does not answer, or fails, is down; its old values are not repeated', async () => {
  const answers = [Promise.resolve(STATUS), Promise.reject(new Error('gone')), Promise.resolve(undefined)];
  const metrics = new Metrics({ runnerStatus: () => answers.shift() ?? new Promise(() => undefined) });
  assert.match(await metrics.render(), /^nox_slots_busy 2$/m);
  for (let round = 0; round < 3; round += 1) {
    const text = await metrics.render();
    assert.match(text, /^nox_runner_up 0$/m);
    assert.doesNotMatch(text, /^nox_slots_busy /m);
  }
  metrics.close();
});

test('hostile names become no label', async () => {
  const metrics = full();
  const bounded = (await metrics.render()).split('\n').length;
  for (let n = 0; n < 500; n += 1) {
    const evil = `x"} 1\nnox_forged{a="\\${String(n)}`;
    metrics.requestBegan();
    metrics.requestEnded({ ...REQUEST, route: undefined, method: evil, failure: evil });
    metrics.runBegan();
    metrics.runEnded(evil, { ...RESULT, outcome: evil as 'ok', limit: { name: evil, value: 1, unit: '' } });
    metrics.runBegan();
    metrics.runFailed(evil, evil);
  }
  const text = await metrics.render();
  assert.doesNotMatch(text, /forged/);
  assert(text.split('\n').length < bounded + 60);
  const found = parseExposition(text);
  assert.equal(value(found, 'nox_runs_total', { runtime: 'other', outcome: 'other' }), 500);
  metrics.close();
});

test('whatever is observed, the text is valid', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          route: fc.string(),
          status: fc.integer({ min: 100, max: 599 }),
          seconds: fc.double({ min: 0, max: 1e6, noNaN: true }),
        }),
      ),
      async (requests) => {
        const metrics = new Metrics();
        for (const each of requests) {
          metrics.requestBegan();
          metrics.requestEnded({ ...REQUEST, ...each });
        }
        const found = await scrape(metrics);
        const family = found.get('nox_http_request_duration_seconds');
        const count = family?.samples.filter(({ name }) => name.endsWith('_count')) ?? [];
        assert.equal(
          count.reduce((sum, each) => sum + each.value, 0),
          requests.length,
        );
        // A label comes back as it was, whatever is in it.
        const routes = new Set(count.map(({ labels }) => labels['route']));
        assert.deepEqual(routes, new Set(requests.map(({ route }) => route)));
      },
    ),
    { numRuns: 60 },
  );
});

describe('names', () => {
  const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
  const exposed = async () => [...(await scrape(full())).keys()].sort();

  test('docs/operations.md has each metric with its help, and no other', async () => {
    const families = await scrape(full());
    const rows = [
      ...read('docs/operations.md').matchAll(/^\| `((?:nox|process)_\w+)` +\| (\w+) +\| (.*?) +\|/gm),
    ].map(([, name, type, help]) => `${name} ${type} ${help}`);
    const expected = [...families.values()].map(({ name, type, help }) => `${name} ${type} ${help}`);
    assert.deepEqual(rows.sort(), expected.sort());
  });

  test('the dashboard asks for what there is', async () => {
    const dashboard = JSON.parse(read('deploy/grafana-nox.json')) as {
      uid: string;
      panels: { title: string; type: string; targets?: { expr: string }[] }[];
    };
    const names = await exposed();
    const suffixed = new Set(
      names.flatMap((name) => [name, `${name}_bucket`, `${name}_sum`, `${name}_count`]),
    );
    const asked = new Set<string>();
    for (const { title, type, targets } of dashboard.panels) {
      if (type === 'row') continue;
      assert(targets !== undefined && targets.length > 0, title);
      for (const { expr } of targets)
        for (const [name] of expr.matchAll(/\b(?:nox|process)_\w+/g)) {
          assert(suffixed.has(name), `${title}: ${name}`);
          asked.add(name.replace(/_(bucket|sum|count)$/, ''));
        }
    }
    const wanted = [
      'nox_runs_total',
      'nox_http_request_duration_seconds',
      'nox_http_errors_total',
      'nox_queue_length',
      'nox_slots_busy',
      'nox_limits_fired_total',
      'process_resident_memory_bytes',
      'nox_audit_lost_lines_total',
    ];
    for (const name of wanted) assert(asked.has(name), `no panel has ${name}`);
  });
});
