/**
 * `make validate`: the doctor. Examines the machine, then starts a real runner and tries to escape from a real run.
 *
 * Prints a line for each check; ends with 1 if any fails.
 */
import { readFileSync } from 'node:fs';
import { fail, loadConfig, makeLog } from '../main.ts';
import type { Executor } from '../protocol/executor.ts';
import { openCgroup } from '../runner/cgroup.ts';
import { runChecks, type Check } from '../runner/check.ts';
import { explainFailure, prepareRunner, startRunner } from '../runner/start.ts';
import { developmentDefaults } from '../state.ts';
import { printCheck } from './checks.ts';

const PROBES = readFileSync(new URL('../runner/probes.py', import.meta.url), 'utf8');
/** A validate that lost its probes must not pass: the issue of each is one of these lines. */
const PROBES_MIN = 20;

interface Probe {
  readonly name: string;
  readonly held: boolean;
  readonly detail: string;
}

async function probe(executor: Executor): Promise<Check[]> {
  const program = { kind: 'python' as const, code: PROBES, args: [] };
  let stdout = '';
  let stderr = '';
  for await (const event of executor.run({ id: 'validate', program }, AbortSignal.timeout(60_000))) {
    if (event.type === 'end') break;
    const text = Buffer.from(event.data).toString();
    if (event.stream === 'stdout') stdout += text;
    else stderr += text;
  }
  const probes = stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Probe);
  const remedy = 'do not run code of others on this machine; report it as SECURITY.md says';
  const checks = probes.map(({ name, held, detail }) => ({
    name: `escape: ${name}`,
    pass: held,
    value: `${held ? 'held' : 'BROKEN'} (${detail})`,
    remedy,
  }));
  const value = `${probes.length} escapes tried${stderr === '' ? '' : `; ${stderr.trim()}`}`;
  return [
    ...checks,
    {
      name: 'probes',
      pass: probes.length >= PROBES_MIN && stderr === '',
      value,
      remedy: 'see the log above',
    },
  ];
}

const config = loadConfig('runner', developmentDefaults());
try {
  prepareRunner(config);
  const cgroup =
    config.cgroup === 'off' ? { available: false as const, reason: 'NOX_CGROUP=off' } : openCgroup();
  const passed = runChecks(config, cgroup).map(printCheck);
  if (!passed.includes(false)) {
    const { executor } = await startRunner(config, makeLog('error', 'nox'));
    passed.push(...(await probe(executor)).map(printCheck));
    await executor.close();
  }
  const failed = passed.filter((pass) => !pass).length;
  process.stdout.write(`${passed.length - failed} passed, ${failed} failed\n`);
  process.exitCode = failed === 0 ? 0 : 1;
} catch (error) {
  fail(explainFailure(error));
}
