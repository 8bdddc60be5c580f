/** What one idle warm workspace holds: the zygote and all that descends from it, bwrap included. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Server } from '../test/support/server.ts';
import { Connection } from './client.ts';
import { childrenOf, isInitOfCell, memoryOf, processTree, zygotesOf } from './proc.ts';
import { atMost, mb, type PromiseKept, type Section, type Table } from './report.ts';
import { newLoad, runOne } from './runs.ts';
import type { Form, Guard } from './servers.ts';

const BOUND = 16e6;
const WISH = 8e6;
const RUNS = 20;
/** The next cell is ready long before, and nothing of the last run is left. */
const SETTLE_MS = 1000;

interface Part {
  readonly what: string;
  readonly pss: number;
  readonly own: number;
  readonly rss: number;
}

export async function measureIdle(guard: Guard): Promise<Section> {
  const tables: Table[] = [];
  const promises: PromiseKept[] = [];
  const data: Record<string, readonly Part[]> = {};
  for (const [form, label] of [
    ['warm', 'nothing preloaded'],
    ['preloaded', 'numpy and pandas preloaded'],
  ] as const) {
    const { parts, wrong } = await partsOf(form, guard);
    const pss = parts.reduce((sum, part) => sum + part.pss, 0);
    data[label] = parts;
    tables.push({
      title: `Memory of one idle warm workspace, ${label} (MB)`,
      columns: ['', 'pss', 'own', 'rss'],
      rows: [...parts, { what: 'all of them', pss, own: NaN, rss: NaN }].map((part) => [
        part.what,
        ...[part.pss, part.own, part.rss].map((bytes) => (Number.isNaN(bytes) ? '' : mb(bytes, 2))),
      ]),
      notes: [
        'pss: each page in proportion to how many share it; own: pages that nobody shares',
        'the init of each cell is not listed: it lives in the memory of the zygote',
      ],
    });
    // Not readable is not small.
    const measurable = parts.every((part) => part.pss > 0);
    if (wrong.length > 0 || !measurable) {
      const measured = wrong[0] ?? 'only root can read it';
      promises.push({ promise: `idle, ${label}`, measured, kept: false, wrong: wrong.length > 0 });
    } else if (form === 'warm') {
      const promise = `idle warm workspace, ${label}: PSS`;
      promises.push(
        atMost({ promise, value: pss, bound: BOUND, further: WISH, show: (v) => `${mb(v, 1)} MB` }),
      );
    }
  }
  return { name: 'idle', tables, promises, data };
}

/** A server of its own: of those that others have used more slots have cells. */
async function partsOf(form: Form, guard: Guard): Promise<{ parts: Part[]; wrong: readonly string[] }> {
  const server = await guard.start(form);
  try {
    const load = newLoad();
    const connection = new Connection(server);
    for (let run = 0; run < RUNS; run += 1) await runOne(connection, load);
    connection.close();
    await sleep(SETTLE_MS);
    return { parts: zygotesOf(runnerOf(server)).flatMap(({ bwrap }) => describe(bwrap)), wrong: load.wrong };
  } finally {
    await guard.stop(server);
  }
}

/** Of a server whose gateway and runner are apart. */
export function runnerOf(server: Server): number {
  return server.processes[0]?.pid ?? 0;
}

/** The processes by what they do. */
function describe(bwrap: number): Part[] {
  const [first = 0] = childrenOf(bwrap);
  // A package that has started threads: the zygote is a child of process 1, which waits for it.
  const [child] = childrenOf(first);
  const threads = child !== undefined && memoryOf(child).name === memoryOf(bwrap).name;
  const what = (pid: number): string => {
    if (pid === bwrap) return 'bwrap, waits for the sandbox to end';
    if (pid === first) return threads ? 'process 1, waits' : 'zygote';
    return childrenOf(pid).length > 0 ? 'zygote' : 'program of a cell, waits for its plan';
  };
  return processTree(bwrap)
    .filter((pid) => !isInitOfCell(pid))
    .map((pid) => ({ what: what(pid), ...memoryOf(pid) }));
}
