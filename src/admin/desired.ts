/** What the machine should be: everything that is written to it, worked out before anything is changed. */
import { createHash } from 'node:crypto';
import { ConfigError, parseConfig, type Config } from '../config.ts';
import { STATE, type Host } from './host.ts';
import { inheritedSettings, OLD_VENV, withoutOldPython } from './legacy.ts';
import { logrotateText } from './logs.ts';
import { readRelease, RELEASES, type Release } from './release.ts';
import { asEnvironment, completeSettings, mendSettings, newToken, requirements } from './settings.ts';
import type { Attributes, VenvPlan } from './steps.ts';
import { isElsewhere, makeUnits } from './units.ts';
import { debianPackage, systemPython, VENV } from './venv.ts';

export const SETTINGS_FILE = '/etc/default/nox-api';
/** The last settings that worked, for a repair of the file. */
export const SETTINGS_COPY = `${STATE}/settings.good`;
const HOME = '/home/nox/nox';
export const LOGS = `${HOME}/logs`;
const AUDIT_FILE = `${LOGS}/audit.log`;
/** Debian packages that Nox needs. */
export const SYSTEM_PACKAGES = ['bubblewrap', 'python3', 'python3-venv', 'libatomic1', 'logrotate'];

export interface File extends Attributes {
  readonly path: string;
  readonly text: string;
}

export interface Directory extends Attributes {
  readonly path: string;
}

export interface Desired {
  readonly settings: string;
  readonly config: Config;
  readonly release: Release;
  readonly releasePath: string;
  readonly packages: readonly string[];
  readonly directories: readonly Directory[];
  /** Units first, then the rest of what is only text. */
  readonly units: readonly File[];
  readonly files: readonly File[];
  readonly venv: VenvPlan;
  /** What the record beside the environment should say. */
  readonly venvRecord: string;
}

const ROOT = { owner: 'root', group: 'root' } as const;
const NOX = { owner: 'nox', group: 'nox' } as const;

/**
 * @param source a built tree
 * @throws Error, or ConfigError naming each setting that cannot be used
 */
export function desire(host: Host, source: string): Desired {
  const entry = host.entry(SETTINGS_FILE);
  if (entry !== undefined && entry.kind !== 'file')
    throw new Error(`${SETTINGS_FILE} is no regular file: put one in its place, with the same token`);
  const now = host.text(SETTINGS_FILE);
  const good = host.text(SETTINGS_COPY);
  const mended = mendSettings(now, good);
  const settings = completeSettings(
    mended === undefined ? undefined : withoutOldPython(mended),
    { NOX_AUDIT_FILE: AUDIT_FILE, ...inheritedSettings(host) },
    newToken,
  );
  const config = readConfig(settings);
  const release = readRelease(source);
  const releasePath = `${RELEASES}/${release.id}`;
  const { names, index } = config.packages;
  const wanted = requirements(names);
  const debian = index === '' ? wanted.split('\n').filter(Boolean).map(debianPackage) : [];
  const venv: VenvPlan = {
    ...{
      staging: `${VENV}.new`,
      path: VENV,
      python: '/usr/bin/python3',
      ...NOX,
      requirements: wanted,
      index,
    },
    ...(host.entry(OLD_VENV)?.kind === 'directory' ? { from: OLD_VENV } : {}),
  };
  return {
    ...{ settings, config, release, releasePath, venv },
    packages: [...SYSTEM_PACKAGES, ...debian],
    directories: directories(config),
    units: Object.entries(makeUnits(config)).map(([name, text]) => ({
      ...{ path: `/etc/systemd/system/${name}`, text, mode: 0o644, ...ROOT },
    })),
    files: [
      { path: '/opt/nox/bin/noxctl', text: WRAPPER, mode: 0o755, ...ROOT },
      // In root's path; the Debian package has its own.
      ...(host.entry('/usr/sbin/noxctl') === undefined
        ? [{ path: '/usr/local/sbin/noxctl', text: WRAPPER, mode: 0o755, ...ROOT }]
        : []),
      {
        path: '/etc/logrotate.d/nox',
        text: logrotateText({ file: AUDIT_FILE, user: 'nox', group: 'nox' }),
        ...{ mode: 0o644, ...ROOT },
      },
    ],
    // Everybody can read it, and the address of an index may hold a password.
    venvRecord: `${JSON.stringify({ python: systemPython(host), requirements: wanted, index: digest(index) })}\n`,
  };
}

const digest = (text: string): string =>
  text === '' ? '' : createHash('sha256').update(text).digest('hex').slice(0, 16);

function readConfig(settings: string): Config {
  try {
    return parseConfig('gateway', asEnvironment(settings));
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new ConfigError(`${SETTINGS_FILE} cannot be used:\n${error.message}`, { cause: error });
  }
}

/** From the root downwards: a directory that is safe is what makes those below it safe to touch. */
function directories(config: Config): Directory[] {
  const root = (path: string, mode = 0o755): Directory => ({ path, mode, ...ROOT });
  return [
    ...[root('/opt/nox'), root('/opt/nox/bin'), root(RELEASES), root(STATE, 0o700)],
    // Root's, so that nobody can put a link in the place of what is in it.
    ...[root('/home/nox'), root(HOME)],
    // Set-group-id: what the runs make belongs to the group of both users.
    { path: config.sandbox, mode: 0o2775, ...NOX },
    ...(isElsewhere(config.workspaces)
      ? [{ path: config.workspaces, mode: 0o700, owner: 'nox-runner', group: 'nox' }]
      : []),
    { path: LOGS, mode: 0o2750, ...NOX },
  ];
}

const WRAPPER = `#!/bin/sh
# Nox, the administrator's command.
exec /opt/nox/current/bin/node /opt/nox/current/dist/cli/noxctl.js "$@"
`;
