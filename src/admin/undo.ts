/**
 * How each change is taken back. `prepareUndo` looks at the machine before the change and puts aside what will be
 * lost; `undoStep` puts it back, whether the change was made, half made or not begun, and as often as it is called.
 */
import {
  closeSync,
  constants,
  copyFileSync,
  fchmodSync,
  fchownSync,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { listOwners, restoreOwners, type OwnerRow } from './share.ts';
import type { Host } from './host.ts';
import type { Step } from './steps.ts';

interface Owned {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

type Was =
  | { readonly kind: 'absent' }
  | (Owned & { readonly kind: 'file'; readonly copy: string })
  | (Owned & { readonly kind: 'directory' })
  | { readonly kind: 'link'; readonly target: string };

export type Undo =
  | { readonly do: 'nothing' }
  | { readonly do: 'restore'; readonly path: string; readonly was: Was }
  | ({ readonly do: 'attributes'; readonly path: string } & Owned)
  /** `id` is what was to be moved: by name alone a second undo could not tell it from what is back in its place. */
  | { readonly do: 'move'; readonly from: string; readonly to: string; readonly id: string | undefined }
  /** A tree that was put aside under a name beside it. */
  | { readonly do: 'bring back'; readonly path: string; readonly aside: string }
  | { readonly do: 'erase'; readonly path: string }
  | {
      readonly do: 'user';
      readonly name: string;
      readonly was?: { readonly home: string; readonly shell: string; readonly gid: number };
    }
  | { readonly do: 'owners'; readonly path: string; readonly list: string }
  | { readonly do: 'services' };

export interface ServiceState {
  readonly unit: string;
  readonly active: boolean;
  readonly enabled: boolean;
}

export const SERVICES = ['nox-runner.service', 'nox-api.service'] as const;
export const NOLOGIN = '/usr/sbin/nologin';

/** Where a tree waits that a step takes away: beside its place, so that it is only renamed. */
export function asideName(path: string, backup: string): string {
  const transaction = backup.split('/').at(-2) ?? '';
  return join(dirname(path), `.nox-removed-${transaction}-${path.split('/').at(-1) ?? ''}`);
}

/** @param backup a path of this step's own, for what must be kept */
export function prepareUndo(host: Host, step: Step, backup: string): Undo {
  switch (step.do) {
    case 'file':
    case 'link':
    case 'directory':
      return { do: 'restore', path: step.path, was: lookAt(host, step.path, backup) };
    case 'attributes': {
      const now = host.entry(step.path);
      if (now === undefined) throw new Error(`set attributes of ${step.path}: it is not there`);
      return { do: 'attributes', path: step.path, mode: now.mode, uid: now.uid, gid: now.gid };
    }
    case 'remove':
      return host.entry(step.path)?.kind === 'directory'
        ? { do: 'bring back', path: step.path, aside: asideName(step.path, backup) }
        : { do: 'restore', path: step.path, was: lookAt(host, step.path, backup) };
    case 'move':
      return { do: 'move', from: step.from, to: step.to, id: identity(host, step.from) };
    case 'release':
      return { do: 'erase', path: step.path };
    case 'venv':
      return { do: 'erase', path: step.staging };
    case 'user': {
      const now = host.user(step.name);
      return now === undefined
        ? { do: 'user', name: step.name }
        : { do: 'user', name: step.name, was: { home: now.home, shell: now.shell, gid: now.gid } };
    }
    case 'share': {
      writeRows(host, step.path, backup);
      return { do: 'owners', path: step.path, list: backup };
    }
    case 'services':
      return { do: 'services' };
    case 'packages':
    case 'command':
      return { do: 'nothing' };
  }
}

function lookAt(host: Host, path: string, backup: string): Was {
  const now = host.entry(path);
  if (now === undefined) return { kind: 'absent' };
  const { mode, uid, gid } = now;
  if (now.kind === 'directory') return { kind: 'directory', mode, uid, gid };
  if (now.kind === 'link') return { kind: 'link', target: host.linkTarget(path) ?? '' };
  if (now.kind === 'other')
    throw new Error(`change ${path}: it is neither file, directory nor link; look at it`);
  writeFileSync(backup, readFileSync(host.at(path)), { mode: 0o600, flush: true });
  return { kind: 'file', mode, uid, gid, copy: backup };
}

export function undoStep(host: Host, undo: Undo): void {
  switch (undo.do) {
    case 'nothing':
    case 'services':
      return;
    case 'restore': {
      restore(host, undo.path, undo.was);
      return;
    }
    case 'attributes': {
      if (host.entry(undo.path) !== undefined) setAttributes(host.at(undo.path), undo);
      return;
    }
    case 'move':
      if (host.entry(undo.from) === undefined && isSame(host, undo))
        renameSync(host.at(undo.to), host.at(undo.from));
      return;
    case 'bring back':
      if (host.entry(undo.aside) !== undefined && host.entry(undo.path) === undefined)
        renameSync(host.at(undo.aside), host.at(undo.path));
      return;
    case 'erase': {
      rmSync(host.at(undo.path), { recursive: true, force: true });
      return;
    }
    case 'user': {
      restoreUser(host, undo);
      return;
    }
    case 'owners': {
      if (host.entry(undo.path)?.kind === 'directory') restoreOwners(host, undo.path, readRows(undo.list));
      return;
    }
  }
}

/** Device and inode. */
function identity(host: Host, path: string): string | undefined {
  const stats = lstatSync(host.at(path), { bigint: true, throwIfNoEntry: false });
  return stats === undefined ? undefined : `${String(stats.dev)}:${String(stats.ino)}`;
}

function isSame(host: Host, { to, id }: Extract<Undo, { do: 'move' }>): boolean {
  const now = identity(host, to);
  return now !== undefined && now === id;
}

function restore(host: Host, path: string, was: Was): void {
  const real = host.at(path);
  const now = host.entry(path);
  if (was.kind === 'directory') {
    if (now?.kind === 'directory') setAttributes(real, was);
    return;
  }
  if (was.kind === 'absent') {
    if (now?.kind !== 'directory') rmSync(real, { force: true });
    else removeIfEmpty(real);
    return;
  }
  const temporary = join(dirname(real), `.nox-undo-${path.split('/').at(-1) ?? ''}`);
  rmSync(temporary, { force: true });
  if (was.kind === 'link') symlinkSync(was.target, temporary);
  else {
    copyFileSync(was.copy, temporary, constants.COPYFILE_EXCL);
    setAttributes(temporary, was);
  }
  renameSync(temporary, real);
}

/** A directory that we made may hold what came afterwards: that is nobody's to delete. */
function removeIfEmpty(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOTEMPTY' && code !== 'ENOENT') throw error;
  }
}

/** By descriptor, following no link: between a look and a chmod by name, a name can become another file's. */
export function setAttributes(path: string, { mode, uid, gid }: Owned): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    // In this order: chown(2) takes set-id bits away.
    fchownSync(fd, uid, gid);
    fchmodSync(fd, mode);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function restoreUser(host: Host, { name, was }: Extract<Undo, { do: 'user' }>): void {
  const now = host.user(name);
  if (now === undefined) return;
  if (was === undefined) {
    host.must(['userdel', name]);
    if (host.group(name) !== undefined) host.run(['groupdel', name]);
  } else if (was.shell !== now.shell || was.home !== now.home || was.gid !== now.gid)
    host.must(['usermod', '--shell', was.shell, '--home', was.home, '--gid', String(was.gid), name]);
}

const ROWS_AT_ONCE = 1000;

/** In pieces: a workspace may have a million files, and their paths the length that Linux allows. */
function writeRows(host: Host, path: string, file: string): void {
  const fd = openSync(file, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
  try {
    let rows: string[] = [];
    const flush = () => {
      writeFileSync(fd, rows.join(''));
      rows = [];
    };
    listOwners(host, path, (row) => {
      rows.push(`${JSON.stringify(row)}\n`);
      if (rows.length >= ROWS_AT_ONCE) flush();
    });
    flush();
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** A last line that was cut off belongs to a step that had not begun. */
function* readRows(list: string): Generator<OwnerRow> {
  const fd = openSync(list, constants.O_RDONLY);
  try {
    const piece = Buffer.alloc(1 << 16);
    let rest = '';
    for (let size = readSync(fd, piece); size > 0; size = readSync(fd, piece)) {
      // Hexadecimal digits and numbers: no character is cut in two.
      const lines = (rest + piece.toString('latin1', 0, size)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) yield JSON.parse(line) as OwnerRow;
    }
  } finally {
    closeSync(fd);
  }
}

/** What undos that are not needed any more have put aside. */
export function discard(host: Host, undos: readonly Undo[]): void {
  for (const undo of undos)
    if (undo.do === 'bring back') rmSync(host.at(undo.aside), { recursive: true, force: true });
}

export function servicesNow(host: Host): ServiceState[] {
  return SERVICES.map((unit) => ({
    unit,
    active: host.run(['systemctl', 'is-active', '--quiet', unit]).code === 0,
    enabled: host.run(['systemctl', 'is-enabled', '--quiet', unit]).code === 0,
  }));
}

/** Also at boot: a unit that goes must not leave its link behind. */
export function stopServices(host: Host): void {
  for (const unit of SERVICES.toReversed()) {
    host.run(['systemctl', 'stop', unit]);
    host.run(['systemctl', 'disable', '--quiet', unit]);
  }
}

/**
 * The services as they were, with the units that are back in place. What they ran with may not be startable any more
 * (settings that somebody has changed since): then that is said, and all else is as it was.
 *
 * @returns a line for each that did not start
 */
export function startServices(host: Host, before: readonly ServiceState[]): string[] {
  host.run(['systemctl', 'daemon-reload']);
  return before.flatMap(({ unit, active, enabled }) => {
    host.run(['systemctl', 'reset-failed', unit]);
    if (host.entry(`/etc/systemd/system/${unit}`) === undefined) return [];
    if (enabled) host.run(['systemctl', 'enable', '--quiet', unit]);
    const started = active ? host.run(['systemctl', 'start', unit]).code === 0 : true;
    return started
      ? []
      : [`${unit} does not start with what was there before (journalctl -u ${unit} says why)`];
  });
}
