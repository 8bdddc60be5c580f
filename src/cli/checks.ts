/** PASS or FAIL, what was found, the remedy: a line for each check. */
import type { Check } from '../runner/check.ts';

/** @returns whether all have passed */
export function printChecks(checks: readonly Check[]): boolean {
  for (const check of checks) printCheck(check);
  const failed = checks.filter(({ pass }) => !pass).length;
  process.stdout.write(`${String(checks.length - failed)} passed, ${String(failed)} failed\n`);
  return failed === 0;
}

export function printCheck({ name, pass, value, remedy }: Check): boolean {
  process.stdout.write(`${pass ? 'PASS' : 'FAIL'}  ${name.padEnd(24)} ${value}\n`);
  if (!pass) process.stdout.write(`      remedy: ${remedy}\n`);
  return pass;
}
