/** What /v1 costs beside the four calls: a run waited for and streamed, with much history, and many in one call. */
import { spawn } from 'node:child_process';
import { chownSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { SETTINGS } from '../src/config.ts';
import { newRunId } from '../src/gateway/store/ids.ts';
import { Store } from '../src/gateway/store/store.ts';
import { RUN_UID, type Server } from '../test/support/server.ts';
import { post } from './client.ts';
import { asked, got, PYTHON, streamed, type Bench } from './contestants.ts';
import { atLeast, atMost, ms, noneWrong, times, type Section } from './report.ts';
import { median, playRounds, roundsTable } from './rounds.ts';
import type { Guard } from './servers.ts';
import { summarize } from './stats.ts';

const PRINT = { code: 'print(1)' };
const PY = '/run_py print(1)';
const WAITED = '/v1/runs print(1), in the workspace of /run_py';
const SCRATCH = '/v1/runs print(1), in a workspace of its own';
const FIRST = '/v1/runs print(1), streamed: until its output is there';
const RIGHT = /"outcome":"ok".*"stdout":"1\\n"/;
const STREAMED = /"text":"1\\n"[^]*"type":"end"[^]*"outcome":"ok"/;
const OUTPUT = '"type":"output"';
const showMs = (value: number): string => `${ms(value, 2)} ms`;

export async function measureApi(rounds: number, guard: Guard): Promise<Section> {
  const server = await guard.shared('warm');
  const here = { ...PRINT, workspace: 'default' };
  const found = await playRounds(
    {
      [PY]: asked(server, '/run_py', PRINT, { returncode: 0, stdout: '1\n', stderr: '' }),
      [WAITED]: asked(server, '/v1/runs', here, RIGHT),
      [SCRATCH]: asked(server, '/v1/runs', PRINT, RIGHT),
      [FIRST]: streamed(server, '/v1/runs', here, OUTPUT, STREAMED),
    },
    rounds,
  );
  const above = (name: string) => median(found, name) - median(found, PY);
  return {
    name: 'api',
    tables: [roundsTable('One run at a time, over /v1 (ms)', found, PY)],
    promises: [
      atMost({ promise: `${WAITED}: above ${PY}`, value: above(WAITED), bound: 0.3, show: showMs }),
      atMost({ promise: `${SCRATCH}: above ${PY}`, value: above(SCRATCH), bound: 0.3, show: showMs }),
      atMost({
        promise: `${FIRST} / ${PY}`,
        value: median(found, FIRST) / median(found, PY),
        bound: 1.2,
        show: times(),
      }),
      ...noneWrong('api', found.wrong),
    ],
    data: { milliseconds: Object.fromEntries(found.summaries), wrong: found.wrong },
  };
}

/** @param count runs that have ended, before the server starts */
export async function measureHistory(rounds: number, count: number, guard: Guard): Promise<Section> {
  const state = mkdtempSync(join(tmpdir(), 'nox-bench-state-'));
  try {
    writeHistory(state, count);
    const much = await guard.start('warm', { NOX_STATE: state, NOX_KEEP_RUNS: '1000000' });
    const none = await guard.start('warm');
    const page = `GET /v1/runs?limit=100 with ${String(count)} runs of history`;
    const ok = `GET /v1/runs?outcome=ok&limit=100, the same`;
    const [with_, without] = [`/v1/runs print(1) with ${String(count)} runs`, '/v1/runs print(1) with none'];
    const full = /^\{"runs":\[(?:[^]*?\{"id":"run_){100}[^]*\],"next":"run_/;
    const found = await playRounds(
      {
        [without]: asked(none, '/v1/runs', PRINT, RIGHT),
        [with_]: asked(much, '/v1/runs', PRINT, RIGHT),
        [page]: got(much, '/v1/runs?limit=100', full),
        [ok]: got(much, '/v1/runs?limit=100&outcome=ok', full),
      },
      rounds,
    );
    await guard.stop(much);
    await guard.stop(none);
    return {
      name: 'history',
      tables: [roundsTable(`With ${String(count)} runs in the database (ms)`, found, without)],
      promises: [
        atMost({ promise: page, value: median(found, page), bound: 5, show: showMs }),
        atMost({
          promise: `${with_} / with none`,
          value: median(found, with_) / median(found, without),
          bound: 1.05,
          show: times(),
        }),
        ...noneWrong('history', found.wrong),
      ],
      data: { count, milliseconds: Object.fromEntries(found.summaries), wrong: found.wrong },
    };
  } finally {
    rmSync(state, { recursive: true, force: true });
  }
}

/** As the gateway writes them, all of the last hour. */
function writeHistory(state: string, count: number): void {
  const store = Store.open(state, { runs: 1e6, days: 30 }, pino({ level: 'silent' }));
  const usage = { wallSeconds: 0.01, cpuSeconds: 0.01, memoryBytes: null };
  const result = JSON.stringify({ outcome: 'ok', exitCode: 0, signal: null, omitted: {}, usage });
  const [run, now, batch] = [{ token: 'admin', runtime: 'python', requestId: 'bench' }, Date.now(), 1000];
  for (let from = 0; from < count; from += batch)
    store.durably(() => {
      for (let each = from; each < Math.min(from + batch, count); each += 1) {
        const at = now - ((count - each) * 3_600_000) / count;
        const id = newRunId(at);
        store.runs.insert({ ...run, id, workspace: undefined, state: 'running' }, Math.round(at));
        store.runs.finish(id, { outcome: 'ok', result }, Math.round(at) + 10);
      }
    });
  store.close();
  if (process.getuid?.() === 0)
    for (const path of [state, ...readdirSync(state).map((name) => join(state, name))])
      chownSync(path, SETTINGS.NOX_API_UID.default, RUN_UID);
}

const PROGRAMS = 200;

export async function measureBatch(turns: number, bench: Bench, guard: Guard): Promise<Section> {
  const server = await guard.shared('warm');
  const [loop, call]: [number[], number[]] = [[], []];
  const wrong: string[] = [];
  for (let turn = -1; turn < turns; turn += 1) {
    for (const [took, series] of [
      [await shellLoop(bench), loop],
      [await oneBatch(server), call],
    ] as const) {
      if (typeof took !== 'number') wrong.push(took.wrong);
      else if (turn >= 0) series.push(took);
    }
  }
  const [ofLoop, ofCall] = [summarize(loop), summarize(call)];
  const rows = (
    [
      [`shell loop over bwrap … python3 run.py`, ofLoop],
      ['POST /v1/batch', ofCall],
    ] as const
  ).map(([label, { n, min, p50 }]) => [label, String(n), ms(min, 0), ms(p50, 0)]);
  const columns = ['', 'turns', 'min', 'median'];
  return {
    name: 'batch',
    tables: [{ title: `${String(PROGRAMS)} programs that print (ms, all of them)`, columns, rows }],
    promises: [
      atLeast({
        promise: `${String(PROGRAMS)} programs in a batch: faster than in a shell loop`,
        value: ofLoop.p50 / ofCall.p50,
        bound: 3,
        show: times(),
      }),
      ...noneWrong('batch', wrong),
    ],
    data: { programs: PROGRAMS, loop, call, wrong },
  };
}

type Took = number | { readonly wrong: string };

async function shellLoop({ bwrap, workspace }: Bench): Promise<Took> {
  const script = 'for i in $(seq "$0"); do "$@" || exit; done';
  const argv = [...bwrap, PYTHON, join(workspace, 'run.py')];
  const began = performance.now();
  const child = spawn('/bin/sh', ['-c', script, String(PROGRAMS), ...argv], {
    ...(process.getuid?.() === 0 ? { uid: RUN_UID, gid: RUN_UID } : {}),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout.on('data', (data: Buffer) => (said += data.toString()));
  await once(child, 'close');
  const took = performance.now() - began;
  return said === '1\n'.repeat(PROGRAMS) ? took : { wrong: `shell loop: ${said.slice(0, 200)}` };
}

async function oneBatch(server: Server): Promise<Took> {
  const runs = Array.from({ length: PROGRAMS }, (_, index) => ({ code: `print(${String(index)})` }));
  const { status, text, ms: took } = await post(server, '/v1/batch', { runs });
  if (status !== 200) return { wrong: `batch: ${String(status)} ${text.slice(0, 200)}` };
  const { results } = JSON.parse(text) as { results: { run?: { outcome: string; stdout: string } }[] };
  const bad = results.findIndex(({ run }, at) => run?.outcome !== 'ok' || run.stdout !== `${String(at)}\n`);
  return bad < 0 && results.length === PROGRAMS ? took : { wrong: `batch: ${JSON.stringify(results[bad])}` };
}
