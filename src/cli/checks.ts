/** PASS or FAIL, what was found, the remedy: a line for each check. */
import type { Check } from '../runner/check.ts';

/** @returns whether all have passed */
export function printChecks(checks: readonly Check[]): boolean {
  for (const check of checks) printCheck(check);
  const failed = checks.filter(({ pass }) => !pass).length;
  process.stdout.write(`${String(checks.length - failed)} passed, ${String(failed)} failed\n`);
  return failed === 0;
}

const SHOWN = 500;

/** What comes from a run or from the gateway may be written for the terminal, not for its reader. */
export function plain(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}]/gu, (sign) => (sign === '\n' || sign === '\t' ? sign : '\u{FFFD}'));
}

function printable(text: string): string {
  return text.length > SHOWN ? `${plain(text.slice(0, SHOWN))}…` : plain(text);
}

export function printCheck({ name, pass, value, remedy }: Check): boolean {
  process.stdout.write(`${pass ? 'PASS' : 'FAIL'}  ${printable(name).padEnd(24)} ${printable(value)}\n`);
  if (!pass) process.stdout.write(`      remedy: ${remedy}\n`);
  return pass;
}
