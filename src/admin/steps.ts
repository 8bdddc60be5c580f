/**
 * The changes that a command may make to the machine, as data: a plan is a list of them, made by pure functions,
 * shown by `--dry-run`, and made true by apply.ts, which can also undo each.
 */
import { createTwoFilesPatch } from 'diff';
import type { Host } from './host.ts';
import { hideSecrets } from './settings.ts';

export interface Attributes {
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
}

export type Step =
  /** Makes a directory, or gives the one that is there these attributes. */
  | (Attributes & { readonly do: 'directory'; readonly path: string })
  /** Writes a file: whole, synced, under its name by a rename. */
  | (Attributes & { readonly do: 'file'; readonly path: string; readonly text: string })
  /** Gives attributes to what is there; a link is never followed. */
  | (Attributes & { readonly do: 'attributes'; readonly path: string })
  | { readonly do: 'link'; readonly path: string; readonly target: string }
  | { readonly do: 'move'; readonly from: string; readonly to: string }
  /** Takes away a file, a link or a tree. */
  | { readonly do: 'remove'; readonly path: string }
  /** Copies the program to a place of its own. */
  | { readonly do: 'release'; readonly source: string; readonly path: string }
  | ({ readonly do: 'venv' } & VenvPlan)
  | { readonly do: 'user'; readonly name: string; readonly group: string; readonly home: string }
  /** Debian packages; an undo leaves them. */
  | { readonly do: 'packages'; readonly names: readonly string[] }
  /** Gives the files of the workspace to the runs. */
  | { readonly do: 'share'; readonly path: string; readonly owner: string; readonly group: string }
  /** Stops services; or has systemd read the units again, start them at boot and restart them now, in order. */
  | { readonly do: 'services'; readonly verb: 'restart' | 'stop'; readonly units: readonly string[] }
  | { readonly do: 'command'; readonly argv: readonly string[]; readonly why: string };

/** A Python environment: built at `staging`, then moved to `path` by a step of its own. */
export interface VenvPlan {
  readonly staging: string;
  readonly path: string;
  readonly python: string;
  readonly owner: string;
  readonly group: string;
  /** One line a package, as pip's requirements; see settings.ts. */
  readonly requirements: string;
  /** A package index or a directory of wheels; '' for Debian's own packages. */
  readonly index: string;
  /** An environment of the same Python version whose packages come along. */
  readonly from?: string;
}

const octal = (mode: number): string => mode.toString(8).padStart(4, '0');
const who = ({ mode, owner, group }: Attributes): string => `${octal(mode)} ${owner}:${group}`;

/** One line for people. */
export function title(step: Step): string {
  switch (step.do) {
    case 'directory':
      return `directory ${step.path} (${who(step)})`;
    case 'file':
      return `write ${step.path} (${who(step)})`;
    case 'attributes':
      return `set ${step.path} to ${who(step)}`;
    case 'link':
      return `point ${step.path} to ${step.target}`;
    case 'move':
      return `move ${step.from} to ${step.to}`;
    case 'remove':
      return `remove ${step.path}`;
    case 'release':
      return `copy the program from ${step.source} to ${step.path}`;
    case 'venv':
      return `build a Python environment for ${step.path} from ${step.python}${describePackages(step)}`;
    case 'user':
      return `make system user ${step.name} (group ${step.group}, home ${step.home}, no login)`;
    case 'packages':
      return `install Debian packages: ${step.names.join(' ')}`;
    case 'share':
      return `give the files in ${step.path} to ${step.owner}:${step.group}, group-writable`;
    case 'services':
      return `${step.verb} ${step.units.join(', ')}${step.verb === 'restart' ? ' and enable at boot' : ''}`;
    case 'command':
      return `${step.why}: ${step.argv.join(' ')}`;
  }
}

function describePackages({ requirements, index, from }: VenvPlan): string {
  const names = requirements.split('\n').filter(Boolean);
  const wanted =
    names.length === 0 ? '' : `, with ${names.join(', ')} from ${hideSecrets(index) || "Debian's packages"}`;
  return `${from === undefined ? '' : `, with the packages of ${from}`}${wanted}`;
}

/** What `--dry-run` shows of a step: its line and, for a text, what would change in it. Secrets are hidden. */
export function preview(step: Step, host: Host): string {
  if (step.do !== 'file') return title(step);
  const now = hideSecrets(host.text(step.path) ?? '');
  const then = hideSecrets(step.text);
  if (now === then) return title(step);
  const patch = createTwoFilesPatch(step.path, step.path, now, then, undefined, undefined, { context: 2 });
  const lines = patch.split('\n').filter((line) => !/^(=+|Index: |--- |\+\+\+ )/.test(line));
  return [title(step), ...lines.filter(Boolean).map((line) => `    ${line}`)].join('\n');
}
