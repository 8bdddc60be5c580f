/** The attempts to escape of probes.py, and what their output says, as checks. */
import { readFileSync } from 'node:fs';
import type { Check } from './check.ts';

/** To be run as Python code by a run like any other. */
export const PROBES = readFileSync(new URL('./probes.py', import.meta.url), 'utf8');
/** A doctor that lost its probes must not pass. */
const PROBES_MIN = 20;

interface Probe {
  readonly name: string;
  readonly held: boolean;
  readonly detail: string;
}

/**
 * @param stdout of the run of `PROBES`
 * @param fault what else went wrong; '' for nothing
 */
export function escapeChecks(stdout: string, fault: string): Check[] {
  const probes = stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Probe);
  const checks = probes.map(({ name, held, detail }) => ({
    name: `escape: ${name}`,
    pass: held,
    value: `${held ? 'held' : 'BROKEN'} (${detail})`,
    remedy: 'do not run code of others on this machine; report it as SECURITY.md says',
  }));
  return [
    ...checks,
    {
      name: 'probes',
      pass: probes.length >= PROBES_MIN && fault === '',
      value: `${probes.length} escapes tried${fault === '' ? '' : `; ${fault}`}`,
      remedy: 'the log says why: above, or in journalctl -u nox-runner -u nox-api',
    },
  ];
}
