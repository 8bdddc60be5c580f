/**
 * install, harden, repair, repair-v2, rollback: each finds out what is not as it should be, makes a plan of it, and
 * carries it out as one transaction that is undone when anything fails, the self-test at its end included.
 */
import { desire, SETTINGS_COPY, SETTINGS_FILE } from './desired.ts';
import type { Context, Fact, Finding, Judged } from './fact.ts';
import { FACTS, RESTART } from './facts.ts';
import { applyStep } from './apply.ts';
import type { Host } from './host.ts';
import { interrupted, lastKept, recover, rollBack, Transaction } from './journal.ts';
import { API_UNIT, isUnhardened } from './legacy.ts';
import { writeRepairReport } from './report.ts';
import { selfTest } from './selftest.ts';
import { hideSecrets, parseSettings } from './settings.ts';
import { preview, title, type Step } from './steps.ts';

export type Verb = 'install' | 'harden' | 'repair' | 'repair-v2';

export interface Order {
  readonly host: Host;
  readonly source: string;
  readonly now: Date;
  readonly say: (line: string) => void;
  readonly dryRun: boolean;
  /** Fail before the step of this number, or end the process in it: how the tests interrupt a command. */
  readonly failAt?: number;
  readonly dieAt?: number;
}

/** A failure that the caller is told of in a few lines; everything is as it was before. */
class AdminError extends Error {
  override readonly name = 'AdminError';
}

export function examine(context: Context): Judged[] {
  return FACTS.map((fact) => ({ fact, finding: look(fact, context) }));
}

/** A check that cannot even look has found something wrong. */
function look(fact: Fact, context: Context): Finding {
  try {
    return fact.check(context);
  } catch (error) {
    return { pass: false, value: (error as Error).message };
  }
}

/** To be called first by every command that changes the machine. */
export function undoInterrupted(host: Host, say: (line: string) => void): void {
  for (const { head, left } of recover(host)) {
    say(`undone: ${head.verb} of ${head.started}, which was interrupted`);
    for (const line of left) say(`not put back: ${line}`);
  }
}

/** @throws AdminError when the machine could not be brought to the state that it should have */
export async function ensure(verb: Verb, order: Order): Promise<void> {
  const { host, say, dryRun } = order;
  if (dryRun)
    for (const { verb: open } of interrupted(host)) say(`interrupted: ${open}; it would be undone first`);
  else undoInterrupted(host, say);
  await achieve(verb, order);
}

/** What `ensure` does when nothing is left of an interrupted command; also within the transaction of a restore. */
export async function achieve(verb: Verb, order: Order): Promise<void> {
  const { host, source, now, say, dryRun } = order;
  if (verb === 'harden' && host.text(API_UNIT) === undefined)
    throw new AdminError('harden: Nox is not installed on this machine: noxctl install');

  const context: Context = { host, desired: desire(host, source), now, rebuild: verb === 'repair-v2' };
  const unhardened = isUnhardened(host);
  const changes = settingsChanged(host.text(SETTINGS_FILE), context.desired.settings);
  if (verb === 'install' && !unhardened && changes.length > 0)
    throw new AdminError(
      `${SETTINGS_FILE} cannot be used; nothing was changed:\n  ${changes.join('\n  ')}\nmend it, or let noxctl repair do what is said here`,
    );
  for (const line of changes) say(`settings: ${line}`);
  const broken = examine(context).filter(({ finding }) => !finding.pass);
  const planned = planOf(context, broken);
  for (const { fact, finding } of broken) say(`${fact.name}: ${finding.value}`);
  if (broken.length === 0) say('everything is as it should be: nothing to change');
  if (dryRun) {
    for (const step of planned) say(`would ${preview(step, host)}`);
    return;
  }
  const repairs = verb.startsWith('repair');
  try {
    if (planned.length > 0) await carryOut(verb, order, planned, () => verify(context, say), unhardened);
    else await testOrRestart(context, repairs, order);
  } catch (error) {
    if (repairs) writeRepairReport(context, verb, broken, planned, (error as Error).message, say);
    throw error;
  }
  if (unhardened) say('the way back: noxctl rollback');
  keepGoodSettings(context);
  if (repairs) writeRepairReport(context, verb, broken, planned, undefined, say);
}

/** Processes that hang look well from outside: then a repair starts them again. */
async function testOrRestart(context: Context, repairs: boolean, order: Order): Promise<void> {
  const { say } = order;
  try {
    await test(context, say);
  } catch (error) {
    if (!repairs) throw error;
    say((error as Error).message);
    await carryOut('repair', order, [RESTART], () => verify(context, say), false);
  }
}

