/**
 * Backup and restore: settings (with the administrator's token), the other tokens and all workspaces, in one archive
 * that only root can read. The gateway writes and takes in its tokens itself (src/gateway/store/token-file.ts); runs and
 * what they printed are not saved.
 *
 * Workspaces are hostile: names of every kind, links that leave them, runs that change them meanwhile. Their part of the
 * archive is written and unpacked by tar as the runs' own user, who can do nothing that a run could not do, only that
 * for reading it may pass over permissions. The gateway's directory is read as the gateway's user: a link in it shows
 * root no other file.
 */
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseConfig } from '../config.ts';
import { RESTORED_FILE, TOKENS_FILE } from '../gateway/store/token-file.ts';
import { asEnvironment, parseSettings } from './settings.ts';
import { SETTINGS_FILE } from './desired.ts';
import { STATE, type Host } from './host.ts';
import type { Step } from './steps.ts';
import { SERVICES, setAttributes } from './undo.ts';
import { API_STATE, isElsewhere, RUNNER_STATE } from './units.ts';

const USER = 'nox-runner';
const GROUP = 'nox';
const MEMBERS = ['nox-backup.json', 'settings', 'workspace.tar', 'workspaces.tar', 'tokens.json'] as const;
const FORMAT = 3;
/** Before tokens were saved, and before there were other workspaces than the default one. */
const FORMATS: Readonly<Record<number, readonly string[]>> = {
  [FORMAT]: MEMBERS,
  2: MEMBERS.slice(0, 4),
  1: MEMBERS.slice(0, 3),
};
const DEFAULT_SANDBOX = '/home/nox/nox/sandbox';
/** Some fifty thousand tokens. */
const TOKENS_MAX = 32 * 1024 * 1024;
const NO_TOKENS = '{"format":1,"tokens":[]}\n';

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
    saveTree(host, sandbox, join(dir, 'workspace.tar'), 2 * limit);
    saveTree(host, shelfOf(settings), join(dir, 'workspaces.tar'));
    writeFileSync(join(dir, 'tokens.json'), tokensOf(host, stateOf(settings)), { mode: 0o600 });
    const packed = join(dir, 'backup');
    writeFileSync(packed, '', { mode: 0o600 });
    host.must(['tar', '--create', '--gzip', `--file=${packed}`, `--directory=${dir}`, ...MEMBERS]);
    renameSync(packed, file);
    host.must(['sync', '-f', file]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** What has all workspaces but the default one. Its parent is root's, so that nobody can put a link in its place. */
function shelfOf(settings: string): string {
  const workspaces = parseSettings(settings)['NOX_WORKSPACES'] || `${RUNNER_STATE}/workspaces`;
  return isElsewhere(workspaces) ? workspaces : RUNNER_STATE;
}

/** The gateway's directory. */
const stateOf = (settings: string): string => parseSettings(settings)['NOX_STATE'] || API_STATE;

/** An older gateway has no such file. */
function tokensOf(host: Host, state: string): string {
  const file = join(state, TOKENS_FILE);
  if (host.entry(file) === undefined) return NO_TOKENS;
  const { code, stdout, stderr } = host.runAs('nox', GROUP, ['head', `--bytes=${String(TOKENS_MAX)}`, file]);
  if (code !== 0) throw new Error(`backup: cannot read ${file}: ${stderr.trim()}`);
  if (Buffer.byteLength(stdout) >= TOKENS_MAX)
    throw new Error(
      `backup: ${file} has more than ${String(TOKENS_MAX)} bytes: revoke tokens that nobody uses`,
    );
  return stdout;
}

/** @param limit in bytes; the workspaces behind NOX_WORKSPACES are many, and only the disk limits them here */
function saveTree(host: Host, tree: string, file: string, limit?: number): void {
  const read = ['--inh-caps=-all,+dac_read_search', '--ambient-caps=+dac_read_search'];
  // Complaints by the thousand, and paths that grow with their depth, are in a run's power: neither may fill us.
  const bound = limit === undefined ? '' : `ulimit -f ${String(Math.ceil(limit / 1024))}; `;
  const script = `${bound}umask 077; out=$1; shift; "$@" > "$out" 2> >(tail -c 2000 >&2)`;
  const what =
    host.entry(tree) === undefined
      ? ['--files-from=/dev/null']
      : ['--exclude=.half-*', `--directory=${tree}`, '.'];
  const { code, stderr } = host.run([
    ...['bash', '-c', script, 'sh', file],
    ...['setpriv', `--reuid=${USER}`, `--regid=${GROUP}`, '--clear-groups', ...read, '--'],
    ...['tar', '--create', '--sparse', '--one-file-system', '--warning=no-file-ignored', ...what],
  ]);
  // 1: a file changed while it was read, which a live workspace may do.
  if (code === 0 || code === 1) return;
  const most =
    limit === undefined ? '' : ` (more than ${String(limit)} bytes, twice NOX_MAX_WORKSPACE, are not saved)`;
  throw new Error(`backup of ${tree}: tar ended with ${String(code)}: ${stderr.trim()}${most}`);
}

/** A backup, unpacked beside the places where its parts belong. */
interface Unpacked {
  readonly manifest: Manifest;
  readonly settings: string;
  readonly sandbox: string;
  /** The workspace of the backup. */
  readonly fresh: string;
  /** The others, and where they belong. A backup of the first format has none, and those that are there stay. */
  readonly shelf?: { readonly fresh: string; readonly path: string };
  /** For the gateway, and where it looks for them. Older backups have none. */
  readonly tokens?: { readonly text: string; readonly path: string };
}

/**
 * Reads a backup. Nothing is changed but that its workspace lies beside the one that is there.
 *
 * @throws Error for what is no backup, or cannot be unpacked
 */
export function unpack(host: Host, file: string, stamp: string): Unpacked {
  if (!existsSync(file)) throw new Error(`restore: there is no ${file}`);
  const dir = mkdtempSync(`${STATE}/.restore-`);
  const made: string[] = [];
  try {
    const listed = host
      .must(['tar', '--list', '--gzip', `--file=${file}`])
      .split('\n')
      .filter(Boolean)
      .sort();
    const [format, members] =
      Object.entries(FORMATS).find(([, each]) => listed.join(' ') === each.toSorted().join(' ')) ?? [];
    if (members === undefined)
      throw new Error(`restore: ${file} is no backup of Nox: it has ${listed.slice(0, 5).join(', ')}`);
    host.must([
      'tar',
      '--extract',
      '--gzip',
      `--file=${file}`,
      `--directory=${dir}`,
      '--no-same-owner',
      ...members,
    ]);
    const member = (name: (typeof MEMBERS)[number]): string => {
      // A link in its place could show us any other file: `text` follows none.
      const text = host.text(join(dir, name));
      if (text === undefined) throw new Error(`restore: ${name} in ${file} is no file`);
      return text;
    };
    const manifest = JSON.parse(member('nox-backup.json')) as Manifest;
    if (manifest.format !== Number(format))
      throw new Error(
        `restore: ${file} has format ${String(manifest.format)}, which this version cannot read`,
      );
    const settings = member('settings');
    const sandbox = parseSettings(settings)['NOX_SANDBOX'] || DEFAULT_SANDBOX;
    const fresh = `${sandbox}.restore.${stamp}`;
    made.push(fresh);
    unpackTree(host, join(dir, 'workspace.tar'), fresh);
    setAttributes(fresh, { mode: 0o2775, uid: host.userId('nox'), gid: host.groupId(GROUP) });
    if (!members.includes('workspaces.tar')) return { manifest, settings, sandbox, fresh };
    const path = shelfOf(settings);
    const shelf = { path, fresh: `${path}.restore.${stamp}` };
    made.push(shelf.fresh);
    unpackTree(host, join(dir, 'workspaces.tar'), shelf.fresh);
    if (!members.includes('tokens.json')) return { manifest, settings, sandbox, fresh, shelf };
    const tokens = { text: member('tokens.json'), path: join(stateOf(settings), RESTORED_FILE) };
    return { manifest, settings, sandbox, fresh, shelf, tokens };
  } catch (error) {
    for (const path of made) rmSync(path, { recursive: true, force: true });
    throw error;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function unpackTree(host: Host, file: string, fresh: string): void {
  mkdirSync(fresh, { mode: 0o700 });
  setAttributes(fresh, { mode: 0o700, uid: host.userId(USER), gid: host.groupId(GROUP) });
  const user = [
    `--reuid=${USER}`,
    `--regid=${GROUP}`,
    '--clear-groups',
    '--inh-caps=-all',
    '--no-new-privs',
    '--',
  ];
  host.must([
    ...['sh', '-c', 'in=$1; shift; exec "$@" < "$in"', 'sh', file, 'setpriv', ...user],
    ...['tar', '--extract', '--sparse', '--preserve-permissions', '--no-same-owner', `--directory=${fresh}`],
  ]);
}

/** Puts the parts of a backup in their places; what was there is put aside. The services are stopped afterwards. */
export function restorePlan(
  host: Host,
  { settings, sandbox, fresh, shelf, tokens }: Unpacked,
  stamp: string,
): Step[] {
  const file = { mode: 0o600, owner: 'root', group: 'root' } as const;
  const own = { mode: 0o600, owner: 'nox', group: GROUP } as const;
  const old = host.text(SETTINGS_FILE);
  return [
    ...(old === undefined
      ? []
      : [{ do: 'file', path: `${SETTINGS_FILE}.bak.${stamp}`, text: old, ...file } as const]),
    { do: 'services', verb: 'stop', units: SERVICES },
    ...inPlace(host, fresh, sandbox, stamp),
    ...(shelf === undefined ? [] : inPlace(host, shelf.fresh, shelf.path, stamp)),
    ...(tokens === undefined
      ? []
      : ([
          { do: 'directory', path: dirname(tokens.path), ...own, mode: 0o700 },
          { do: 'file', ...tokens, ...own },
        ] as const)),
    { do: 'file', path: SETTINGS_FILE, text: settings, ...file },
  ];
}

function inPlace(host: Host, fresh: string, path: string, stamp: string): Step[] {
  return [
    ...(host.entry(path) === undefined
      ? []
      : [{ do: 'move', from: path, to: asideOf(path, stamp) } as const]),
    { do: 'move', from: fresh, to: path },
  ];
}

/** Where a restore puts what was there. */
export function asideOf(path: string, stamp: string): string {
  return `${path}.bak.${stamp}`;
}
