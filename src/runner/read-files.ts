/** What a client reads of the files of a workspace: facts, lists, bytes, archives, and what changes. */
import { closeSync, fstatSync } from 'node:fs';
import { NoxError } from '../protocol/errors.ts';
import { LIST_MAX, type FileInfo, type FileList, type WatchEvent } from '../protocol/files.ts';
import type { Asks, Fetched, Fetches } from '../protocol/operations.ts';
import { Body } from './body.ts';
import { entriesBelow, etagOf, infoOf, isTemporary, settled, targetOf } from './entries.ts';
import { badPath, fileNames, showPath, treeNames } from './names.ts';
import { found, infoAt, KEEP, withOpened } from './opened.ts';
import { packTar, packZip } from './pack.ts';
import { memoryFor, piecesOf } from './pieces.ts';
import { sendFile } from './send-file.ts';
import { at, openDirectory, openFile, withAccess, type Place } from './walk.ts';
import { changesOf } from './watch.ts';
import type { WorkspaceState } from './workspace-state.ts';

const LIST_DEFAULT = 100;

type Ask<Name extends keyof Asks> = Asks[Name]['request'];

/** What is Nox's own in the root: unfinished files, and what only stands in for the code of runs. */
export function hiddenIn({ workspace }: WorkspaceState): (name: string) => boolean {
  return (name) => isTemporary(name) || workspace.isPlaceholder(name);
}

/** @throws NoxError `invalid_path`, `file_not_found`, `workspace_conflict` from each, for what stands at its path */
export class ReadFiles {
  protected readonly state: WorkspaceState;

  constructor(state: WorkspaceState) {
    this.state = state;
  }

  stat({ path }: Ask<'stat'>): Promise<FileInfo> {
    return withOpened(this.state, path, async ({ walk }) =>
      infoAt(found(path, walk.to(treeNames(path), KEEP)), path),
    );
  }

  list({ path, recursive = false, limit = LIST_DEFAULT, after }: Ask<'list'>): Promise<FileList> {
    return withOpened(this.state, path, async ({ walk }) => {
      const { names, fd } = openListed(path, walk.to(treeNames(path)));
      try {
        const entries: FileInfo[] = [];
        let last: readonly string[] = [];
        const search = {
          ...{ recursive, piece: limit + 1, hidden: this.#hidden(names) },
          ...(after === undefined ? {} : { after: namesOfCursor(after) }),
        };
        for await (const entry of entriesBelow(fd, search)) {
          if (entries.length === Math.min(limit, LIST_MAX)) return { entries, next: cursorOf(last) };
          const target = entry.stats.isSymbolicLink() ? targetOf(entry.dir, entry.name) : undefined;
          entries.push(infoOf([...names, ...entry.names], entry.stats, target));
          last = entry.names;
        }
        return { entries, next: null };
      } finally {
        closeSync(fd);
      }
    });
  }

  #hidden(names: readonly string[]): (name: string) => boolean {
    return names.length > 0 ? () => false : hiddenIn(this.state);
  }

  read(
    { path, range, ifRange }: Fetches['read']['request'],
    signal: AbortSignal,
  ): Promise<Fetched<Fetches['read']['answer']>> {
    return withOpened(this.state, path, async ({ walk }) => {
      const { dir, name, names, stats } = found(path, walk.to(fileNames(path)));
      if (stats.isDirectory()) throw badPath(path, 'is a directory');
      if (!stats.isFile()) throw badPath(path, 'is no regular file');
      const fd = withAccess(dir, () => openFile(at(dir, name), 'read'));
      try {
        const now = await settled(() => fstatSync(fd, { bigint: true }));
        const size = Number(now.size);
        const holds = ifRange === undefined || ifRange === etagOf(now);
        const { start, end } = holds ? cut(path, range, size) : { start: 0, end: size };
        const release = () => {
          closeSync(fd);
        };
        return {
          answer: { file: infoOf(names, now), start, end },
          body: new Body(
            piecesOf(fd, start, end, 'fail', memoryFor(end - start)),
            release,
            signal,
            (socket, framing) => sendFile({ fd, start, end }, socket, framing, signal),
          ),
        };
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    });
  }

  /** The root of the watch may be moved or removed meanwhile: what is watched is the directory, not its name. */
  watch(
    { path, recursive = false }: Fetches['watch']['request'],
    signal: AbortSignal,
    ended: () => void,
  ): Promise<Fetched<Fetches['watch']['answer']>> {
    return withOpened(this.state, path, ({ walk }) => {
      const { names, fd } = openListed(path, walk.to(treeNames(path)));
      const lines = linesOf(changesOf(fd, names, recursive, this.#hidden(names), signal));
      const release = () => {
        closeSync(fd);
        ended();
      };
      return { answer: {}, body: new Body(lines, release, signal) };
    });
  }

  pack(
    { path, format }: Fetches['pack']['request'],
    signal: AbortSignal,
  ): Promise<Fetched<Fetches['pack']['answer']>> {
    return withOpened(this.state, path, ({ walk }) => {
      const { names, fd } = openListed(path, walk.to(treeNames(path)));
      const source = (format === 'zip' ? packZip : packTar)(fd, this.#hidden(names));
      const release = () => {
        closeSync(fd);
      };
      return { answer: {}, body: new Body(source, release, signal) };
    });
  }
}

function openListed(path: string, place: Place): { names: readonly string[]; fd: number } {
  const { dir, name, names, stats } = found(path, place);
  if (!stats.isDirectory()) throw badPath(path, 'is no directory');
  return { names, fd: withAccess(dir, () => openDirectory(at(dir, name))) };
}

/** @throws NoxError `range_not_satisfiable` */
function cut(
  path: string,
  range: Fetches['read']['request']['range'],
  size: number,
): { start: number; end: number } {
  if (range === undefined) return { start: 0, end: size };
  if ('last' in range) {
    if (range.last > 0 && size > 0) return { start: Math.max(0, size - range.last), end: size };
  } else if (range.first < size && range.first <= (range.to ?? Infinity)) {
    return { start: range.first, end: Math.min(size, (range.to ?? Infinity) + 1) };
  }
  throw new NoxError('range_not_satisfiable', `${showPath(path)}: the file has ${String(size)} bytes`);
}

async function* linesOf(events: AsyncIterable<WatchEvent>): AsyncGenerator<Uint8Array> {
  for await (const event of events) yield Buffer.from(`${JSON.stringify(event)}\n`);
}

const cursorOf = (names: readonly string[]): string =>
  Buffer.from(names.join('/'), 'latin1').toString('base64url');
const namesOfCursor = (cursor: string): string[] =>
  Buffer.from(cursor, 'base64url')
    .toString('latin1')
    .split('/')
    .filter((name) => name !== '');
