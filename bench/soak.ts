/** Very many runs in a row: nothing may grow but the count. */
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Server } from '../test/support/server.ts';
import { Connection } from './client.ts';
import {
  descendantsPss,
  descriptorsOf,
  entriesBelow,
  memoryOf,
  mountsOf,
  processTree,
  runCgroups,
  zombies,
  zygotesOf,
} from './proc.ts';
import { noneWrong, type PromiseKept, type Section } from './report.ts';
import type { Guard } from './servers.ts';
import { summarize } from './stats.ts';

const CLIENTS = 4;
const SAMPLES = 40;
/** Before a sample nothing runs, and what is made ahead has been made. */
const SETTLE_MS = 400;

/**
 * What is sampled: its unit, and how much more the late samples may show than the early ones. Zombies and /tmp are
 * the whole machine's, in which others may be busy.
 */
const MEASURES = {
  'gateway, RSS': { mb: true, share: 0.1, more: 8 },
  'gateway, PSS': { mb: true, share: 0.1, more: 8 },
  'runner, RSS': { mb: true, share: 0.1, more: 8 },
  'runner, PSS': { mb: true, share: 0.1, more: 8 },
  'zygotes, PSS': { mb: true, share: 0.25, more: 4 },
  'gateway, descriptors': { mb: false, share: 0, more: 4 },
  'runner, descriptors': { mb: false, share: 0, more: 4 },
  'zygote, descriptors': { mb: false, share: 0, more: 2 },
  'cgroups of runs': { mb: false, share: 0, more: 0 },
  'mounts of the host': { mb: false, share: 0, more: 0 },
  'mounts of the zygote': { mb: false, share: 0, more: 0 },
  zombies: { mb: false, share: 0, more: 4 },
  'processes of the runner': { mb: false, share: 0, more: 4 },
  'files in /tmp': { mb: false, share: 0, more: 4 },
  "files in the runner's directory": { mb: false, share: 0, more: 0 },
  'files in the workspace': { mb: false, share: 0, more: 0 },
} as const;
type Measure = keyof typeof MEASURES;
type Sample = Record<Measure, number>;

/** Every kind of end that leaves something to be cleared away; most are plain. */
const KINDS: readonly ((number: number) => readonly [path: string, body: object, answer: object])[] = [
  ...Array.from({ length: 7 }, () => (number: number) => {
    const stdout = `${String(number)}\n`;
    return ['/run_py', { code: `print(${String(number)})` }, { returncode: 0, stdout, stderr: '' }] as const;
  }),
  (number) => {
    const code = `import sys\nsys.exit(${String((number % 100) + 1)})`;
    return ['/run_py', { code }, { returncode: (number % 100) + 1, stdout: '', stderr: '' }];
  },
  () => {
    const code =
      "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nopen('/tmp/left', 'w').write('left')";
    return ['/run_py', { code }, { returncode: 0, stdout: '', stderr: '' }];
  },
  () => ['/run_sh', { cmd: ['true'] }, { returncode: 0, stdout: '', stderr: '' }],
];

export async function measureSoak(runs: number, guard: Guard): Promise<Section> {
  const server = await guard.start('warm');
  const began = performance.now();
  const samples: (Sample & { runs: number })[] = [];
  const wrong: string[] = [];
  const zygotes = new Set<number>();
  const connections = Array.from({ length: CLIENTS }, () => new Connection(server));
  const runner = server.processes[0]?.pid ?? 0;
  let next = 0;
  try {
    for (let part = 1; part <= SAMPLES; part += 1) {
      const until = Math.round((runs * part) / SAMPLES);
      const client = async (connection: Connection) => {
        while (next < until) {
          const number = (next += 1);
          const [path, body, answer] = KINDS[number % KINDS.length]?.(number) ?? ['', {}, {}];
          const { status, text } = await connection.post(path, body);
          if (status !== 200 || text !== JSON.stringify(answer)) wrong.push(`${String(number)}: ${text}`);
        }
      };
      await Promise.all(connections.map(client));
      await sleep(SETTLE_MS);
      samples.push({ runs: until, ...sample(server) });
      for (const { bwrap } of zygotesOf(runner)) zygotes.add(bwrap);
    }
  } catch (error) {
    wrong.push(`after ${String(next)} runs: ${String(error)}`);
  } finally {
    for (const connection of connections) connection.close();
    await guard.stop(server);
  }
  const seconds = (performance.now() - began) / 1000;
  return section(samples, { runs, seconds, zygotes: zygotes.size, wrong });
}

