/**
 * `make validate`: the doctor. Examines the machine, then starts a real runner and tries to escape from a real run.
 *
 * Prints a line for each check; ends with 1 if any fails.
 */
import { fail, loadConfig, makeLog } from '../main.ts';
import type { Executor } from '../protocol/executor.ts';
import { openCgroup } from '../runner/cgroup.ts';
import { runChecks, type Check } from '../runner/check.ts';
import { escapeChecks, PROBES } from '../runner/escapes.ts';
import { explainFailure, prepareRunner, startRunner } from '../runner/start.ts';
import { developmentDefaults } from '../state.ts';
import { printCheck } from './checks.ts';

async function probe(executor: Executor): Promise<Check[]> {
  const program = { kind: 'python' as const, code: PROBES, args: [] };
  let stdout = '';
  let stderr = '';
  for await (const event of executor.run({ id: 'validate', program }, AbortSignal.timeout(60_000))) {
    if (event.type === 'end') break;
    if (event.type !== 'output') continue;
    const text = Buffer.from(event.data).toString();
    if (event.stream === 'stdout') stdout += text;
    else stderr += text;
  }
  return escapeChecks(stdout, stderr.trim());
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
