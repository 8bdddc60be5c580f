/** Counts, copies and removes trees of files beside live runs: trees.py and rm(1), each seeing nothing else (confined.ts). */
import { readFileSync } from 'node:fs';
import { NoxError } from '../protocol/errors.ts';
import { FILE_BYTES } from '../protocol/limits.ts';
import { runConfined, type Ended } from './confined.ts';

const PROGRAM = readFileSync(new URL('./trees.py', import.meta.url), 'utf8');
const PYTHON = ['/usr/bin/python3', '-I', '-S', '-c', PROGRAM];
/** Exit codes of trees.py. */
const OVER_LIMIT = 3;
const DISK_FULL = 4;
const CHANGED = 5;
/** rm ends with SIGABRT when directories are swapped under it. */
const REMOVE_TRIES = 10;

const hex = (path: string): string => Buffer.from(path, 'latin1').toString('hex');

export interface Usage {
  /** On disk. */
  readonly bytes: number;
  /** Of every kind; each further name of a file is one. */
  readonly entries: number;
}

/**
 * @param below a directory in it, as bytes
 * @param most beyond so many entries the rest is not counted
 */
export async function usageOf(
  path: string,
  below = '',
  most: number = Number.MAX_SAFE_INTEGER,
): Promise<Usage> {
  const argv = [...PYTHON, 'count', '/work', hex(below), String(Math.ceil(most))];
  const { code, stdout, stderr } = await runConfined(argv, [{ from: path, at: '/work' }], 'read');
  if (code === CHANGED) throw changed();
  const [bytes = Number.NaN, entries = Number.NaN] = stdout.split(' ').map(Number);
  if (code !== 0 || Number.isNaN(bytes + entries))
    throw new Error(`${path} was not counted: ${lastLine(stderr)}`);
  return { bytes, entries };
}

/**
 * Copies what is in a directory: links as links, holes as holes, hard links among them, and sharing the blocks of files
 * where the file system can (Btrfs, XFS). Unfinished files of Nox in `from` itself are left out.
 *
 * @param to an empty directory
 * @param limit of the copy's share (limits.ts)
 * @returns its share, if it shared nothing
 * @throws NoxError `workspace_full` beyond the limit, `cancelled`; the ENOSPC of a disk that is full
 */
export async function copyTree(
  from: string,
  to: string,
  limit: number,
  signal?: AbortSignal,
): Promise<number> {
  const binds = [
    { from, at: '/from' },
    { from: to, at: '/to', writable: true },
  ];
  const argv = [...PYTHON, 'copy', '/from', '', '/to', '', String(limit), String(FILE_BYTES)];
  return copied(await runConfined(argv, binds, 'all', signal), limit);
}

/**
 * The same within a workspace.
 *
 * @param below the directory, as bytes
 * @param name of the new one, in the root
 */
export async function copyWithin(
  path: string,
  below: string,
  name: string,
  limit: number,
  signal?: AbortSignal,
): Promise<number> {
  const target = ['/work', hex(name), String(limit), String(FILE_BYTES)];
  const argv = [...PYTHON, 'copy', '/work', hex(below), ...target];
  return copied(await runConfined(argv, [{ from: path, at: '/work', writable: true }], 'all', signal), limit);
}

function copied({ code, stdout, stderr }: Ended, limit: number): number {
  if (code === 0) return Number(stdout);
  if (code === CHANGED) throw changed();
  if (code === OVER_LIMIT)
    throw new NoxError('workspace_full', `There is room for ${String(limit)} bytes, and the files take more`);
  const error = new Error(`the files were not copied: ${lastLine(stderr)}`);
  throw code === DISK_FULL ? Object.assign(error, { code: 'ENOSPC' }) : error;
}

/**
 * What vanishes meanwhile is no failure.
 *
 * @param name of an entry of `dir`
 * @throws Error where something is left
 */
export async function removeTree(dir: string, name: string): Promise<void> {
  const argv = ['/usr/bin/rm', '--recursive', '--force', '--one-file-system', '--', `/work/${name}`];
  let ended: Ended;
  let tries = 0;
  do {
    ended = await runConfined(argv, [{ from: dir, at: '/work', writable: true }], 'all');
    tries += 1;
  } while (ended.code !== 0 && tries < REMOVE_TRIES);
  if (ended.code !== 0) throw new Error(`${name} in ${dir} was not removed: ${lastLine(ended.stderr)}`);
}

const changed = () => new NoxError('workspace_conflict', 'The directory was changed by a run meanwhile');

const lastLine = (text: string): string => text.trim().split('\n').at(-1)?.slice(0, 300) ?? '';
