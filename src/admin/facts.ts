/**
 * The facts about an installed machine. Each has a check, which only looks, and a plan, which only says what to do:
 * install, harden, repair and validate are views on this list. Order matters: a fact may take those before it for
 * granted when its plan is carried out.
 */
import { readFileSync } from 'node:fs';
import { readable } from '../runner/host.ts';
import { CURRENT, damages, RELEASES } from './release.ts';
import { SETTINGS_FILE, type Desired, type Directory, type File } from './desired.ts';
import type { Host } from './host.ts';
import { OLD_VENV, timestamp } from './legacy.ts';
import { belongsTo } from './share.ts';
import type { Attributes, Step } from './steps.ts';
import { SERVICES } from './undo.ts';
import { questionVenv, systemPython, VENV, VENV_RECORD } from './venv.ts';

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

const ROOT = { owner: 'root', group: 'root' } as const;
const REPAIR = 'make repair';
const RUNNER_USER = 'nox-runner';

const ok = (value: string): Finding => ({ pass: true, value });
const bad = (value: string): Finding => ({ pass: false, value });
const judge = (faults: readonly string[], fine: string): Finding =>
  faults.length === 0
    ? ok(fine)
    : bad(faults.slice(0, 5).join('; ') + (faults.length > 5 ? `; ${faults.length - 5} more` : ''));

export const FACTS: readonly Fact[] = [
  systemd(),
  cgroup(),
  packages(),
  userNamespaces(),
  user('nox'),
  user(RUNNER_USER),
  directories(),
  settings(),
  program(),
  environment(),
  oldEnvironment(),
  workspaceFiles(),
  textFiles('units', (desired) => desired.units, true),
  dropIns(),
  textFiles('files', (desired) => desired.files, false),
  oldReleases(),
  services(),
];

function fact(parts: Partial<Fact> & Pick<Fact, 'name' | 'check'>): Fact {
  return { plan: () => [], remedy: REPAIR, restarts: false, ...parts };
}

function systemd(): Fact {
  return fact({
    name: 'systemd',
    remedy: 'install on a machine that systemd has booted; anywhere else: make run',
    check: ({ host }) =>
      host.entry('/run/systemd/system')?.kind === 'directory'
        ? ok('running')
        : bad('it is not process 1 here'),
  });
}

/** cgroups(7): `cgroup.controllers` is in the root of version 2 alone. */
function cgroup(): Fact {
  return fact({
    name: 'cgroup v2',
    remedy:
      'boot with systemd.unified_cgroup_hierarchy=1: the limits of runs need memory, pids and cpu of cgroup v2',
    check: ({ host }) => {
      const found = host.text('/sys/fs/cgroup/cgroup.controllers')?.trim();
      if (found === undefined) return bad('/sys/fs/cgroup is not cgroup v2');
      const missing = ['cpu', 'memory', 'pids'].filter((name) => !found.split(' ').includes(name));
      return missing.length === 0 ? ok(found) : bad(`no controller ${missing.join(', ')}`);
    },
  });
}

function packages(): Fact {
  const missing = ({ host, desired }: Context): string[] =>
    desired.packages.filter(
      (name) => host.run(['dpkg-query', '-W', '-f', '${db:Status-Status}', name]).stdout !== 'installed',
    );
  return fact({
    name: 'packages',
    remedy: 'apt-get install the packages named',
    check: (context) =>
      judge(
        missing(context).map((name) => `${name} is missing`),
        context.desired.packages.join(' '),
      ),
    plan: (context) => [{ do: 'packages', names: missing(context) }],
  });
}

/** Switches that keep everybody but root from making user namespaces, by distribution. */
const SWITCHES = [
  {
    path: '/proc/sys/kernel/unprivileged_userns_clone',
    bad: '0',
    name: 'kernel.unprivileged_userns_clone',
    good: '1',
  },
  { path: '/proc/sys/user/max_user_namespaces', bad: '0', name: 'user.max_user_namespaces', good: '15000' },
] as const;
const APPARMOR_SWITCH = '/proc/sys/kernel/apparmor_restrict_unprivileged_userns';
const APPARMOR_PROFILE = '/etc/apparmor.d/nox-bwrap';
/** Ubuntu 24.04: a program may make user namespaces if a profile of its own says so. */
const APPARMOR_TEXT = `abi <abi/4.0>,
include <tunables/global>
# Nox: bubblewrap makes the sandboxes of the runs.
profile nox-bwrap /usr/bin/bwrap flags=(unconfined) {
  userns,
}
`;
const SYSCTL_FILE = '/etc/sysctl.d/60-nox.conf';

