/** Many workspaces, visited in turn: what it costs to come back, and what they hold. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdtempSync, rmSync } from 'node:fs';
import { freemem, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { SETTINGS } from '../src/config.ts';
import { RUN_UID } from '../test/support/server.ts';
import { PYTHON } from './contestants.ts';
import { descendantsPss, zygotesOf } from './proc.ts';
import { atMost, mb, ms, noneWrong, times, type PromiseKept, type Section } from './report.ts';
import type { Guard } from './servers.ts';
import { summarize } from './stats.ts';
import type { Order, Visited } from './visits.ts';

/** For the number of workspaces that is measured by default; fewer are given less. */
const BUDGET = { workspaces: 200, bytes: SETTINGS.NOX_WARM_MEMORY.default };
/** Room enough for one, by far. */
const ROOM_OF_ONE = 32e6;
const FLAT = 1.25;
const RUNS_OF_VISIT = 3;
const ROUNDS = 3;
/** The launcher looks at what its zygotes hold every five seconds. */
const HOUSEKEEPING_MS = 6000;

interface Round extends Visited {
  /** When the round had just ended, and after the launcher has looked. */
  readonly held: readonly [atOnce: number, later: number];
  readonly zygotes: number;
}

interface Size {
  readonly workspaces: number;
  /** Runs in a round of the one workspace with which the many are compared. */
  readonly alone: number;
  /** Looks a second time, when the launcher has looked. */
  readonly settle: boolean;
}

export async function measureWorkspaces(size: Size, guard: Guard): Promise<Section> {
  const { workspaces: count, alone, settle } = size;
  const budget = Math.round((BUDGET.bytes * count) / BUDGET.workspaces);
  const room = ROOM_OF_ONE * count;
  const trials = [
    { label: 'one workspace', workspaces: 1, runsOfVisit: alone, memoryBytes: room },
    {
      label: `${String(count)}, room for all`,
      workspaces: count,
      runsOfVisit: RUNS_OF_VISIT,
      memoryBytes: room,
    },
    {
      label: `${String(count)}, ${mb(budget)} MB`,
      workspaces: count,
      runsOfVisit: RUNS_OF_VISIT,
      memoryBytes: budget,
    },
  ];
  if (freemem() < room) throw new Error(`the workspaces need ${mb(room)} MB of free memory`);
  const found: (readonly [label: string, rounds: Round[]])[] = [];
  for (const { label, ...trial } of trials) {
    const waits = settle && trial.memoryBytes === budget;
    found.push([
      label,
      await visit({ uid: RUN_UID, python: PYTHON, rounds: ROUNDS, ...trial }, waits, guard),
    ]);
  }
  return section(found, budget, alone);
}

async function visit(order: Omit<Order, 'dir'>, settle: boolean, guard: Guard): Promise<Round[]> {
  const dir = mkdtempSync(join(tmpdir(), 'nox-bench-visits-'));
  chmodSync(dir, 0o755);
  if (process.getuid?.() === 0) chownSync(dir, RUN_UID, RUN_UID);
  const script = fileURLToPath(new URL('./visits.ts', import.meta.url));
  const child = spawn(process.execPath, [script, JSON.stringify({ ...order, dir })], {
    env: { ...process.env, ...guard.env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const pid = child.pid ?? 0;
  child.stdin.on('error', () => undefined);
  const exited = once(child, 'exit');
  try {
    const rounds: Round[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      const atOnce = descendantsPss(pid);
      if (settle) await sleep(HOUSEKEEPING_MS);
      const held = [atOnce, settle ? descendantsPss(pid) : atOnce] as const;
      rounds.push({ ...(JSON.parse(line) as Visited), held, zygotes: zygotesOf(pid).length });
      child.stdin.write('on\n');
    }
    await exited;
    if (rounds.length < order.rounds) throw new Error('the visits ended early');
    return rounds;
  } finally {
    child.kill('SIGKILL');
    await exited;
    rmSync(dir, { recursive: true, force: true });
  }
}

function section(
  found: readonly (readonly [string, readonly Round[]])[],
  budget: number,
  alone: number,
): Section {
  const rows = found.flatMap(([label, rounds]) =>
    rounds.map((round, at) => {
      const of = (values: readonly number[]) => {
        if (values.length === 0) return ['0', '', ''];
        const { n, p50, p99 } = summarize(values);
        return [String(n), ms(p50, 2), ms(p99, 2)];
      };
      const held = round.held.map((bytes) => mb(bytes));
      return [
        `${label}: round ${String(at + 1)}`,
        ...of(round.cold),
        ...of(round.warm),
        String(round.zygotes),
        ...held,
      ];
    }),
  );
  const wrong = found.flatMap(([label, rounds]) =>
    rounds.flatMap((round) => round.wrong.map((each) => `${label}: ${each}`)),
  );
  const [one = [], roomy = [], tight = []] = found.map(([, rounds]) => rounds);
  // The first round of each is the first visit.
  const warmOf = (rounds: readonly Round[]) => summarize(rounds.slice(1).flatMap(({ warm }) => warm)).p50;
  const coldAgain = roomy.slice(1).flatMap(({ cold }) => cold).length;
  const held = Math.max(...tight.flatMap((round) => round.held));
  const name = 'workspaces';
  const flat = (what: string, rounds: readonly Round[]) =>
    atMost({
      promise: `${what}: warm run / the same with one workspace`,
      value: warmOf(rounds) / warmOf(one),
      bound: FLAT,
      show: times(),
    });
  const count = found[1]?.[0] ?? '';
  const promises: PromiseKept[] = [
    flat(count, roomy),
    atMost({
      promise: `${count}: cold starts after the first visit`,
      value: coldAgain,
      bound: 0,
      show: String,
    }),
    flat(found[2]?.[0] ?? '', tight),
    atMost({
      promise: 'memory of all zygotes, within their budget',
      value: held,
      bound: budget,
      show: (v) => `${mb(v)} MB`,
    }),
    ...noneWrong(name, wrong),
  ];
  const columns = ['', 'cold', 'median', 'p99', 'warm', 'median', 'p99', 'zygotes', 'pss', 'later'];
  const notes = [
    `each visit is ${String(RUNS_OF_VISIT)} runs, ${String(alone)} where there is one workspace; cold: a zygote had to be started for it (ms)`,
    'pss: of all zygotes with what descends from them, when the round ended; later: after the launcher has looked (MB)',
  ];
  return {
    name,
    tables: [{ title: 'Workspaces, visited in turn', columns, rows, notes }],
    promises,
    data: found,
  };
}
