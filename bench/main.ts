/**
 * `make bench`: what Nox promises about speed and memory, measured next to what it is promised against.
 *
 *   node bench/main.ts [--quick] [--json] [--only latency,load,burst,memory,breakdown]
 *
 * Needs the compiled programs (`npm run build`). Absolute times are the machine's and the moment's; the ratios of
 * one run count. Ends with 1 for a wrong answer, never for a slow one.
 */
import { cpus, loadavg, release } from 'node:os';
import { parseArgs } from 'node:util';
import { startServer, type Server } from '../test/support/server.ts';
import { measureBreakdown } from './breakdown.ts';
import { makeReference } from './contestants.ts';
import { measureLatency } from './latency.ts';
import { measureBursts, measureLoad } from './load.ts';
import { measureMemory } from './memory.ts';
import { renderPromises, renderTable, type Section } from './report.ts';
import { Guard } from './servers.ts';

const SECTIONS = ['latency', 'load', 'burst', 'memory', 'breakdown'] as const;
const DEADLINE_MS = 900_000;

const { values } = parseArgs({
  options: { quick: { type: 'boolean' }, json: { type: 'boolean' }, only: { type: 'string' } },
});
const size =
  values.quick === true
    ? { rounds: 15, seconds: 0.5, bursts: [100], marks: 20, upload: 100e6 }
    : { rounds: 150, seconds: 4, bursts: [100, 200], marks: 150, upload: 500e6 };
const only: readonly string[] = values.only?.split(',') ?? SECTIONS;
const unknown = only.filter((name) => !SECTIONS.some((section) => section === name));
if (unknown.length > 0) {
  process.stderr.write(`bench: no section ${unknown.join(', ')}; there are ${SECTIONS.join(', ')}\n`);
  process.exit(2);
}

const guard = new Guard();
const stop = (why: string) => {
  process.stderr.write(`bench: ${why}\n`);
  void guard.close().finally(() => process.exit(2));
};
process.once('SIGINT', stop).once('SIGTERM', stop);
setTimeout(() => {
  stop('not done in time');
}, DEADLINE_MS).unref();

const began = performance.now();
const sections: Section[] = [];
const measure = async (name: (typeof SECTIONS)[number], work: () => Promise<Section>): Promise<void> => {
  if (!only.includes(name)) return;
  process.stderr.write(`bench: ${name} …\n`);
  sections.push(await work());
};

const reference = await makeReference();
try {
  const servers: Record<string, Server> = {};
  for (const [form, options] of Object.entries(guard.forms)) {
    const server = await startServer(options);
    servers[form] = server;
    guard.register(server);
  }
  await measure('latency', () => measureLatency(size.rounds, reference, servers));
  await measure('load', () => measureLoad(size.seconds, servers));
  await measure('burst', () => measureBursts(size.bursts, servers));
  await guard.stopServers();
  await measure('breakdown', () => measureBreakdown(size.marks));
  await measure('memory', () => measureMemory(size.upload, guard.forms, guard.register));
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
