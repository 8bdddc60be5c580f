/** The operations on files and archives (protocol/files.ts), each in its workspace. */
import { NoxError } from '../protocol/errors.ts';
import type { FILE_ASK, FILE_FETCH, FILE_SEND } from '../protocol/files.ts';
import { bounded } from './bounded.ts';
import { Files } from './files.ts';
import type { Handlers } from './operations.ts';
import { ReadFiles } from './read-files.ts';
import type { Workspaces } from './workspaces.ts';

/** Each looks at its tree a few times a second. */
const WATCHES_MAX = 64;

interface FileHandlers {
  readonly ask: Pick<Handlers['ask'], keyof typeof FILE_ASK>;
  readonly send: Pick<Handlers['send'], keyof typeof FILE_SEND>;
  readonly fetch: Pick<Handlers['fetch'], keyof typeof FILE_FETCH>;
}

/** @param maxUploadBytes NOX_MAX_UPLOAD */
export function fileHandlers(workspaces: Pick<Workspaces, 'get'>, maxUploadBytes: number): FileHandlers {
  const files = (id: string) => new ReadFiles(workspaces.get(id));
  const change = <T>(
    id: string,
    signal: AbortSignal,
    work: (files: Files, stop: AbortSignal) => Promise<T>,
  ): Promise<T> => {
    const state = workspaces.get(id);
    return state.change(signal, (stop) => work(new Files(state), stop));
  };
  let watches = 0;
  return {
    ask: {
      stat: (request) => files(request.workspace).stat(request),
      list: (request) => files(request.workspace).list(request),
      remove: (request, signal) => change(request.workspace, signal, (changed) => changed.remove(request)),
      move: (request, signal) => change(request.workspace, signal, (changed) => changed.move(request)),
      copy: (request, signal) =>
        change(request.workspace, signal, (changed, stop) => changed.copy(request, stop)),
      makeDirectory: (request, signal) =>
        change(request.workspace, signal, (changed) => changed.makeDirectory(request)),
    },
    send: {
      write: (request, body, signal) =>
        change(request.workspace, signal, (changed, stop) =>
          changed.write(request, bounded(body, maxUploadBytes, stop)),
        ),
      unpack: (request, body, signal) =>
        change(request.workspace, signal, (changed, stop) =>
          changed.unpack(request, bounded(body, maxUploadBytes, stop)),
        ),
    },
    fetch: {
      read: (request, signal) => files(request.workspace).read(request, signal),
      pack: (request, signal) => files(request.workspace).pack(request, signal),
      watch: async (request, signal) => {
        if (watches >= WATCHES_MAX)
          throw new NoxError('queue_full', `watch: ${String(WATCHES_MAX)} are under way already`, {
            retryAfter: 5,
          });
        watches += 1;
        try {
          return await files(request.workspace).watch(request, signal, () => {
            watches -= 1;
          });
        } catch (error) {
          watches -= 1;
          throw error;
        }
      },
    },
  };
}
