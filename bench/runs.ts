/** Many runs, each with an answer that no other run has, and what became of them. */
import type { Server } from '../test/support/server.ts';
import { Connection, type Reply } from './client.ts';
import { ms, type PromiseKept, type Section } from './report.ts';
import { summarize } from './stats.ts';

const REFUSALS = [429, 503];

interface Verdict {
  readonly kind: 'right' | 'refused' | 'wrong';
  readonly detail: string;
}

/** @param number what the program was to print */
function judge({ status, text }: Reply, number: number): Verdict {
  if (status === 200) {
    const right = text === JSON.stringify({ returncode: 0, stdout: `${String(number)}\n`, stderr: '' });
    return { kind: right ? 'right' : 'wrong', detail: text.slice(0, 300) };
  }
  const code = /"code":"(\w+)"/.exec(text)?.[1];
  const refused = REFUSALS.includes(status) && code !== undefined;
  return { kind: refused ? 'refused' : 'wrong', detail: `${String(status)} ${code ?? text.slice(0, 300)}` };
}

export interface Load {
  readonly times: number[];
  readonly refused: Map<string, number>;
  readonly wrong: string[];
  seconds: number;
}

export const newLoad = (): Load => ({ times: [], refused: new Map(), wrong: [], seconds: 0 });

let next = 0;

/** @returns whether it was answered as it should be */
export async function runOne(connection: Connection, load: Load): Promise<boolean> {
  const number = (next += 1);
  try {
    const reply = await connection.post('/run_py', { code: `print(${String(number)})` });
    const { kind, detail } = judge(reply, number);
    if (kind === 'right') load.times.push(reply.ms);
    else if (kind === 'refused') load.refused.set(detail, (load.refused.get(detail) ?? 0) + 1);
    else load.wrong.push(detail);
    return kind === 'right';
  } catch (error) {
    load.wrong.push(String(error));
    return false;
  }
}

/** Clients with a connection each, that ask again when they are answered. */
export async function saturate(server: Server, clients: number, seconds: number, load: Load): Promise<void> {
  const connections = Array.from({ length: clients }, () => new Connection(server));
  const began = performance.now();
  const until = began + seconds * 1000;
  await Promise.all(
    connections.map(async (connection) => {
      while (performance.now() < until) if (!(await runOne(connection, load))) return;
    }),
  );
  load.seconds += (performance.now() - began) / 1000;
  for (const connection of connections) connection.close();
}

/** All at once, each on its own new connection. */
export async function burst(server: Server, size: number, load: Load): Promise<void> {
  const began = performance.now();
  const connections = Array.from({ length: size }, () => new Connection(server));
  await Promise.all(connections.map((connection) => runOne(connection, load)));
  load.seconds += (performance.now() - began) / 1000;
  for (const connection of connections) connection.close();
}

export const rate = ({ times, seconds }: Load): number => times.length / seconds;
export const refusals = ({ refused }: Load): number => [...refused.values()].reduce((a, b) => a + b, 0);

export function loadsSection(
  name: string,
  title: string,
  loads: readonly (readonly [string, Load])[],
  promises: readonly PromiseKept[],
): Section {
  const rows = loads.map(([label, load]) => {
    const { p50, p99 } = summarize(load.times);
    const refused = [...load.refused].map(([code, count]) => `${String(count)} × ${code}`).join(', ') || '0';
    const counts = [String(load.times.length), refused, String(load.wrong.length)];
    const perSecond = load.seconds === 0 ? '' : rate(load).toFixed(1);
    return [label, ...counts, perSecond, ms(p50), ms(p99)];
  });
  const wrong = loads.flatMap(([label, load]) => load.wrong.map((detail) => `${label}: ${detail}`));
  const all = loads.reduce((sum, [, load]) => sum + load.times.length, 0);
  const answered: PromiseKept = {
    promise: `${name}: every request answered correctly or refused by name`,
    measured:
      wrong.length === 0
        ? `${String(all)} right, none wrong`
        : `${String(wrong.length)} wrong: ${wrong[0] ?? ''}`,
    kept: wrong.length === 0,
    wrong: wrong.length > 0,
  };
  const data = loads.map(([label, load]) => ({
    label,
    ...{ right: load.times.length, refused: Object.fromEntries(load.refused), wrong: load.wrong },
    ...{ seconds: load.seconds, milliseconds: summarize(load.times) },
  }));
  const columns = ['', 'right', 'refused', 'wrong', 'runs/s', 'median', 'p99'];
  return { name, tables: [{ title, columns, rows }], promises: [...promises, answered], data };
}
