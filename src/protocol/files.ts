/**
 * Files and archives of a workspace, as gateway and runner speak of them.
 *
 * A path is relative to the workspace's root, which is ''. Names are bytes; in JSON a byte that is no UTF-8 is a lone
 * surrogate U+DC80 to U+DCFF, as Python's `surrogateescape` has it.
 */
import Type, { type Static } from 'typebox';
import { PATH_MAX, WORKSPACE_ID } from './messages.ts';

export const WorkspaceId = Type.String({ pattern: WORKSPACE_ID });
const Path = Type.String({ maxLength: PATH_MAX });
/** Of a cursor: a path, in base64. */
const CURSOR_MAX = 6000;
export const LIST_MAX = 1000;
/** `If-Match` takes a few. */
const ETag = Type.String({ maxLength: 200 });
const Format = Type.Union([Type.Literal('tar.gz'), Type.Literal('zip')]);

export const FileInfo = Type.Object(
  {
    path: Type.String(),
    type: Type.Union([
      Type.Literal('file'),
      Type.Literal('directory'),
      Type.Literal('link'),
      /** A FIFO, a socket: nothing that can be read here. */
      Type.Literal('other'),
    ]),
    /** In bytes. */
    size: Type.Integer({ minimum: 0 }),
    /** Permissions, in octal: `0644`. */
    mode: Type.String({ pattern: '^0[0-7]{3}$' }),
    /** When its content was changed: RFC 3339, in UTC. */
    modified: Type.String(),
    /** Of a file. Weak while the file is being changed. */
    etag: Type.Optional(Type.String()),
    /** Where a link leads. */
    target: Type.Optional(Type.String()),
  },
  { title: 'FileInfo' },
);
export type FileInfo = Static<typeof FileInfo>;

export const FileList = Type.Object({
  entries: Type.Array(FileInfo),
  /** The `after` of the next page, null at the end. */
  next: Type.Union([Type.String(), Type.Null()]),
});
export type FileList = Static<typeof FileList>;

const place = { workspace: WorkspaceId, path: Path };
const between = {
  workspace: WorkspaceId,
  from: Path,
  to: Path,
  /** A file in the place of the target is replaced. */
  overwrite: Type.Optional(Type.Boolean()),
};

export const FILE_ASK = {
  stat: Type.Object(place),
  list: Type.Object({
    ...place,
    recursive: Type.Optional(Type.Boolean()),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: LIST_MAX })),
    after: Type.Optional(Type.String({ minLength: 1, maxLength: CURSOR_MAX })),
  }),
  remove: Type.Object({
    ...place,
    recursive: Type.Optional(Type.Boolean()),
    ifMatch: Type.Optional(Type.Array(ETag)),
  }),
  move: Type.Object(between),
  copy: Type.Object(between),
  makeDirectory: Type.Object({ ...place, parents: Type.Optional(Type.Boolean()) }),
} as const;

export interface FileAnswers {
  readonly stat: FileInfo;
  readonly list: FileList;
  readonly remove: object;
  readonly move: FileInfo;
  readonly copy: FileInfo;
  readonly makeDirectory: FileInfo;
}

export const FILE_SEND = {
  write: Type.Object({
    ...place,
    /** One of these must be the file's; `*`: any file. */
    ifMatch: Type.Optional(Type.Array(ETag)),
    /** Only where nothing stands. */
    exclusive: Type.Optional(Type.Boolean()),
    append: Type.Optional(Type.Boolean()),
    mode: Type.Optional(Type.Integer({ minimum: 0, maximum: 0o777 })),
  }),
  unpack: Type.Object({ ...place, format: Format }),
} as const;

export interface FileSendAnswers {
  readonly write: FileInfo & { readonly created: boolean };
  readonly unpack: { readonly entries: number; readonly bytes: number };
}

/** `last`: that many bytes at the end; else from `first` to `to`, both included, or to the end. */
export const Range = Type.Union([
  Type.Object({ last: Type.Integer({ minimum: 0 }) }),
  Type.Object({ first: Type.Integer({ minimum: 0 }), to: Type.Optional(Type.Integer({ minimum: 0 })) }),
]);
export type Range = Static<typeof Range>;

export const FILE_FETCH = {
  read: Type.Object({
    ...place,
    range: Type.Optional(Range),
    /** The range holds only if this is the file's. */
    ifRange: Type.Optional(ETag),
  }),
  pack: Type.Object({ ...place, format: Format }),
  watch: Type.Object({ ...place, recursive: Type.Optional(Type.Boolean()) }),
} as const;

export interface FileFetchAnswers {
  /** The bytes from `start` up to, not including, `end`. */
  readonly read: { readonly file: FileInfo; readonly start: number; readonly end: number };
  readonly pack: object;
  /** The body: a WatchEvent a line. */
  readonly watch: object;
}

export const WatchEvent = Type.Object(
  {
    /**
     * `ready`: what happens from now on is told. `lost`: there were too many entries to compare, and some changes may
     * not have been told.
     */
    event: Type.Enum(['ready', 'created', 'changed', 'removed', 'lost']),
    path: Type.String(),
    type: Type.Optional(FileInfo.properties.type),
  },
  { title: 'WatchEvent' },
);
export type WatchEvent = Static<typeof WatchEvent>;
