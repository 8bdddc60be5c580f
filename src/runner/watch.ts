/**
 * Changes of a tree, found by looking again and again.
 *
 * inotify(7) would need a watch for each directory, of which a user has a bounded number that all runs could use up,
 * and its queue overflows when a run makes files in a loop. Looking has a fixed price: at most ENTRIES_MAX entries, and
 * at most a twentieth of the time. What comes and goes between two looks is not told.
 */
import { fstatSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FileInfo, WatchEvent } from '../protocol/files.ts';
import { entriesBelow, infoOf } from './entries.ts';
import { textOf } from '../protocol/bytes.ts';

const LOOK_MS = 300;
const SHARE = 0.05;
const ENTRIES_MAX = 10_000;

interface Seen {
  readonly type: FileInfo['type'];
  readonly state: string;
}

/**
 * Ends with the directory.
 *
 * @param names of the directory
 * @param hidden names in it that are not told of
 */
export async function* changesOf(
  dir: number,
  names: readonly string[],
  recursive: boolean,
  hidden: (name: string) => boolean,
  signal: AbortSignal,
): AsyncGenerator<WatchEvent> {
  let before = await treeOf(dir, recursive, hidden);
  yield { event: 'ready', path: textOf(names.join('/')) };
  let { whole } = before;
  if (!whole) yield { event: 'lost', path: textOf(names.join('/')) };
  for (let took = 0; ;) {
    await sleep(Math.max(LOOK_MS, took / SHARE), undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    const began = performance.now();
    const now = await treeOf(dir, recursive, hidden);
    const pathOf = (path: string) => textOf([...names, path].join('/'));
    for (const [path, { type, state }] of now.entries) {
      const old = before.entries.get(path);
      if (old === undefined) yield { event: 'created', path: pathOf(path), type };
      else if (old.state !== state) yield { event: 'changed', path: pathOf(path), type };
    }
    for (const [path, { type }] of before.entries)
      if (!now.entries.has(path)) yield { event: 'removed', path: pathOf(path), type };
    if (whole && !now.whole) yield { event: 'lost', path: textOf(names.join('/')) };
    ({ whole } = now);
    before = now;
    // rmdir(2) of it: there will be nothing more.
    if (fstatSync(dir).nlink === 0) return;
    took = performance.now() - began;
  }
}

export interface Tree {
  /** By path. */
  readonly entries: ReadonlyMap<string, Seen>;
  /** There were no more than ENTRIES_MAX. */
  readonly whole: boolean;
}

/** What stands below a directory now; its caller keeps it open. */
export async function treeOf(
  dir: number,
  recursive: boolean,
  hidden: (name: string) => boolean,
): Promise<Tree> {
  const entries = new Map<string, Seen>();
  for await (const { names, stats } of entriesBelow(dir, { recursive, hidden })) {
    if (entries.size === ENTRIES_MAX) return { entries, whole: false };
    const { type } = infoOf(names, stats);
    // A directory changes with each entry that comes or goes, which is told of that one.
    const parts =
      type === 'directory' ? [stats.ino, stats.mode] : [stats.ino, stats.size, stats.mode, stats.ctimeNs];
    entries.set(names.join('/'), { type, state: parts.join() });
  }
  return { entries, whole: true };
}
