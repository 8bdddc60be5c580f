/** Many at a time: a steady number of clients, and bursts. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from './client.ts';
import { atLeast, atMost, times, type Section } from './report.ts';
import { PAUSE_MS } from './rounds.ts';
import { burst, loadsSection, newLoad, rate, refusals, runOne, saturate, type Load } from './runs.ts';
import type { Guard } from './servers.ts';
import { summarize } from './stats.ts';

const CLIENTS = [1, 16, 64] as const;
/** The number that the promise is about. */
const PROMISED = 16;
const SETTLE_MS = 500;

/**
 * Short windows of the warm and the cold server, in turn: what else happens on the machine hits both.
 *
 * @param windows of each server, for each number of clients
 */
export async function measureLoad(windows: number, seconds: number, guard: Guard): Promise<Section> {
  const servers = { warm: await guard.shared('warm'), cold: await guard.shared('cold') };
  const loads: [string, Load][] = [];
  const rates: number[] = [];
  for (const clients of CLIENTS) {
    const both = { warm: newLoad(), cold: newLoad() };
    for (const [form, server] of Object.entries(servers)) {
      await saturate(server, clients, seconds / 4, newLoad());
      loads.push([`${String(clients)} client${clients === 1 ? '' : 's'}, ${form}`, both[form as 'warm']]);
    }
    for (let window = 0; window < windows; window += 1) {
      for (const form of ['warm', 'cold'] as const) {
        await saturate(servers[form], clients, seconds, both[form]);
        await sleep(SETTLE_MS);
      }
    }
    if (clients === PROMISED) rates.push(rate(both.warm) / rate(both.cold));
  }
  const promise = atLeast({
    promise: `runs/s of ${String(PROMISED)} clients, warm / NOX_WARM=off`,
    ...{ value: rates[0] ?? NaN, bound: 4, further: 8, show: times() },
  });
  const title = '/run_py print(n), clients that each wait for their answer (ms)';
  return loadsSection('load', title, loads, [promise]);
}

const BURST = 100;
const BURST_RATIO = 20;
const BURST_WISH = 12;

/** @param more sizes of bursts that are shown beside the one that is promised */
export async function measureBursts(
  count: number,
  paced: number,
  more: readonly number[],
  guard: Guard,
): Promise<Section> {
  const server = await guard.shared('warm');
  const alone = newLoad();
  const connection = new Connection(server);
  for (let run = 0; run < paced; run += 1) {
    await sleep(PAUSE_MS);
    await runOne(connection, alone);
  }
  connection.close();
  const loads: [string, Load][] = [[`${String(paced)} one after another, paced`, alone]];
  const promised = newLoad();
  for (const [size, load] of [
    [BURST, promised] as const,
    ...more.map((each) => [each, newLoad()] as const),
  ]) {
    for (let round = 0; round < count; round += 1) {
      await burst(server, size, load);
      await sleep(SETTLE_MS);
    }
    loads.push([`${String(count)} bursts of ${String(size)} at once`, load]);
  }
  const failed = refusals(promised) + promised.wrong.length;
  const value = summarize(promised.times).p99 / summarize(alone.times).p50;
  return loadsSection('burst', '/run_py print(n), each of a burst on its own connection (ms)', loads, [
    atMost({ promise: `burst of ${String(BURST)}: failed runs`, value: failed, bound: 0, show: String }),
    atMost({
      promise: `burst of ${String(BURST)}: p99 / paced median`,
      ...{ value, bound: BURST_RATIO, further: BURST_WISH, show: times(1) },
    }),
  ]);
}
