/**
 * Where the time of one warm /run_py goes, in the deployed form: from what the client, both processes of the server
 * (marks.ts) and the program itself note by the one clock that they share, CLOCK_MONOTONIC.
 */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ModuleKind, ScriptTarget, transpileModule } from 'typescript';
import { asked, Starter } from './contestants.ts';
import { runnerOf } from './idle.ts';
import { faultsOf, processorUse, zygotesOf } from './proc.ts';
import { ms, noneWrong, type Section } from './report.ts';
import { PAUSE_MS } from './rounds.ts';
import type { Guard } from './servers.ts';
import { summarize } from './stats.ts';

const WARM_UP = 10;
/** The next cell is made, and the zygote not yet idle for so long that it learns (warm-workspace.ts: PIN_IDLE_MS). */
const CELL_MADE_MS = 40;
const LEARNED_MS = 500;
const CODE = `import time
first = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
print('nox-bench-mark', first, time.clock_gettime_ns(time.CLOCK_MONOTONIC))
`;

type Note = readonly [what: string, at: number];
/** One run: what the client and the program say, in milliseconds. */
interface Told {
  readonly began: number;
  readonly first: number;
  readonly last: number;
  readonly ended: number;
}

export async function measureBreakdown(rounds: number, guard: Guard): Promise<Section> {
  const dir = mkdtempSync(join(tmpdir(), 'nox-bench-marks-'));
  chmodSync(dir, 0o777);
  try {
    const marks = join(dir, 'marks.mjs');
    writeFileSync(marks, withoutTypes(new URL('./marks.ts', import.meta.url)));
    const server = await guard.start('warm', { NODE_OPTIONS: `--import=${marks}`, BENCH_MARKS: dir });
    const [runner = 0, gateway = 0] = server.processes.map((child) => child.pid ?? 0);
    const starter = new Starter({ run: asked(server, '/run_py', { code: CODE }, '') });
    const told: Told[] = [];
    const wrong: string[] = [];
    try {
      for (let round = -WARM_UP; round < rounds; round += 1) {
        await sleep(PAUSE_MS);
        const run = await tell(starter);
        if (typeof run === 'string') wrong.push(run);
        else if (round >= 0) told.push(run);
      }
    } finally {
      await starter.close();
    }
    const unmarked = await processorTimes(rounds, guard);
    await guard.stop(server);
    const notes = [gateway, runner].map(
      (pid) => JSON.parse(readFileSync(join(dir, `${String(pid)}.json`), 'utf8')) as Note[],
    );
    return section(told, notes[0] ?? [], notes[1] ?? [], unmarked, wrong);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function withoutTypes(file: URL): string {
  const compilerOptions = { target: ScriptTarget.ES2024, module: ModuleKind.ESNext };
  return transpileModule(readFileSync(file, 'utf8'), { compilerOptions }).outputText;
}

async function tell(starter: Starter): Promise<Told | string> {
  const { began, ended, said } = await starter.run('run');
  const match = /nox-bench-mark (\d+) (\d+)/.exec(said);
  if (match === null) return said;
  return { began, ended, first: Number(match[1]) / 1e6, last: Number(match[2]) / 1e6 };
}

type Times = Readonly<Record<string, number>>;
const STEPS: readonly (readonly [what: string, from: string, to: string])[] = [
  ['the request to the gateway, its head is read', 'began', 'head'],
  ['gateway: token, body, schema, a connection to the runner', 'head', 'forwarded'],
  ['socket from gateway to runner', 'forwarded', 'come'],
  ['runner: checks, slot, a place for the code, the plan is written', 'come', 'plan'],
  ['the program wakes, places the code, goes on to its first line', 'plan', 'first'],
  ['the program', 'first', 'last'],
  ['end of the interpreter and its memory, the zygote reports', 'last', 'end'],
  ['runner: output is drained, the result is sent', 'end', 'sent'],
  ['socket from runner to gateway', 'sent', 'heard'],
  ['gateway: the answer is made', 'heard', 'answered'],
  ['the answer to the client', 'answered', 'ended'],
  ['all of it', 'began', 'ended'],
];

function section(
  told: readonly Told[],
  gateway: readonly Note[],
  runner: readonly Note[],
  { used, took, faults }: Awaited<ReturnType<typeof processorTimes>>,
  wrong: readonly string[],
): Section {
  const runs = told.map((run): Times => {
    const at = (notes: readonly Note[], what: string) =>
      notes.find(([each, time]) => each === what && time >= run.began && time <= run.ended)?.[1] ?? NaN;
    return {
      ...run,
      ...{ head: at(gateway, 'gateway has the head'), forwarded: at(gateway, 'request or plan goes out') },
      ...{ come: at(runner, 'request has come'), plan: at(runner, 'request or plan goes out') },
      ...{ end: at(runner, 'end has come'), sent: at(runner, 'result is sent') },
      ...{ heard: at(gateway, 'result has come'), answered: at(gateway, 'answer is sent') },
    };
  });
  const steps = STEPS.map(([what, from, to]) => {
    const values = runs
      .map((run) => (run[to] ?? NaN) - (run[from] ?? NaN))
      .filter((each) => !Number.isNaN(each));
    return { what, ...summarize(values) };
  });
  const total = steps.at(-1)?.p50 ?? NaN;
  const all = Object.values(used).reduce((a, b) => a + b, 0);
  const part = (value: number, of: number) => `${((100 * value) / of).toFixed(0)} %`;
  return {
    name: 'breakdown',
    tables: [
      {
        title: `Where the time of one warm run goes (ms, ${String(told.length)} runs)`,
        columns: ['', 'n', 'min', 'median', 'p99', 'part'],
        rows: steps.map(({ what, n, min, p50, p99 }) => [
          what,
          ...[String(n), ms(min, 3), ms(p50, 3), ms(p99, 3), part(p50, total)],
        ]),
        notes: [
          'part: of the median of all of it; medians do not add up exactly',
          `the same without marks: ${ms(took, 3)}`,
        ],
      },
      {
        title: 'Time on a processor for one run, what is made ahead for the next included (ms)',
        columns: ['', 'ms', 'part'],
        rows: [...Object.entries(used), ['all of them', all] as const].map(([what, value]) => [
          what,
          ...[ms(value, 2), part(value, all)],
        ]),
        notes: ['of 2 processors this bounds the runs a second'],
      },
      {
        title: 'Page faults for one run (medians)',
        columns: ['', 'the zygote', 'its cell and its program'],
        rows: [
          ['before the rehearsal', String(faults.before.zygote), String(faults.before.run)],
          ['after it: pages are copied by fork', String(faults.after.zygote), String(faults.after.run)],
        ],
      },
    ],
    promises: noneWrong('breakdown', wrong),
    data: { steps, unmarked: took, used, faults, wrong },
  };
}

interface Faults {
  readonly zygote: number;
  readonly run: number;
}

/** Medians over runs, each with the cell that is made for the next. */
async function faultsOfRuns(starter: Starter, zygote: number, runs: number): Promise<Faults> {
  const found: Faults[] = [];
  for (let run = 0; run < runs; run += 1) {
    const before = faultsOf(zygote);
    await starter.run('run');
    await sleep(CELL_MADE_MS);
    const { own, children } = faultsOf(zygote);
    found.push({ zygote: own - before.own, run: children - before.children });
  }
  const median = (values: number[]) => summarize(values).p50;
  return { zygote: median(found.map((each) => each.zygote)), run: median(found.map((each) => each.run)) };
}

/** On a server without marks, whose runs are timed as well: what the marks cost is the difference. */
async function processorTimes(
  rounds: number,
  guard: Guard,
): Promise<{
  readonly used: Times;
  readonly took: number;
  readonly faults: Readonly<Record<'before' | 'after', Faults>>;
}> {
  const server = await guard.start('warm');
  const starter = new Starter({ run: asked(server, '/run_py', { code: 'print(1)' }, '') });
  const gateway = server.processes[1]?.pid ?? 0;
  const runner = runnerOf(server);
  try {
    await starter.run('run');
    const zygote = zygotesOf(runner)[0]?.zygote ?? 0;
    // Less than the pause after which the zygote learns which pages its runs write.
    const untrained = await faultsOfRuns(starter, zygote, 5);
    await sleep(LEARNED_MS);
    const faults = { before: untrained, after: await faultsOfRuns(starter, zygote, WARM_UP) };
    const read = () => [processorUse(gateway), processorUse(runner), processorUse(zygote)];
    const before = read();
    const took: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      await sleep(PAUSE_MS);
      const { began, ended } = await starter.run('run');
      took.push(ended - began);
    }
    const [g, r, z] = read().map(({ own, children }, at) => ({
      own: (own - (before[at]?.own ?? 0)) / rounds,
      children: (children - (before[at]?.children ?? 0)) / rounds,
    }));
    const used = {
      gateway: g?.own ?? NaN,
      runner: r?.own ?? NaN,
      zygote: z?.own ?? NaN,
      'its cell and its program': z?.children ?? NaN,
    };
    return { used, took: summarize(took).p50, faults };
  } finally {
    await starter.close();
    await guard.stop(server);
  }
}
