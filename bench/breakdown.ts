/** Where the time of one /run_py goes, as a small table. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { RUN_UID } from '../test/support/server.ts';
import { PYTHON } from './contestants.ts';
import type { Marks } from './floor.ts';
import { ms, type Section } from './report.ts';
import { summarize } from './stats.ts';

const TIMEOUT_MS = 120_000;

const STEPS: readonly (readonly [from: keyof Marks, to: keyof Marks, what: string])[] = [
  ['begin', 'spawned', 'Node spawns bwrap'],
  ['spawned', 'hello', 'bwrap builds the namespaces, perl starts (init says hello)'],
  ['hello', 'started', 'init: mounts, code, capabilities, filter (says started)'],
  ['started', 'first', 'fork, exec, start of the interpreter to its first line'],
  ['first', 'end', 'the program, end of the interpreter, death of the rest (init reports)'],
  ['end', 'exit', 'end of init, the namespaces and bwrap'],
  ['exit', 'ended', 'the last of the pipes, the result'],
  ['begin', 'ended', 'all of it, without HTTP'],
];

export async function measureBreakdown(rounds: number): Promise<Section> {
  const script = fileURLToPath(new URL('./floor.ts', import.meta.url));
  const args = [script, '--uid', String(RUN_UID), '--rounds', String(rounds), '--python', PYTHON];
  const { stdout } = await promisify(execFile)(process.execPath, args, {
    timeout: TIMEOUT_MS,
    maxBuffer: 2 ** 26,
  });
  const all = JSON.parse(stdout) as Marks[];
  const steps = STEPS.map(([from, to, what]) => ({
    what,
    ...summarize(all.map((marks) => marks[to] - marks[from])),
  }));
  const total = steps.at(-1)?.p50 ?? NaN;
  const rows = steps.map(({ what, min, p50, p99 }) => {
    const part = `${((100 * p50) / total).toFixed(0)} %`;
    return [what, ms(min, 2), ms(p50, 2), ms(p99, 2), part];
  });
  const title = `Where the time of one run goes (ms, ${String(all.length)} runs)`;
  const columns = ['', 'min', 'median', 'p99', 'part'];
  return { name: 'breakdown', tables: [{ title, columns, rows }], promises: [], data: steps };
}
