/** Many at a time: a steady number of clients, and bursts of more than there is room for. */
import type { Server } from '../test/support/server.ts';
import { keepAlive, post, type Reply } from './client.ts';
import { ms, type PromiseKept, type Section } from './report.ts';
import { summarize } from './stats.ts';

const CLIENTS = [1, 8, 64] as const;
const REFUSALS = [429, 503];

interface Verdict {
  readonly kind: 'right' | 'refused' | 'wrong';
  readonly detail: string;
}

/** @param number what the program was to print */
function judge({ status, text }: Reply, number: number): Verdict {
  const answer = parse(text);
  if (status === 200) {
    const right =
      JSON.stringify(answer) === JSON.stringify({ returncode: 0, stdout: `${String(number)}\n`, stderr: '' });
    return { kind: right ? 'right' : 'wrong', detail: text.slice(0, 300) };
  }
  const code = answer?.['code'];
  const refused = REFUSALS.includes(status) && typeof code === 'string';
  return { kind: refused ? 'refused' : 'wrong', detail: `${String(status)} ${String(code)}` };
}

function parse(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

interface Load {
  readonly times: number[];
  readonly refused: Map<string, number>;
  readonly wrong: string[];
  seconds: number;
}

let next = 0;

/** One run whose answer no other run has. */
async function runOne(server: Server, load: Load, agent?: ReturnType<typeof keepAlive>): Promise<void> {
  const number = (next += 1);
  try {
    const reply = await post(server, '/run_py', { code: `print(${String(number)})` }, agent);
    const { kind, detail } = judge(reply, number);
    if (kind === 'right') load.times.push(reply.ms);
    else if (kind === 'refused') load.refused.set(detail, (load.refused.get(detail) ?? 0) + 1);
    else load.wrong.push(detail);
  } catch (error) {
    load.wrong.push(String(error));
  }
}

async function loaded(work: (load: Load) => Promise<unknown>): Promise<Load> {
  const load: Load = { times: [], refused: new Map(), wrong: [], seconds: 0 };
  const began = performance.now();
  await work(load);
  load.seconds = (performance.now() - began) / 1000;
  return load;
}

export async function measureLoad(
  seconds: number,
  servers: Readonly<Record<string, Server>>,
): Promise<Section> {
  const loads: [string, Load][] = [];
  for (const clients of CLIENTS) {
    for (const [form, server] of Object.entries(servers)) {
      const agent = keepAlive();
      const load = await loaded(async (each) => {
        const until = performance.now() + seconds * 1000;
        const client = async () => {
          while (performance.now() < until) await runOne(server, each, agent);
        };
        await Promise.all(Array.from({ length: clients }, client));
      });
      agent.destroy();
      loads.push([`${String(clients)} client${clients === 1 ? '' : 's'}, ${form}`, load]);
    }
  }
  return section('load', '/run_py print(n), clients that each wait for their answer (ms)', loads);
}

export async function measureBursts(
  sizes: readonly number[],
  servers: Readonly<Record<string, Server>>,
): Promise<Section> {
  const loads: [string, Load][] = [];
  for (const size of sizes) {
    for (const [form, server] of Object.entries(servers)) {
      const load = await loaded((each) =>
        Promise.all(Array.from({ length: size }, () => runOne(server, each))),
      );
      loads.push([`${String(size)} at once, ${form}`, load]);
    }
  }
  return section('burst', '/run_py print(n), all at once, each on its own connection (ms)', loads);
}

function section(name: string, title: string, loads: readonly [string, Load][]): Section {
  const rows = loads.map(([label, { times, refused, wrong, seconds }]) => {
    const { p50, p99 } = summarize(times);
    const refusals = [...refused].map(([code, count]) => `${String(count)} × ${code}`).join(', ') || '0';
    const rate = (times.length / seconds).toFixed(1);
    return [label, String(times.length), refusals, String(wrong.length), rate, ms(p50), ms(p99)];
  });
  const wrong = loads.flatMap(([label, load]) => load.wrong.map((detail) => `${label}: ${detail}`));
  const all = loads.reduce((sum, [, load]) => sum + load.times.length, 0);
  const promise: PromiseKept = {
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
  return { name, tables: [{ title, columns, rows }], promises: [promise], data };
}
