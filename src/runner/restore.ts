import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, readdirSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { copyTree, removeTree } from './trees.ts';
import { at, moveEntry, openDirectory, self } from './walk.ts';
import { Workspace } from './workspace.ts';

interface Steps {
  /** Whether what fails halfway is undone. */
  readonly undo: boolean;
  /** Called before the first of the old files leaves its place: from now on some are the one, some the other. */
  begin(): void;
  /** They are all new, or all old again. */
  end(): void;
  /** Told of what cannot be cleared away. */
  readonly onFault: (error: unknown) => void;
}

/**
 * Replaces all files of a workspace by a copy of others, with no run alive in it. They are copied first; then they take
 * their places one after the other, since the directory itself is a mount, and has to stay.
 *
 * @param from the directory of the others
 * @param limit of the copy's share (limits.ts)
 * @throws as copyTree; what a move throws, after it was undone. `end` is not called where that has failed too
 */
export async function replaceFiles(path: string, from: string, limit: number, steps: Steps): Promise<void> {
  new Workspace(path).prepare();
  const root = openDirectory(path);
  const [fresh, old] = [newTemporary(), newTemporary()];
  try {
    mkdirSync(at(root, fresh), { mode: 0o755 });
    mkdirSync(at(root, old), { mode: 0o700 });
    // No run is alive: the name stays what it is.
    await copyTree(from, `${path}/${fresh}`, limit);
    const [source, aside] = [openDirectory(at(root, fresh)), openDirectory(at(root, old))];
    const own = (name: string) => name !== fresh && name !== old;
    let away = false;
    steps.begin();
    try {
      await moveEntries(root, aside, own);
      away = true;
      await moveEntries(source, root, () => true);
    } catch (error) {
      if (!steps.undo) throw error;
      if (away) await moveEntries(root, source, own);
      await moveEntries(aside, root, () => true);
      steps.end();
      throw error;
    } finally {
      closeSync(source);
      closeSync(aside);
    }
    steps.end();
  } finally {
    closeSync(root);
    for (const name of [fresh, old]) await removeTree(path, name).catch(steps.onFault);
  }
}

async function moveEntries(from: number, to: number, which: (name: string) => boolean): Promise<void> {
  for (const [index, name] of readdirSync(self(from), 'latin1').filter(which).entries()) {
    moveEntry(from, name, to, name);
    if (index % 256 === 0) await setImmediate();
  }
}

const newTemporary = (): string => `.nox-${randomBytes(12).toString('hex')}.tmp`;
