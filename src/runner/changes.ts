/** What a run made of the files of its workspace: the difference of two looks. What others do meanwhile is in it, too. */
import { closeSync } from 'node:fs';
import { textOf } from '../protocol/bytes.ts';
import type { RunResult } from '../protocol/messages.ts';
import { hiddenIn } from './read-files.ts';
import { openDirectory } from './walk.ts';
import { treeOf, type Tree } from './watch.ts';
import type { WorkspaceState } from './workspace-state.ts';

type Changes = NonNullable<RunResult['changes']>;

/** Paths in an answer, of all three kinds together. */
const CHANGES_MAX = 1000;

export async function look(state: WorkspaceState): Promise<Tree> {
  const root = openDirectory(state.workspace.path);
  try {
    return await treeOf(root, true, hiddenIn(state));
  } finally {
    closeSync(root);
  }
}

/** Of files and links; a directory is told by what is in it. */
export function changesBetween(before: Tree, now: Tree): Changes {
  const created: string[] = [];
  const changed: string[] = [];
  const removed: string[] = [];
  for (const [path, { type, state }] of now.entries) {
    if (type === 'directory') continue;
    const old = before.entries.get(path);
    if (old === undefined) created.push(path);
    else if (old.state !== state) changed.push(path);
  }
  for (const [path, { type }] of before.entries)
    if (type !== 'directory' && !now.entries.has(path)) removed.push(path);
  let room = CHANGES_MAX;
  const [a = [], b = [], c = []] = [created, changed, removed].map((paths) => {
    const kept = paths.slice(0, room).map(textOf);
    room -= kept.length;
    return kept;
  });
  const all = created.length + changed.length + removed.length;
  const truncated = all > CHANGES_MAX || !before.whole || !now.whole;
  return { created: a, changed: b, removed: c, truncated };
}
