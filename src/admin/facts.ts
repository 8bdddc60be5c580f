/**
 * The facts about an installed machine. Each has a check, which only looks, and a plan, which only says what to do:
 * install, harden, repair and validate are views on this list. Order matters: a fact may take those before it for
 * granted when its plan is carried out.
 */
import { CURRENT, damages, RELEASES } from './release.ts';
import { SETTINGS_FILE, type Desired, type Directory, type File } from './desired.ts';
import {
  attributeFaults,
  bad,
  fact,
  judge,
  ok,
  REPAIR,
  ROOT,
  RUNNER_USER,
  type Context,
  type Fact,
} from './fact.ts';
import { FIREWALL_FILE, withPort } from './firewall.ts';
import { cgroup, packages, systemd, user, userNamespaces } from './facts-machine.ts';
import type { Host } from './host.ts';
import { OLD_VENV, timestamp } from './legacy.ts';
import { belongsTo } from './share.ts';
import type { Step } from './steps.ts';
import { SERVICES } from './undo.ts';
import { questionVenv, systemPython, VENV, VENV_RECORD } from './venv.ts';

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
  firewall(),
  oldReleases(),
  services(),
];

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
    remedy: 'noxctl harden',
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
    // Not thrown away: somebody has written it for a reason.
    plan: (context) =>
      found(context).map((path) => ({ do: 'move', from: path, to: `${path}.bak.${timestamp(context.now)}` })),
    restarts: true,
  });
}

/** Whoever has made one means the port on which Nox listens, also when that is another one now. */
function firewall(): Fact {
  const rules = ({ host, desired }: Context): { readonly now: string; readonly then: string } => {
    const now = host.text(FIREWALL_FILE) ?? '';
    return { now, then: withPort(now, desired.config.port) };
  };
  return fact({
    name: 'firewall',
    check: (context) => {
      const { now, then } = rules(context);
      if (now === '') return ok('none of Nox');
      return now === then ? ok(FIREWALL_FILE) : bad(`${FIREWALL_FILE} is for another port than NOX_PORT`);
    },
    plan: (context) => [
      { do: 'file', path: FIREWALL_FILE, text: rules(context).then, mode: 0o644, ...ROOT },
      { do: 'command', argv: ['systemctl', 'try-restart', 'nox-firewall.service'], why: 'load the rules' },
    ],
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

/** Seconds since 1970; NaN for a service that was not started. */
function startedAt(host: Host, unit: string): number {
  const show = [
    'systemctl',
    'show',
    unit,
    '--property=ExecMainStartTimestamp',
    '--timestamp=unix',
    '--value',
  ];
  return Number(/^@(\d+)$/.exec(host.run(show).stdout.trim())?.[1] ?? NaN);
}

function services(): Fact {
  const faults = ({ host }: Context): string[] =>
    SERVICES.flatMap((unit) => {
      const changed = Math.floor(host.entry(SETTINGS_FILE)?.changed ?? NaN);
      const active = host.run(['systemctl', 'is-active', unit]).stdout.trim();
      const enabled = host.run(['systemctl', 'is-enabled', unit]).stdout.trim();
      return [
        ...(active === 'active' ? [] : [`${unit} is ${active || 'not there'}`]),
        ...(enabled === 'enabled' ? [] : [`${unit} does not start at boot`]),
        ...(startedAt(host, unit) < changed
          ? [`${unit} has not read the settings since they were changed`]
          : []),
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

export const RESTART: Step = { do: 'services', verb: 'restart', units: SERVICES };
