/** Rounds in which every contestant has one turn, in a random order. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Starter, type Contestant } from './contestants.ts';
import { ms, type Table } from './report.ts';
import { summarize, type Summary } from './stats.ts';

const WARM_UP = 5;
/**
 * Between two measurements: what one contestant leaves to be done in the background (the kernel takes namespaces
 * down, a server prepares its next run) must not be paid by the next. The load section has no pauses.
 */
export const PAUSE_MS = 25;

export interface Rounds {
  /** Milliseconds by contestant. */
  readonly summaries: ReadonlyMap<string, Summary>;
  readonly wrong: readonly string[];
}

export async function playRounds(
  contestants: Readonly<Record<string, Contestant>>,
  rounds: number,
): Promise<Rounds> {
  const names = Object.keys(contestants);
  const times = new Map<string, number[]>(names.map((name) => [name, []]));
  const wrong: string[] = [];
  const starter = new Starter(contestants);
  try {
    for (let round = -Math.min(WARM_UP, Math.ceil(rounds / 4)); round < rounds; round += 1) {
      for (const name of shuffled(names)) {
        await sleep(PAUSE_MS);
        const took = await starter.time(name);
        if (typeof took !== 'number') wrong.push(took.wrong);
        else if (round >= 0) times.get(name)?.push(took);
      }
    }
  } finally {
    await starter.close();
  }
  return { summaries: new Map([...times].map(([name, values]) => [name, summarize(values)])), wrong };
}

export const median = ({ summaries }: Rounds, name: string): number => summaries.get(name)?.p50 ?? NaN;

/** With each median's ratio to the median of one of them. */
export function roundsTable(title: string, rounds: Rounds, reference: string): Table {
  const rows = [...rounds.summaries].map(([name, { n, min, p50, p99 }]) => [
    name,
    ...[String(n), ms(min, 2), ms(p50, 2), ms(p99, 2)],
    `${(p50 / median(rounds, reference)).toFixed(3)} ×`,
  ]);
  const columns = ['', 'n', 'min', 'median', 'p99', 'ratio'];
  return { title, columns, rows, notes: [`ratio: of the medians, to ${reference}`] };
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => [Math.random(), item] as const)
    .sort(([a], [b]) => a - b)
    .map(([, item]) => item);
}
