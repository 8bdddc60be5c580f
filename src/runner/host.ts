/** What the runner knows of the host: where its programs are. */
import { accessSync, constants, readdirSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ownNode } from '../state.ts';
import { ETC, ROOT_DIRS } from './sandbox.ts';

export const BWRAP = '/usr/bin/bwrap';
const SYSTEM_PYTHON = '/usr/bin/python3';
const INSTALLED_PYTHON = '/opt/nox/.venv/bin/python3';

export function readable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

/** What runs see of this host's /etc: ETC, and the settings of OpenJDKs, which do not start without them. */
export function shownEtc(): string[] {
  // Theirs are public as well: a JVM refuses a file of passwords that others can read.
  const java = readdirSync('/etc').filter((name) => /^java-\d+-openjdk$/.test(name));
  return [...ETC, ...java.map((name) => join('/etc', name))].filter(readable);
}

/** Entries of the root that are links into /usr, as on every current Debian and Ubuntu: path → target. */
export function rootLinks(): Map<string, string> {
  return new Map(ROOT_DIRS.filter(isLink).map((path) => [path, readlinkSync(path)]));
}

function isLink(path: string): boolean {
  try {
    readlinkSync(path);
    return true;
  } catch {
    return false;
  }
}

/**
 * A path of the file that this process executes, by which bwrap, as the same user, can reach it. The clone may lie in
 * a directory that is root's alone (decision 14): then only the link that root made leads to it, if that is still it.
 */
export function nodeProgram(): string | undefined {
  const own = statSync('/proc/self/exe');
  return [process.execPath, ownNode()].find((path) => {
    try {
      const found = statSync(path);
      return found.ino === own.ino && found.dev === own.dev && readable(path);
    } catch {
      return false;
    }
  });
}

/** The interpreter of the runs: the setting, else the installed environment's, else the system's. */
export function choosePython(setting: string): string {
  if (setting !== '') return setting;
  return readable(INSTALLED_PYTHON) ? INSTALLED_PYTHON : SYSTEM_PYTHON;
}

/** The root of the virtual environment of an interpreter outside /usr, for `<root>/bin/python3`. */
export function virtualEnvironment(python: string): string | undefined {
  return python.startsWith('/usr/') ? undefined : join(python, '..', '..');
}
