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
  failure: string | undefined,
  say: (line: string) => void,
): void {
  const list = (lines: readonly string[]): string =>
    lines.map((line) => `- ${line}\n`).join('') || '- nothing\n';
  const text = `# Nox: report of the last repair

- command: ${verb}
- time: ${now.toISOString()}
- program: ${desired.release.id}

## Found broken

${list(broken.map(({ fact, finding }) => `${fact.name}: ${finding.value}`))}
## ${failure === undefined ? 'Done' : 'Tried, and undone'}

${list(steps.map(title))}
## Now

${failure === undefined ? '- every check passes, and so does the self-test of all four calls\n' : `- it failed:\n\n${failure.replaceAll(/^/gm, '    ')}\n`}`;
  try {
    applyStep(host, { do: 'file', path: REPAIR_REPORT, text, mode: 0o640, owner: 'nox', group: 'nox' }, '');
  } catch (error) {
    // The directory is the gateway's, who may have put anything there.
    say(`the report could not be written: ${(error as Error).message}`);
  }
}
