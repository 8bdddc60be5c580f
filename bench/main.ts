/**
 * `make bench`: what Nox promises about speed and memory, measured next to what it is promised against.
 *
 *   node bench/main.ts [--quick] [--json] [--only latency,packages,…] [--runs N]
 *
 * Needs the compiled programs (`npm run build`). Absolute times are the machine's and the moment's; the ratios of
 * one run count. `soak` takes long and is measured only when it is asked for; --runs is for it. SPEC.md has the
 * promises. Ends with 1 for a wrong answer, never for a slow one.
 */
import { cpus, loadavg, release } from 'node:os';
import { parseArgs } from 'node:util';
import { measureBreakdown } from './breakdown.ts';
import { makeReference } from './contestants.ts';
import { measureIdle } from './idle.ts';
import { measureLatency, measurePackages } from './latency.ts';
import { measureBursts, measureLoad } from './load.ts';
import { measureMemory } from './memory.ts';
import { renderPromises, renderTable, type Section } from './report.ts';
import { Guard } from './servers.ts';
import { measureSoak } from './soak.ts';
import { measureTransfer } from './transfer.ts';
import { measureApi, measureBatch, measureHistory } from './v1.ts';
import { measureWorkspaces } from './workspaces.ts';

const DEFAULT_SECTIONS = [
  'latency',
  'packages',
  'api',
  'history',
  'batch',
  'load',
  'burst',
  'transfer',
  'idle',
  'breakdown',
  'workspaces',
  'memory',
] as const;
const SECTIONS = [...DEFAULT_SECTIONS, 'soak'] as const;
const DEADLINE_MS = 1_800_000;
/** Slower than this nobody wants to wait for it. */
const SOAK_MS_A_RUN = 100;

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean' },
    json: { type: 'boolean' },
    only: { type: 'string' },
    runs: { type: 'string' },
  },
});
interface Size {
  readonly rounds: number;
  readonly packages: number;
  readonly windows: number;
  readonly seconds: number;
  readonly bursts: number;
  readonly more: readonly number[];
  readonly marks: number;
  readonly workspaces: number;
  readonly alone: number;
  readonly settle: boolean;
  readonly upload: number;
  readonly history: number;
  readonly turns: number;
  readonly transfer: number;
  readonly forms: readonly ('one process' | 'warm')[];
}
const QUICK: Size = {
  ...{ rounds: 30, packages: 6, windows: 1, seconds: 0.5, bursts: 2, more: [], marks: 40 },
  ...{ workspaces: 15, alone: 40, settle: false, upload: 100e6, forms: ['warm'] },
  ...{ history: 5000, turns: 1, transfer: 200e6 },
};
const FULL: Size = {
  ...{ rounds: 300, packages: 300, windows: 4, seconds: 3, bursts: 5, more: [200], marks: 300 },
  ...{ workspaces: 200, alone: 150, settle: true, upload: 500e6, forms: ['one process', 'warm'] },
  ...{ history: 100_000, turns: 3, transfer: 1e9 },
};
const size: Size = values.quick === true ? QUICK : FULL;
const runs = Number(values.runs ?? 100_000);
const only: readonly string[] = values.only?.split(',') ?? DEFAULT_SECTIONS;
const unknown = only.filter((name) => !SECTIONS.some((section) => section === name));
if (unknown.length > 0 || !Number.isInteger(runs) || runs < 1) {
  const what =
    unknown.length > 0 ? `no section ${unknown.join(', ')}; there are ${SECTIONS.join(', ')}` : '--runs N';
  process.stderr.write(`bench: ${what}\n`);
  process.exit(2);
}

const guard = new Guard();
const stop = (why: string) => {
  process.stderr.write(`bench: ${why}\n`);
  void guard.close().finally(() => process.exit(2));
};
process.once('SIGINT', stop).once('SIGTERM', stop);
setTimeout(
  () => {
    stop('not done in time');
  },
  DEADLINE_MS + (only.includes('soak') ? runs * SOAK_MS_A_RUN : 0),
).unref();

const began = performance.now();
const sections: Section[] = [];
const measure = async (name: (typeof SECTIONS)[number], work: () => Promise<Section>): Promise<void> => {
  if (!only.includes(name)) return;
  process.stderr.write(`bench: ${name} …\n`);
  sections.push(await work());
};

const reference = await makeReference();
try {
  await measure('latency', () => measureLatency(size.rounds, reference, guard));
  await measure('packages', () => measurePackages(size.packages, guard));
  await measure('api', () => measureApi(size.rounds, guard));
  await measure('history', () => measureHistory(size.rounds, size.history, guard));
  await measure('batch', () => measureBatch(size.turns, reference, guard));
  await measure('load', () => measureLoad(size.windows, size.seconds, guard));
  await measure('burst', () => measureBursts(size.bursts, size.rounds, size.more, guard));
  await guard.stopServers();
  await measure('transfer', () => measureTransfer(size.transfer, size.turns, guard));
  await measure('idle', () => measureIdle(guard));
  await measure('breakdown', () => measureBreakdown(size.marks, guard));
  await measure('workspaces', () => measureWorkspaces(size, guard));
  await measure('memory', () => measureMemory(size.upload, size.forms, guard));
  await measure('soak', () => measureSoak(runs, guard));
} finally {
  await guard.close();
  await reference.remove();
}

const promises = sections.flatMap((section) => section.promises);
const machine = `${String(cpus().length)} × ${cpus()[0]?.model ?? 'unknown'}, Linux ${release()}, Node ${process.version}`;
const seconds = Math.round((performance.now() - began) / 1000);
if (values.json === true) {
  const measured = Object.fromEntries(sections.map(({ name, data }) => [name, data]));
  process.stdout.write(
    `${JSON.stringify({ machine, load: loadavg(), seconds, promises, measured }, undefined, 2)}\n`,
  );
} else {
  const tables = sections.flatMap((section) => section.tables).map(renderTable);
  const about = `${machine}; load ${loadavg()[0]?.toFixed(1) ?? ''}; ${String(seconds)} s`;
  process.stdout.write([about, '', ...tables, renderPromises(promises)].join('\n'));
}
process.exitCode = promises.some(({ wrong }) => wrong === true) ? 1 : 0;