function sample(server: Server): Sample {
  const [runner = 0, gateway = 0] = server.processes.map((child) => child.pid ?? 0);
  const [atGateway, atRunner] = [memoryOf(gateway), memoryOf(runner)];
  // Process 1 of the sandbox may be one that only waits; the zygote is below it then, in the same mounts.
  const zygote = zygotesOf(runner).at(-1)?.zygote ?? 0;
  const inTmp = readdirSync(tmpdir());
  const own = inTmp.filter((name) => name.startsWith(`nox-runner-${String(runner)}-`));
  return {
    'gateway, RSS': atGateway.rss,
    'gateway, PSS': atGateway.pss,
    'runner, RSS': atRunner.rss,
    'runner, PSS': atRunner.pss,
    'zygotes, PSS': descendantsPss(runner),
    'gateway, descriptors': descriptorsOf(gateway),
    'runner, descriptors': descriptorsOf(runner),
    'zygote, descriptors': descriptorsOf(zygote),
    'cgroups of runs': runCgroups(runner),
    'mounts of the host': mountsOf('self'),
    'mounts of the zygote': mountsOf(zygote),
    zombies: zombies(),
    'processes of the runner': processTree(runner).length - 1,
    'files in /tmp': inTmp.length,
    "files in the runner's directory": own.reduce((sum, name) => sum + entriesBelow(join(tmpdir(), name)), 0),
    'files in the workspace': entriesBelow(server.workspace),
  };
}

interface About {
  readonly runs: number;
  readonly seconds: number;
  readonly zygotes: number;
  readonly wrong: readonly string[];
}

/** Early and late are a third each of what comes after the first tenth: the median of each is compared. */
function section(samples: readonly (Sample & { runs: number })[], about: About): Section {
  const settled = samples.slice(Math.ceil(samples.length / 10));
  const third = Math.max(1, Math.floor(settled.length / 3));
  const [early, late] = [settled.slice(0, third), settled.slice(-third)];
  const results = (Object.keys(MEASURES) as Measure[]).map((measure) => {
    const { mb, share, more } = MEASURES[measure];
    const unit = mb ? 1e6 : 1;
    const of = (part: readonly Sample[]) => summarize(part.map((each) => each[measure])).p50 / unit;
    const all = samples.map((each) => each[measure] / unit);
    const allowed = of(early) * (1 + share) + more;
    return {
      measure,
      mb,
      early: of(early),
      late: of(late),
      most: Math.max(...all),
      allowed,
      kept: of(late) <= allowed,
    };
  });
  const grown = results.filter(({ kept }) => !kept).map(({ measure }) => measure);
  const show = (value: number, isMb: boolean) => value.toFixed(isMb ? 1 : 0);
  const promises: PromiseKept[] = [
    {
      promise: `${String(about.runs)} runs in a row: nothing grows`,
      measured: grown.length === 0 ? 'nothing has grown' : `grown: ${grown.join('; ')}`,
      kept: grown.length === 0 && samples.length === SAMPLES,
    },
    ...noneWrong('soak', about.wrong),
  ];
  const title = `${String(about.runs)} runs in a row, ${about.seconds.toFixed(0)} s, ${String(about.zygotes)} zygotes`;
  const columns = ['', 'early', 'late', 'most', 'allowed', 'grown'];
  const rows = results.map(({ measure, mb, early: first, late: last, most, allowed, kept }) => [
    mb ? `${measure} (MB)` : measure,
    ...[first, last, most, allowed].map((value) => show(value, mb)),
    kept ? 'no' : 'YES',
  ]);
  const notes = [
    `early, late: medians of the first and the last third of ${String(samples.length)} samples without the first tenth; nothing runs at a sample`,
    'allowed: of late, by the tolerance that is stated in bench/soak.ts',
  ];
  return { name: 'soak', tables: [{ title, columns, rows, notes }], promises, data: { ...about, samples } };
}
