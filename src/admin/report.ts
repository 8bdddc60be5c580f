/** `logs/last_repair_report.md`: what a repair has found and done. */
import { applyStep } from './apply.ts';
import { LOGS } from './desired.ts';
import type { Context, Judged } from './fact.ts';
import { title, type Step } from './steps.ts';

const REPAIR_REPORT = `${LOGS}/last_repair_report.md`;

export function writeRepairReport(
  { host, now, desired }: Context,
  verb: string,
  broken: readonly Judged[],
  steps: readonly Step[],
): void {
  const list = (lines: readonly string[]): string =>
    lines.map((line) => `- ${line}\n`).join('') || '- nothing\n';
  const text = `# Nox: report of the last repair

- command: ${verb}
- time: ${now.toISOString()}
- program: ${desired.release.id}

## Found broken

${list(broken.map(({ fact, finding }) => `${fact.name}: ${finding.value}`))}
## Done

${list(steps.map(title))}
## Now

- every check passes, and so does the self-test of all four calls
`;
  applyStep(host, { do: 'file', path: REPAIR_REPORT, text, mode: 0o640, owner: 'nox', group: 'nox' }, '');
}
