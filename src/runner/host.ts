/** What the runner knows of the host: where its programs are. */
import { accessSync, constants, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT_DIRS } from './sandbox.ts';

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

/** The interpreter of the runs: the setting, else the installed environment's, else the system's. */
export function choosePython(setting: string): string {
  if (setting !== '') return setting;
  return readable(INSTALLED_PYTHON) ? INSTALLED_PYTHON : SYSTEM_PYTHON;
}

/** The root of the virtual environment of an interpreter outside /usr, for `<root>/bin/python3`. */
export function virtualEnvironment(python: string): string | undefined {
  return python.startsWith('/usr/') ? undefined : join(python, '..', '..');
}
