/** What a fact about an installed machine is, and what the facts have in common. */
import type { Desired } from './desired.ts';
import type { Host } from './host.ts';
import type { Attributes, Step } from './steps.ts';

export interface Context {
  readonly host: Host;
  readonly desired: Desired;
  /** Of the command: names what it puts aside. */
  readonly now: Date;
  /** Build anew what is damaged, instead of mending it. */
  readonly rebuild: boolean;
}

export interface Finding {
  readonly pass: boolean;
  /** What was found. */
  readonly value: string;
}

export interface Fact {
  readonly name: string;
  check(context: Context): Finding;
  /** Called where the check has failed. Empty where Nox cannot mend it: then the remedy says who can. */
  plan(context: Context): Step[];
  readonly remedy: string;
  /** A change of it is in force when the services have been started again. */
  readonly restarts: boolean;
}

export interface Judged {
  readonly fact: Fact;
  readonly finding: Finding;
}

export const ROOT = { owner: 'root', group: 'root' } as const;
export const REPAIR = 'noxctl repair';
export const RUNNER_USER = 'nox-runner';

export const ok = (value: string): Finding => ({ pass: true, value });
export const bad = (value: string): Finding => ({ pass: false, value });
export const judge = (faults: readonly string[], fine: string): Finding =>
  faults.length === 0
    ? ok(fine)
    : bad(faults.slice(0, 5).join('; ') + (faults.length > 5 ? `; ${faults.length - 5} more` : ''));

export function fact(parts: Partial<Fact> & Pick<Fact, 'name' | 'check'>): Fact {
  return { plan: () => [], remedy: REPAIR, restarts: false, ...parts };
}

/** What is wrong with the attributes of what is there; nothing for what is not. */
export function attributeFaults(
  host: Host,
  { path, mode, owner, group }: Attributes & { readonly path: string },
): string[] {
  const entry = host.entry(path);
  if (entry === undefined) return [];
  const faults: string[] = [];
  if (entry.mode !== mode)
    faults.push(`${path} has mode ${entry.mode.toString(8)} instead of ${mode.toString(8)}`);
  const uid = owner === 'root' ? 0 : host.user(owner)?.uid;
  const gid = group === 'root' ? 0 : host.group(group)?.gid;
  if (entry.uid !== uid || entry.gid !== gid) faults.push(`${path} does not belong to ${owner}:${group}`);
  return faults;
}
