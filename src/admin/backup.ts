/**
 * Backup and restore: settings (with the token) and the workspace, in one archive that only root can read.
 *
 * The workspace is hostile: names of every kind, links that leave it, a run that changes it meanwhile. Its part of the
 * archive is written and unpacked by tar as the runs' own user, who can do nothing that a run could not do, only that
 * for reading it may pass over permissions.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseConfig } from '../config.ts';
import { asEnvironment, parseSettings } from './settings.ts';
import { SETTINGS_FILE } from './desired.ts';
import { STATE, type Host } from './host.ts';
import type { Step } from './steps.ts';
import { SERVICES, setAttributes } from './undo.ts';

const USER = 'nox-runner';
const GROUP = 'nox';
const MEMBERS = ['nox-backup.json', 'settings', 'workspace.tar'] as const;
const DEFAULT_SANDBOX = '/home/nox/nox/sandbox';

const FORMAT = 1;

interface Manifest {
  readonly format: number;
  readonly version: string;
  readonly made: string;
}

/** @param file must not exist yet */
export function backup(host: Host, file: string, version: string, now: Date): void {
  if (existsSync(file)) throw new Error(`backup: ${file} exists already; name another file`);
  const settings = host.text(SETTINGS_FILE);
  if (settings === undefined)
    throw new Error(`backup: ${SETTINGS_FILE} is missing: there is nothing installed to save`);
  const sandbox = parseSettings(settings)['NOX_SANDBOX'] || DEFAULT_SANDBOX;
  const limit = parseConfig('runner', asEnvironment(settings)).limits.workspaceBytes;
  const dir = mkdtempSync(join(dirname(file), '.nox-backup-'));
  try {
    const manifest: Manifest = { format: FORMAT, version, made: now.toISOString() };
    writeFileSync(join(dir, 'nox-backup.json'), `${JSON.stringify(manifest)}\n`, { mode: 0o600 });
    writeFileSync(join(dir, 'settings'), settings, { mode: 0o600 });
    // 1: a file changed while it was read, which a live workspace may do.
    const read = ['--inh-caps=-all,+dac_read_search', '--ambient-caps=+dac_read_search'];
    // Complaints by the thousand, and paths that grow with their depth, are in a run's power: neither may fill us.
    const limits = `ulimit -f ${String(Math.ceil((2 * limit) / 1024))}; umask 077; out=$1; shift`;
    const { code, stderr } = host.run([
      ...['bash', '-c', `${limits}; "$@" > "$out" 2> >(tail -c 2000 >&2)`, 'sh', join(dir, 'workspace.tar')],
      ...['setpriv', `--reuid=${USER}`, `--regid=${GROUP}`, '--clear-groups', ...read, '--'],
      ...['tar', '--create', '--sparse', '--one-file-system', '--warning=no-file-ignored'],
      ...[`--directory=${sandbox}`, '.'],
    ]);
    if (code !== 0 && code !== 1)
      throw new Error(
        `backup of ${sandbox}: tar ended with ${String(code)}: ${stderr.trim()} (more than ${String(2 * limit)} bytes, twice NOX_MAX_WORKSPACE, are not saved)`,
      );
    const packed = join(dir, 'backup');
    writeFileSync(packed, '', { mode: 0o600 });
    host.must(['tar', '--create', '--gzip', `--file=${packed}`, `--directory=${dir}`, ...MEMBERS]);
    renameSync(packed, file);
    host.must(['sync', '-f', file]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** A backup, unpacked beside the places where its parts belong. */
interface Unpacked {
  readonly manifest: Manifest;
  readonly settings: string;
  readonly sandbox: string;
  /** The workspace of the backup. */
  readonly fresh: string;
}

/**
 * Reads a backup. Nothing is changed but that its workspace lies beside the one that is there.
 *
 * @throws Error for what is no backup, or cannot be unpacked
 */
export function unpack(host: Host, file: string, stamp: string): Unpacked {
  if (!existsSync(file)) throw new Error(`restore: there is no ${file}`);
  const dir = mkdtempSync(`${STATE}/.restore-`);
  let fresh: string | undefined;
  try {
    const listed = host
      .must(['tar', '--list', '--gzip', `--file=${file}`])
      .split('\n')
      .filter(Boolean)
      .sort();
    if (listed.join(' ') !== MEMBERS.toSorted().join(' '))
      throw new Error(`restore: ${file} is no backup of Nox: it has ${listed.slice(0, 5).join(', ')}`);
    host.must([
      'tar',
      '--extract',
      '--gzip',
      `--file=${file}`,
      `--directory=${dir}`,
      '--no-same-owner',
      ...MEMBERS,
    ]);
    const member = (name: (typeof MEMBERS)[number]): string => {
      // A link in its place could show us any other file: `text` follows none.
      const text = host.text(join(dir, name));
      if (text === undefined) throw new Error(`restore: ${name} in ${file} is no file`);
      return text;
    };
    const manifest = JSON.parse(member('nox-backup.json')) as Manifest;
    if (manifest.format !== FORMAT)
      throw new Error(
        `restore: ${file} has format ${String(manifest.format)}, which this version cannot read`,
      );
    const settings = member('settings');
    const sandbox = parseSettings(settings)['NOX_SANDBOX'] || DEFAULT_SANDBOX;
    fresh = `${sandbox}.restore.${stamp}`;
    mkdirSync(fresh, { mode: 0o700 });
    const owned = { uid: host.userId(USER), gid: host.groupId(GROUP) };
    setAttributes(fresh, { mode: 0o700, ...owned });
    host.must([
      ...['sh', '-c', 'in=$1; shift; exec "$@" < "$in"', 'sh', join(dir, 'workspace.tar')],
      ...[
        'setpriv',
        `--reuid=${USER}`,
        `--regid=${GROUP}`,
        '--clear-groups',
        '--inh-caps=-all',
        '--no-new-privs',
        '--',
      ],
      ...[
        'tar',
        '--extract',
        '--sparse',
        '--preserve-permissions',
        '--no-same-owner',
        `--directory=${fresh}`,
      ],
    ]);
    setAttributes(fresh, { mode: 0o2775, uid: host.userId('nox'), gid: owned.gid });
    return { manifest, settings, sandbox, fresh };
  } catch (error) {
    if (fresh !== undefined) rmSync(fresh, { recursive: true, force: true });
    throw error;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Puts the parts of a backup in their places; what was there is put aside. The services are stopped afterwards. */
export function restorePlan(
  host: Host,
  { settings, sandbox, fresh }: Unpacked,
  aside: string,
  stamp: string,
): Step[] {
  const file = { mode: 0o600, owner: 'root', group: 'root' } as const;
  const old = host.text(SETTINGS_FILE);
  return [
    ...(old === undefined
      ? []
      : [{ do: 'file', path: `${SETTINGS_FILE}.bak.${stamp}`, text: old, ...file } as const]),
    { do: 'services', verb: 'stop', units: SERVICES },
    ...(host.entry(sandbox) === undefined ? [] : [{ do: 'move', from: sandbox, to: aside } as const]),
    { do: 'move', from: fresh, to: sandbox },
    { do: 'file', path: SETTINGS_FILE, text: settings, ...file },
  ];
}
