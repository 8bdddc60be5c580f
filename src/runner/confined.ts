/**
 * Programs of the machine that work on trees of files for the runner, seeing nothing else of it: du, rm, cp.
 *
 * Runs can take all permissions away from what is theirs, nest it deep, and change it meanwhile. So these run as root
 * of a user namespace in which only the files' owner is mapped, with /usr and the given directories as their whole
 * world: whatever name a run swaps, it leads nowhere else.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';
import { BWRAP, rootLinks } from './host.ts';

/** What is kept of a program's output. */
const OUTPUT_MAX = 2 ** 20;

interface Bind {
  readonly from: string;
  readonly at: string;
  readonly writable?: boolean;
}

export interface Ended {
  /** null: a signal, or no start. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Passing over the permissions of files, for reading, or for everything. */
const CAPABILITIES = { read: ['CAP_DAC_READ_SEARCH'], all: ['CAP_DAC_OVERRIDE', 'CAP_FOWNER'] } as const;

/** @param signal ends the program */
export async function runConfined(
  argv: readonly string[],
  binds: readonly Bind[],
  may: keyof typeof CAPABILITIES,
  signal?: AbortSignal,
): Promise<Ended> {
  const links = [...rootLinks()].flatMap(([name, target]) => ['--symlink', target, name]);
  const args = [
    ...['--unshare-user', '--unshare-pid', '--unshare-net', '--unshare-ipc'],
    ...['--die-with-parent', '--new-session', '--uid', '0', '--gid', '0', '--cap-drop', 'ALL'],
    ...CAPABILITIES[may].flatMap((name) => ['--cap-add', name]),
    // /proc: without it glibc cannot change the mode of what may be a link (fchmodat(3)).
    ...['--ro-bind', '/usr', '/usr', ...links, '--proc', '/proc'],
    ...binds.flatMap(({ from, at, writable }) => [writable === true ? '--bind' : '--ro-bind', from, at]),
    ...['--chdir', '/', '--', ...argv],
  ];
  const options = {
    env: { LC_ALL: 'C' },
    maxBuffer: OUTPUT_MAX,
    ...(signal === undefined ? {} : { signal }),
  };
  return promisify(execFile)(BWRAP, args, options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: unknown) => {
      const failed = error as { code?: unknown; stdout?: string; stderr?: string };
      signal?.throwIfAborted();
      return {
        code: typeof failed.code === 'number' ? failed.code : null,
        stdout: failed.stdout ?? '',
        stderr: failed.stderr || String(error),
      };
    },
  );
}

/** @throws Error where something is left; what vanishes meanwhile is no failure */
export async function removeTree(dir: string, name: string): Promise<void> {
  const bind = { from: dir, at: '/work', writable: true };
  const argv = ['/usr/bin/rm', '--recursive', '--force', '--one-file-system', '--', `/work/${name}`];
  const { code, stderr } = await runConfined(argv, [bind], 'all');
  if (code !== 0) throw new Error(`rm of ${name} in ${dir}: ${stderr.slice(0, 500)}`);
}

/** What cp says of files that a run took away or replaced while they were copied: they are no part of the copy. */
const VANISHED = /: No such file or directory$|^\S*cp: skipping file .*, as it was replaced/;

/**
 * Copies what is in one directory into another, which is empty: links as links, holes as holes, and sharing the blocks
 * of files where the file system can (Btrfs, XFS).
 *
 * @throws NoxError `workspace_conflict` for a tree that cp cannot copy, as one with paths longer than PATH_MAX; the
 *   ENOSPC of a disk that is full
 */
export async function copyTree(from: string, to: string): Promise<void> {
  const argv = ['/usr/bin/cp', '--archive', '--one-file-system', '--reflink=auto', '--no-target-directory'];
  const binds = [
    { from, at: '/from' },
    { from: to, at: '/to', writable: true },
  ];
  const { code, stderr } = await runConfined([...argv, '--', '/from', '/to'], binds, 'all');
  const faults = stderr.split('\n').filter((line) => line !== '' && !VANISHED.test(line));
  if (code === 0 || (code === 1 && faults.length === 0)) return;
  const [first = `cp ended with ${String(code)}`] = faults;
  if (/No space left on device|Disk quota exceeded/.test(stderr))
    throw Object.assign(new Error(first), { code: 'ENOSPC' });
  throw new NoxError('workspace_conflict', `The files cannot be copied whole: ${first.slice(0, 300)}`);
}

/** Entries of every kind below a directory. */
export async function countEntries(path: string): Promise<number> {
  const argv = ['/usr/bin/du', '--summarize', '--one-file-system', '--inodes', '/work'];
  const { stdout } = await runConfined(argv, [{ from: path, at: '/work' }], 'read');
  const entries = Number.parseInt(stdout, 10);
  if (Number.isNaN(entries)) throw new Error(`du could not count ${path}`);
  // Without the directory itself.
  return entries - 1;
}
