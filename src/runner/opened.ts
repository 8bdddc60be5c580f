/** A workspace that is opened for one call of a client, and what is wrong with what stands at its path. */
import { closeSync, type BigIntStats } from 'node:fs';
import { NoxError } from '../protocol/errors.ts';
import type { FileInfo } from '../protocol/files.ts';
import { infoOf, settled, targetOf } from './entries.ts';
import { badPath, fileNames, showPath } from './names.ts';
import { conflict, errorCode, openDirectory, statEntry, Walk, type Place } from './walk.ts';
import type { WorkspaceState } from './workspace-state.ts';

export interface Opened {
  readonly root: number;
  readonly walk: Walk;
}

/** @param explained what an error is for the client; `conflict` where all that is missing is made */
export async function withOpened<T>(
  { workspace, placeholder }: WorkspaceState,
  path: string,
  action: (opened: Opened) => Promise<T> | T,
  explained: (path: string, error: unknown) => unknown = explain,
): Promise<T> {
  placeholder.remove();
  workspace.prepare();
  const root = openDirectory(workspace.path);
  const walk = new Walk(workspace.shown, root, path);
  try {
    return await action({ root, walk });
  } catch (error) {
    throw explained(path, error);
  } finally {
    walk.close();
    closeSync(root);
  }
}

export async function infoAt({ dir, name, names }: Place, path: string): Promise<FileInfo> {
  const stats = await settled(() => statEntry(dir, name));
  if (stats === undefined) throw missing(path);
  return infoOf(names, stats, stats.isSymbolicLink() ? targetOf(dir, name) : undefined);
}

/** Of a file or a directory; `dir/` is the directory. */
export const targetNames = (path: string): string[] => fileNames(path.replace(/\/+$/, ''));

export const KEEP = { keepLink: true } as const;

export function explain(path: string, error: unknown): unknown {
  if (error instanceof NoxError) return error;
  if (errorCode(error) === 'ENOENT') return missing(path);
  if (errorCode(error) === 'EEXIST') return exists(path);
  // rename(2): into itself.
  if (errorCode(error) === 'EINVAL') return badPath(path, 'cannot be done with what stands there');
  return conflict(path, error);
}

const missing = (path: string) => new NoxError('file_not_found', `${showPath(path)}: there is no such file`);
export const exists = (path: string) => new NoxError('already_exists', `${showPath(path)}: is there already`);

export function found(path: string, place: Place): Place & { readonly stats: BigIntStats } {
  const { stats } = place;
  if (stats === undefined) throw missing(path);
  return { ...place, stats };
}
