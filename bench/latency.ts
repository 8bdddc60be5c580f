/** How long one run takes when it is alone, next to the bare interpreter. */
import { asked, PYTHON, started, type Bench, type Contestant } from './contestants.ts';
import { atMost, noneWrong, times, type Section } from './report.ts';
import { median, playRounds, roundsTable, type Rounds } from './rounds.ts';
import type { Guard } from './servers.ts';

const PRINT = 'print(1)';
const PACKAGES = 'import numpy, pandas; print(int(pandas.Series(numpy.arange(3)).sum()))';
const BARE = "python3 -c 'print(1)'";
const BARE_PACKAGES = "python3 -c 'import numpy, pandas; …'";
const PY = '/run_py print(1)';
const SH = '/run_sh ["true"]';
const PRELOADED = '/run_py import numpy, pandas; …, preloaded';

const answer = (stdout: string) => ({ returncode: 0, stdout, stderr: '' });

export async function measureLatency(rounds: number, bench: Bench, guard: Guard): Promise<Section> {
  const warm = await guard.shared('warm');
  const print = (server: typeof warm) => asked(server, '/run_py', { code: PRINT }, answer('1\n'));
  const contestants: Record<string, Contestant> = {
    [BARE]: started([PYTHON, '-c', PRINT], '1\n'),
    'bwrap … python3 run.py': started([...bench.bwrap, PYTHON, `${bench.workspace}/run.py`], '1\n'),
    [PY]: print(warm),
    [`${PY}, gateway and runner in one process`]: print(await guard.shared('one process')),
    [`${PY}, NOX_WARM=off`]: print(await guard.shared('cold')),
    [SH]: asked(warm, '/run_sh', { cmd: ['true'] }, answer('')),
  };
  const found = await playRounds(contestants, rounds);
  const ratio = (name: string) => median(found, name) / median(found, BARE);
  return section('latency', 'One run at a time (ms)', found, BARE, [
    atMost({ promise: `${PY} / ${BARE}`, value: ratio(PY), bound: 0.45, further: 0.25, show: times() }),
    atMost({ promise: `${SH} / ${BARE}`, value: ratio(SH), bound: 0.4, further: 0.25, show: times() }),
  ]);
}

/** On their own: half a second of another's work on both cores is no pause between two short runs. */
export async function measurePackages(rounds: number, guard: Guard): Promise<Section> {
  const preloaded = await guard.shared('preloaded');
  const found = await playRounds(
    {
      [BARE_PACKAGES]: started([PYTHON, '-c', PACKAGES], '3\n'),
      [PRELOADED]: asked(preloaded, '/run_py', { code: PACKAGES }, answer('3\n')),
    },
    rounds,
  );
  const value = median(found, PRELOADED) / median(found, BARE_PACKAGES);
  return section('packages', 'One run at a time that imports numpy and pandas (ms)', found, BARE_PACKAGES, [
    atMost({ promise: `${PRELOADED} / bare`, value, bound: 0.025, further: 0.015, show: times(3) }),
  ]);
}

function section(
  name: string,
  title: string,
  found: Rounds,
  reference: string,
  promises: Section['promises'],
): Section {
  return {
    name,
    tables: [roundsTable(title, found, reference)],
    promises: [...promises, ...noneWrong(name, found.wrong)],
    data: { reference, milliseconds: Object.fromEntries(found.summaries), wrong: found.wrong },
  };
}
