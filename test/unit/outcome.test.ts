import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  decideOutcome,
  OUTCOMES,
  type EndFacts,
  type ImposedCause,
  type Outcome,
} from '../../src/protocol/outcome.ts';

const CAUSES: readonly ImposedCause[] = [
  'timeout',
  'cpu_limit',
  'memory_limit',
  'disk_limit',
  'cancelled',
  'sandbox_error',
];
const SIGKILL = 9;
const SIGSEGV = 11;
const SIGXCPU = 24;
const SIGXFSZ = 25;

const QUIET: EndFacts = {
  cause: undefined,
  exitCode: null,
  signal: null,
  oomKilled: false,
  cpuLimitReached: false,
  processLimitHit: false,
};
const exited = (exitCode: number) => ({ exitCode });
const died = (signal: number) => ({ signal });
const OOM = { oomKilled: true };
const CPU = { cpuLimitReached: true };
const PROCESSES = { processLimitHit: true };

/** How the program ended × what the meter saw → the outcome. */
const TABLE: readonly (readonly [what: string, facts: Partial<EndFacts>, outcome: Outcome])[] = [
  ['exit 0', exited(0), 'ok'],
  ['exit 0 after a child was taken by the OOM killer', { ...exited(0), ...OOM }, 'ok'],
  ['exit 0 after a fork was refused', { ...exited(0), ...PROCESSES }, 'ok'],
  ['exit 0 at the end of its CPU time', { ...exited(0), ...CPU }, 'ok'],
  ['exit 0 in spite of everything', { ...exited(0), ...OOM, ...CPU, ...PROCESSES }, 'ok'],

  ['exit 1', exited(1), 'failed'],
  ['exit 255', exited(255), 'failed'],
  ['exit 152, as a shell reports SIGXCPU', { ...exited(152), ...CPU }, 'failed'],
  ['exit 1 after a fork was refused', { ...exited(1), ...PROCESSES }, 'process_limit'],
  ['exit 1 after a child was taken by the OOM killer', { ...exited(1), ...OOM }, 'memory_limit'],
  ['exit 1, OOM and refused fork', { ...exited(1), ...OOM, ...PROCESSES }, 'memory_limit'],

  ['SIGKILL of its own', died(SIGKILL), 'signaled'],
  ['SIGSEGV', died(SIGSEGV), 'signaled'],
  ['SIGKILL by the OOM killer', { ...died(SIGKILL), ...OOM }, 'memory_limit'],
  ['SIGKILL at the end of its CPU time', { ...died(SIGKILL), ...CPU }, 'signaled'],
  ['SIGSEGV after a fork was refused', { ...died(SIGSEGV), ...PROCESSES }, 'process_limit'],

  ['SIGXCPU at the end of its CPU time', { ...died(SIGXCPU), ...CPU }, 'cpu_limit'],
  ['SIGXCPU that it sent to itself', died(SIGXCPU), 'signaled'],
  ['SIGXCPU of its own after a fork was refused', { ...died(SIGXCPU), ...PROCESSES }, 'process_limit'],
  ['SIGXCPU at the end of its CPU time and OOM', { ...died(SIGXCPU), ...CPU, ...OOM }, 'memory_limit'],
  [
    'SIGXCPU at the end of its CPU time, refused fork',
    { ...died(SIGXCPU), ...CPU, ...PROCESSES },
    'cpu_limit',
  ],

  ['SIGXFSZ', died(SIGXFSZ), 'disk_limit'],
  ['SIGXFSZ after a fork was refused', { ...died(SIGXFSZ), ...PROCESSES }, 'disk_limit'],
  ['SIGXFSZ at the end of its CPU time', { ...died(SIGXFSZ), ...CPU }, 'disk_limit'],
  ['SIGXFSZ and OOM', { ...died(SIGXFSZ), ...OOM }, 'memory_limit'],

  ['no report', {}, 'sandbox_error'],
  ['no report at the end of its CPU time', CPU, 'sandbox_error'],
  ['no report after a fork was refused', PROCESSES, 'sandbox_error'],
  ['no report, but the OOM killer was there', OOM, 'memory_limit'],
  ['no report, OOM and refused fork', { ...OOM, ...PROCESSES }, 'memory_limit'],
];

describe('decideOutcome', () => {
  for (const [what, facts, outcome] of TABLE) {
    test(`${what}: ${outcome}`, () => {
      assert.equal(decideOutcome({ ...QUIET, ...facts }), outcome);
    });
  }

  for (const cause of CAUSES) {
    test(`${cause} imposed by Nox wins over whatever the program reported`, () => {
      for (const [what, facts] of TABLE)
        assert.equal(decideOutcome({ ...QUIET, ...facts, cause }), cause, what);
    });
  }

  test('every outcome can happen', () => {
    const seen = new Set<Outcome>(TABLE.map(([, facts]) => decideOutcome({ ...QUIET, ...facts })));
    for (const cause of CAUSES) seen.add(decideOutcome({ ...QUIET, cause }));
    assert.deepEqual([...seen].sort(), [...OUTCOMES].sort());
  });

  const end = fc.oneof(
    fc.record({ exitCode: fc.integer({ min: 0, max: 255 }), signal: fc.constant(null) }),
    fc.record({ exitCode: fc.constant(null), signal: fc.integer({ min: 1, max: 64 }) }),
    fc.constant({ exitCode: null, signal: null }),
  );
  const facts = fc
    .record({
      cause: fc.constant(undefined),
      oomKilled: fc.boolean(),
      cpuLimitReached: fc.boolean(),
      processLimitHit: fc.boolean(),
    })
    .chain((rest) => end.map((each): EndFacts => ({ ...rest, ...each })));

  test('property: `ok` is said exactly of exit code 0', () => {
    fc.assert(fc.property(facts, (each) => (decideOutcome(each) === 'ok') === (each.exitCode === 0)));
  });

  test('property: without a report it is never the program that failed', () => {
    fc.assert(
      fc.property(facts, (each) => {
        fc.pre(each.exitCode === null && each.signal === null);
        return ['sandbox_error', 'memory_limit'].includes(decideOutcome(each));
      }),
    );
  });

  test('property: no limit is blamed that was not reached', () => {
    const signs: Partial<Record<Outcome, (each: EndFacts) => boolean>> = {
      memory_limit: (each) => each.oomKilled,
      cpu_limit: (each) => each.cpuLimitReached,
      process_limit: (each) => each.processLimitHit,
      disk_limit: (each) => each.signal === SIGXFSZ,
      timeout: () => false,
      cancelled: () => false,
    };
    fc.assert(fc.property(facts, (each) => signs[decideOutcome(each)]?.(each) ?? true));
  });
});