function userNamespaces(): Fact {
  const switches = () =>
    SWITCHES.filter(({ path, bad: value }) => readable(path) && readFileSync(path, 'utf8').trim() === value);
  const restricted = ({ host }: Context) =>
    readable(APPARMOR_SWITCH) &&
    readFileSync(APPARMOR_SWITCH, 'utf8').trim() === '1' &&
    !host
      .names('/etc/apparmor.d')
      .some((name) => host.text(`/etc/apparmor.d/${name}`)?.includes('/usr/bin/bwrap '));
  return fact({
    name: 'user namespaces',
    check: (context) => {
      const faults = switches().map(({ name, bad: value }) => `${name} is ${value}`);
      if (restricted(context)) faults.push('AppArmor keeps bwrap from them');
      return judge(faults, 'allowed');
    },
    plan: (context) => {
      const found = switches();
      const steps: Step[] = [];
      if (found.length > 0) {
        const text = found.map(({ name, good }) => `${name} = ${good}\n`).join('');
        steps.push({ do: 'file', path: SYSCTL_FILE, text, mode: 0o644, ...ROOT });
        steps.push({
          do: 'command',
          argv: ['sysctl', '-q', '-p', SYSCTL_FILE],
          why: 'allow user namespaces',
        });
      }
      if (restricted(context)) {
        steps.push({ do: 'file', path: APPARMOR_PROFILE, text: APPARMOR_TEXT, mode: 0o644, ...ROOT });
        steps.push({
          do: 'command',
          argv: ['apparmor_parser', '-r', APPARMOR_PROFILE],
          why: 'allow them to bwrap',
        });
      }
      return steps;
    },
  });
}

function user(name: string): Fact {
  return fact({
    name: `user ${name}`,
    check: ({ host }) => {
      const found = host.user(name);
      if (found === undefined) return bad('missing');
      const faults: string[] = [];
      if (found.uid === 0) faults.push('uid is 0');
      if (!/(^|\/)(nologin|false)$/.test(found.shell)) faults.push(`login shell ${found.shell}`);
      if (found.gid !== host.group('nox')?.gid) faults.push('primary group is not nox');
      return judge(faults, `uid ${String(found.uid)}, group nox, no login`);
    },
    plan: () => [{ do: 'user', name, group: 'nox', home: name === 'nox' ? '/home/nox' : '/nonexistent' }],
    restarts: true,
  });
}