/** What the desired settings change of those that are there: unknown names, values that cannot be used. */
function settingsChanged(now: string | undefined, then: string): string[] {
  const after = parseSettings(then);
  return Object.entries(parseSettings(now ?? '')).flatMap(([name, value]) => {
    if (after[name] === value) return [];
    const shown = hideSecrets(`${name}=${value}`);
    const other =
      after[name] === undefined ? 'it is taken out of force' : hideSecrets(`${name}=${after[name]}`);
    return [`${shown} cannot be used: ${other}`];
  });
}

/** @throws AdminError for a fact that no change of ours can mend */
function planOf(context: Context, broken: readonly Judged[]): Step[] {
  const steps: Step[] = [];
  const hopeless: string[] = [];
  for (const { fact, finding } of broken) {
    const plan = fact.plan(context);
    if (plan.length === 0 && !fact.restarts)
      hopeless.push(`${fact.name}: ${finding.value}\n  remedy: ${fact.remedy}`);
    steps.push(...plan);
  }
  if (hopeless.length > 0)
    throw new AdminError(`nothing was changed, because this cannot be mended here:\n${hopeless.join('\n')}`);
  if (broken.some(({ fact }) => fact.restarts)) steps.push(RESTART);
  return steps;
}

/**
 * Makes a plan true as one transaction: all of it, and then `verify`, or nothing.
 *
 * @param keep whether it can be rolled back later
 * @throws AdminError that names the step
 */
export async function carryOut(
  name: string,
  order: Order,
  steps: readonly Step[],
  verify: () => Promise<void>,
  keep: boolean,
): Promise<void> {
  const { host, now, say } = order;
  const transaction = Transaction.begin(host, name, now);
  const installed: string[] = [];
  let at = 'begin';
  try {
    for (const [index, step] of steps.entries()) {
      at = title(step);
      if (order.failAt === index) throw new Error('told to fail here');
      const backup = transaction.record(step);
      if (order.dieAt === index) process.kill(process.pid, 'SIGKILL');
      say(at);
      applyStep(host, step, backup);
      if (step.do === 'packages') installed.push(...step.names);
    }
    at = 'verification';
    if (order.failAt === steps.length) throw new Error('told to fail here');
    await verify();
  } catch (error) {
    say(`failed: ${at}`);
    const lines = [`${name} failed at: ${at}`, (error as Error).message];
    const left = undoneOrWhy(transaction);
    if (installed.length > 0) left.push(`these Debian packages stay installed: ${installed.join(' ')}`);
    lines.push(`everything is as it was before${left.length === 0 ? '' : ', but:'}`, ...left);
    throw new AdminError(lines.join('\n'), { cause: error });
  }
  transaction.commit(keep);
}

/** The first failure is what has to be told; one of the undo comes after it. */
function undoneOrWhy(transaction: Transaction): string[] {
  try {
    return transaction.undo();
  } catch (error) {
    return [`the undo was interrupted and is gone on with by the next command: ${(error as Error).message}`];
  }
}

async function verify(context: Context, say: (line: string) => void): Promise<void> {
  const left = examine(context).filter(({ finding }) => !finding.pass);
  if (left.length > 0)
    throw new Error(left.map(({ fact, finding }) => `${fact.name}: ${finding.value}`).join('\n'));
  await test(context, say);
}

async function test({ host, desired }: Context, say: (line: string) => void): Promise<void> {
  for (const line of await selfTest(host, desired.config)) say(line);
}

/** Not a part of the transaction: it only tells which settings have been seen to work. */
function keepGoodSettings({ host, desired }: Context): void {
  if (host.text(SETTINGS_COPY) === desired.settings) return;
  const step: Step = {
    do: 'file',
    path: SETTINGS_COPY,
    text: desired.settings,
    mode: 0o600,
    owner: 'root',
    group: 'root',
  };
  applyStep(host, step, '');
}

/** Back to the state before the machine was hardened. */
export function rollback(host: Host, say: (line: string) => void): void {
  undoInterrupted(host, say);
  const last = lastKept(host);
  if (last === undefined)
    throw new AdminError(
      'rollback: there is no harden to go back from (a fresh installation is hardened from its start)',
    );
  for (const line of rollBack(host)) say(`not put back: ${line}`);
  say(`back to the state before ${last.verb} of ${last.started}; ${SETTINGS_FILE} has its old text`);
}
