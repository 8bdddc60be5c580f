/** How long one run takes, next to what it cannot be faster than, in rounds of all contestants in a random order. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Server } from '../test/support/server.ts';
import {
  asked,
  PYTHON,
  started,
  startFromNode,
  Starter,
  type Bench,
  type Contestant,
} from './contestants.ts';
import { ms, type PromiseKept, type Section } from './report.ts';
import { summarize, type Summary } from './stats.ts';

const RATIO = 1.3;
const WARM_UP = 5;
/**
 * Between two measurements: what one contestant leaves to be done in the background (the kernel takes network
 * namespaces down, a server prepares its next run) must not be paid by the next. The load section has no pauses.
 */
const PAUSE_MS = 25;

const REFERENCES = [
  'bwrap … python3 -c',
  'bwrap … python3 run.py',
  'bwrap … python3 run.py, from Node',
] as const;
const FROM_NODE = REFERENCES[2];
const ONE = { returncode: 0, stdout: '1\n', stderr: '' };
const NOTHING = { returncode: 0, stdout: '', stderr: '' };

export async function measureLatency(
  rounds: number,
  bench: Bench,
  servers: Readonly<Record<string, Server>>,
): Promise<Section> {
  const inSandbox = (argv: readonly string[], expect: string) => started([...bench.bwrap, ...argv], expect);
  const file = inSandbox([PYTHON, `${bench.workspace}/run.py`], '1\n');
  const contestants: Record<string, Contestant> = {
    'python3 -c': started([PYTHON, '-c', 'print(1)'], '1\n'),
    [REFERENCES[0]]: inSandbox([PYTHON, '-c', 'print(1)'], '1\n'),
    [REFERENCES[1]]: file,
    'bwrap … true': inSandbox(['/usr/bin/true'], ''),
  };
  for (const [form, server] of Object.entries(servers)) {
    contestants[`/run_py print(1), ${form}`] = asked(server, '/run_py', { code: 'print(1)' }, ONE);
    contestants[`/run_sh ["true"], ${form}`] = asked(server, '/run_sh', { cmd: ['true'] }, NOTHING);
  }
  const names = [...Object.keys(contestants), FROM_NODE];
  const times = new Map<string, number[]>(names.map((name) => [name, []]));
  const wrong: string[] = [];
  const starter = new Starter(contestants);
  try {
    for (let round = -WARM_UP; round < rounds; round += 1) {
      for (const name of shuffled(names)) {
        await sleep(PAUSE_MS);
        const took = name === FROM_NODE ? await startFromNode(file) : await starter.time(name);
        if (typeof took !== 'number') wrong.push(`${name}: ${took.wrong}`);
        else if (round >= 0) times.get(name)?.push(took);
      }
    }
  } finally {
    await starter.close();
  }
  return section(times, Object.keys(servers), wrong);
}

function section(times: ReadonlyMap<string, number[]>, forms: readonly string[], wrong: string[]): Section {
  const summaries = new Map([...times].map(([name, values]) => [name, summarize(values)]));
  const p50 = (name: string) => summaries.get(name)?.p50 ?? NaN;
  const fastest = REFERENCES.reduce((best, name) => (p50(name) < p50(best) ? name : best));
  const promises: PromiseKept[] = forms.map((form) => {
    const ratio = p50(`/run_py print(1), ${form}`) / p50(fastest);
    return {
      promise: `/run_py ≤ ${String(RATIO)} × bwrap … python3, median, ${form}`,
      measured: `${ratio.toFixed(2)} ×`,
      kept: ratio <= RATIO,
    };
  });
  if (wrong.length > 0) {
    const measured = `${String(wrong.length)} wrong, first: ${JSON.stringify(wrong[0])}`;
    promises.push({ promise: 'every single run is answered correctly', measured, kept: false, wrong: true });
  }
  const rows = [...summaries].map(([name, { n, min, p50: middle, p99 }]: [string, Summary]) => [
    name,
    ...[String(n), ms(min), ms(middle), ms(p99)],
    `${(middle / p50(fastest)).toFixed(2)} ×`,
  ]);
  return {
    name: 'latency',
    tables: [
      {
        title: 'One run at a time (ms)',
        columns: ['', 'n', 'min', 'median', 'p99', 'ratio'],
        rows,
        notes: [`ratio: to the median of the fastest reference, ${fastest}`],
      },
    ],
    promises,
    data: { reference: fastest, milliseconds: Object.fromEntries(summaries), wrong },
  };
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => [Math.random(), item] as const)
    .sort(([a], [b]) => a - b)
    .map(([, item]) => item);
}
