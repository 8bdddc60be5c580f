/** The operations on files and archives (protocol/files.ts), each in its workspace. */
import { NoxError } from '../protocol/errors.ts';
import type { FILE_ASK, FILE_FETCH, FILE_SEND } from '../protocol/files.ts';
import { Files } from './files.ts';
import type { Handlers } from './operations.ts';
import type { Workspaces } from './workspaces.ts';

/** Each looks at its tree a few times a second. */
const WATCHES_MAX = 64;

interface FileHandlers {
  readonly ask: Pick<Handlers['ask'], keyof typeof FILE_ASK>;
  readonly send: Pick<Handlers['send'], keyof typeof FILE_SEND>;
  readonly fetch: Pick<Handlers['fetch'], keyof typeof FILE_FETCH>;
}

export function fileHandlers(workspaces: Pick<Workspaces, 'get'>): FileHandlers {
  const files = (id: string) => new Files(workspaces.get(id));
  let watches = 0;
  return {
    ask: {
      stat: (request) => files(request.workspace).stat(request),
      list: (request) => files(request.workspace).list(request),
      remove: (request) => files(request.workspace).remove(request),
      move: (request) => files(request.workspace).move(request),
      copy: (request, signal) => files(request.workspace).copy(request, signal),
      makeDirectory: (request) => files(request.workspace).makeDirectory(request),
    },
    send: {
      write: (request, body) => files(request.workspace).write(request, body),
      unpack: (request, body) => files(request.workspace).unpack(request, body),
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