/** What is wrong with the attributes of what is there; nothing for what is not. */
function attributeFaults(
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

function directories(): Fact {
  const faults = (host: Host, directory: Directory): string[] => {
    const entry = host.entry(directory.path);
    if (entry === undefined) return [`${directory.path} is missing`];
    if (entry.kind !== 'directory') return [`${directory.path} is no directory`];
    return attributeFaults(host, directory);
  };
  return fact({
    name: 'directories',
    check: ({ host, desired }) =>
      judge(
        desired.directories.flatMap((directory) => faults(host, directory)),
        desired.directories.map(({ path }) => path).join(' '),
      ),
    plan: ({ host, desired, now }) =>
      desired.directories
        .filter((directory) => faults(host, directory).length > 0)
        .flatMap((directory) => {
          const { path } = directory;
          const entry = host.entry(path);
          const inWay = entry !== undefined && entry.kind !== 'directory';
          const aside: Step[] = inWay
            ? [{ do: 'move', from: path, to: `${path}.bak.${timestamp(now)}` }]
            : [];
          return [...aside, ...parents(host, path), { do: 'directory' as const, ...directory }];
        }),
    restarts: true,
  });
}

/** Of a workspace in a place of the administrator's. */
function parents(host: Host, path: string): Step[] {
  const parent = path.slice(0, path.lastIndexOf('/'));
  if (
    parent === '' ||
    host.entry(parent) !== undefined ||
    parent.startsWith('/home/nox') ||
    parent.startsWith('/opt/nox')
  )
    return [];
  return [...parents(host, parent), { do: 'directory', path: parent, mode: 0o755, ...ROOT }];
}

function settings(): Fact {
  const file = ({ desired }: Context): File => ({
    path: SETTINGS_FILE,
    text: desired.settings,
    mode: 0o600,
    ...ROOT,
  });
  return textFact('settings', (context) => [file(context)], true);
}

function textFiles(name: string, select: (desired: Desired) => readonly File[], restarts: boolean): Fact {
  return textFact(name, ({ desired }) => select(desired), restarts);
}

function textFact(name: string, select: (context: Context) => readonly File[], restarts: boolean): Fact {
  const faults = (host: Host, file: File): string[] => {
    const text = host.text(file.path);
    if (text === undefined) return [`${file.path} is missing`];
    const changed = text === file.text ? [] : [`${file.path} was changed`];
    return [...changed, ...attributeFaults(host, file)];
  };
  return fact({
    name,
    check: (context) => {
      const files = select(context);
      return judge(
        files.flatMap((file) => faults(context.host, file)),
        files.map(({ path }) => path).join(' '),
      );
    },
    plan: (context) =>
      select(context)
        .filter((file) => faults(context.host, file).length > 0)
        .map((file) => ({ do: 'file', ...file })),
    restarts,
  });
}

function program(): Fact {
  const damaged = ({ host, desired }: Context) => damages(host, desired.releasePath);
  const pointed = ({ host, desired }: Context) =>
    host.linkTarget(CURRENT) === `releases/${desired.release.id}`;
  return fact({
    name: 'program',
    check: (context) => {
      const { host, desired } = context;
      if (host.entry(desired.releasePath) === undefined) {
        const other = host.linkTarget(CURRENT);
        return bad(
          other === undefined ? `${CURRENT} is missing` : `${other} instead of ${desired.release.id}`,
        );
      }
      return judge(
        [...damaged(context), ...(pointed(context) ? [] : [`${CURRENT} does not point to it`])],
        desired.release.id,
      );
    },
    plan: (context) => {
      const { host, desired } = context;
      const { release, releasePath } = desired;
      const staging = `${RELEASES}/.new-${release.id}`;
      const steps: Step[] = [];
      const there = host.entry(releasePath) !== undefined;
      if (!there || damaged(context).length > 0) {
        steps.push({ do: 'release', source: release.source, path: staging });
        if (there) steps.push({ do: 'remove', path: releasePath });
        steps.push({ do: 'move', from: staging, to: releasePath });
      }
      if (host.entry(CURRENT)?.kind === 'directory') steps.push({ do: 'remove', path: CURRENT });
      if (!pointed(context)) steps.push({ do: 'link', path: CURRENT, target: `releases/${release.id}` });
      return steps;
    },
    restarts: true,
  });
}

function environment(): Fact {
  const faults = ({
    host,
    desired,
  }: Context): { readonly build: string[]; readonly attributes: string[] } => {
    const { owner, group } = desired.venv;
    const entry = host.entry(VENV);
    if (entry?.kind !== 'directory') return { build: [`${VENV} is missing`], attributes: [] };
    const build: string[] = [];
    const attributes = attributeFaults(host, { path: VENV, mode: 0o755, owner, group });
    try {
      const expected = `${VENV} ${systemPython(host)}`;
      const said = questionVenv(host, owner, group, VENV);
      if (said !== expected) build.push(`its Python says ${said} instead of ${expected}`);
    } catch (error) {
      build.push((error as Error).message.replaceAll('\n', ' '));
    }
    if (host.text(VENV_RECORD) !== desired.venvRecord)
      build.push(`${VENV_RECORD} does not say what it is made of`);
    return { build, attributes };
  };
  return fact({
    name: 'python environment',
    check: (context) => {
      const { build, attributes } = faults(context);
      return judge([...build, ...attributes], `${VENV} (${systemPython(context.host)})`);
    },
    plan: (context) => {
      const { host, desired } = context;
      const { venv, venvRecord } = desired;
      const { build, attributes } = faults(context);
      const { owner, group } = venv;
      if (build.length === 0 && !context.rebuild)
        return attributes.length === 0 ? [] : [{ do: 'attributes', path: VENV, mode: 0o755, owner, group }];
      const record: Step = { do: 'file', path: VENV_RECORD, text: venvRecord, mode: 0o644, ...ROOT };
      const old: Step[] = host.entry(VENV) === undefined ? [] : [{ do: 'remove', path: VENV }];
      return [{ do: 'venv', ...venv }, ...old, { do: 'move', from: venv.staging, to: venv.path }, record];
    },
    restarts: true,
  });
}

/** The environment of the reference's first steps; its packages have come along. */
function oldEnvironment(): Fact {
  return fact({
    name: 'old environment',
    check: ({ host }) =>
      host.entry(OLD_VENV) === undefined ? ok('none') : bad(`${OLD_VENV} is still in the home`),
    plan: ({ now }) => [{ do: 'move', from: OLD_VENV, to: `${OLD_VENV}.bak.${timestamp(now)}` }],
    remedy: 'make harden',
  });
}

function workspaceFiles(): Fact {
  const foreign = ({ host, desired }: Context): boolean => {
    const uid = host.user('nox')?.uid;
    const { sandbox } = desired.config;
    return uid !== undefined && host.entry(sandbox)?.kind === 'directory' && belongsTo(host, sandbox, uid);
  };
  return fact({
    name: 'workspace files',
    check: (context) =>
      foreign(context)
        ? bad('some belong to nox: runs could not change them')
        : ok(`belong to ${RUNNER_USER}`),
    plan: ({ desired }) => [{ do: 'share', path: desired.config.sandbox, owner: RUNNER_USER, group: 'nox' }],
  });
}

/** A drop-in can take any directive away from a unit. */
function dropIns(): Fact {
  const found = ({ host }: Context): string[] =>
    ['/etc/systemd/system', '/run/systemd/system'].flatMap((place) =>
      [...SERVICES, 'nox.slice']
        .map((unit) => `${place}/${unit}.d`)
        .filter((path) => host.names(path).length > 0),
    );
  return fact({
    name: 'drop-ins',
    check: (context) =>
      judge(
        found(context).map((path) => `${path} changes the unit`),
        'none',
      ),
    plan: (context) => found(context).map((path) => ({ do: 'remove', path })),
    restarts: true,
  });
}

/** The one before stays, for the way back. */
function oldReleases(): Fact {
  const old = ({ host, desired }: Context): string[] => {
    const others = host.names(RELEASES).filter((name) => name !== desired.release.id);
    const pointed = host.linkTarget(CURRENT)?.replace('releases/', '') ?? '';
    const kept = others.includes(pointed) ? pointed : others.at(-1);
    return others.filter((name) => name !== kept);
  };
  return fact({
    name: 'old releases',
    check: (context) =>
      judge(
        old(context).map((name) => `${name} is not needed any more`),
        'at most one',
      ),
    plan: (context) => old(context).map((name) => ({ do: 'remove', path: `${RELEASES}/${name}` })),
  });
}

function services(): Fact {
  const faults = ({ host }: Context): string[] =>
    SERVICES.flatMap((unit) => {
      const active = host.run(['systemctl', 'is-active', unit]).stdout.trim();
      const enabled = host.run(['systemctl', 'is-enabled', unit]).stdout.trim();
      return [
        ...(active === 'active' ? [] : [`${unit} is ${active || 'not there'}`]),
        ...(enabled === 'enabled' ? [] : [`${unit} does not start at boot`]),
      ];
    });
  return fact({
    name: 'services',
    remedy: `${REPAIR}; the reason is in journalctl -u nox-runner -u nox-api`,
    check: (context) => judge(faults(context), 'active, start at boot'),
    // Its step is the restart that any change ends with.
    restarts: true,
  });
}

export const RESTART: Step = { do: 'services', verb: 'restart', enable: true, units: SERVICES };
