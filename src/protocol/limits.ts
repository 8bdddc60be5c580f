/**
 * The limits of a run: what each means, its default, its range, the setting that holds it.
 *
 * The setting is both what a run gets and the most that a request may ask for: a request can lower a limit,
 * never raise it. `maximum` is the largest value that the setting itself accepts.
 */
import Type, { type Static } from 'typebox';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/**
 * What each file and directory of a workspace takes of its limit at least, so that those who fill it cannot use up the
 * inodes of the file system before its bytes: ext4 has one for so many bytes (mke2fs.conf(5), `inode_ratio`).
 */
export const FILE_BYTES = 16 * KIB;

export interface LimitRow {
  readonly setting: string;
  readonly unit: 'seconds' | 'bytes' | 'count';
  readonly default: number;
  readonly minimum: number;
  readonly maximum: number;
  readonly meaning: string;
}

export const LIMITS = {
  wallSeconds: {
    setting: 'NOX_TIMEOUT',
    unit: 'seconds',
    default: 20,
    minimum: 0.1,
    maximum: 86_400,
    meaning: 'Wall time of a run, from its start (waiting in the queue does not count)',
  },
  cpuSeconds: {
    setting: 'NOX_MAX_CPU',
    unit: 'seconds',
    default: 60,
    minimum: 1,
    maximum: 86_400,
    meaning: 'CPU time of all processes of a run together',
  },
  memoryBytes: {
    setting: 'NOX_MAX_MEMORY',
    unit: 'bytes',
    default: 512 * MIB,
    minimum: 16 * MIB,
    maximum: 1024 * GIB,
    meaning: 'Memory of all processes of a run together, its /tmp and /dev/shm included',
  },
  tmpBytes: {
    setting: 'NOX_MAX_TMP',
    unit: 'bytes',
    default: 256 * MIB,
    minimum: MIB,
    maximum: 1024 * GIB,
    meaning: "Size of a run's private /tmp and /dev/shm together",
  },
  processes: {
    setting: 'NOX_MAX_PROCESSES',
    unit: 'count',
    default: 128,
    minimum: 4,
    maximum: 32_768,
    meaning: 'Processes and threads of a run at one time',
  },
  openFiles: {
    setting: 'NOX_MAX_OPEN_FILES',
    unit: 'count',
    default: 1024,
    minimum: 16,
    maximum: 524_288,
    meaning: 'Open files of each process of a run',
  },
  fileBytes: {
    setting: 'NOX_MAX_FILE_SIZE',
    unit: 'bytes',
    default: GIB,
    minimum: 4 * KIB,
    maximum: 16_384 * GIB,
    meaning: 'Size of each file that a run writes',
  },
  workspaceBytes: {
    setting: 'NOX_MAX_WORKSPACE',
    unit: 'bytes',
    default: 4 * GIB,
    minimum: MIB,
    maximum: 16_384 * GIB,
    meaning: 'Size of a workspace on disk; each of its files and directories counts as 16 KiB at least',
  },
  outputBytes: {
    setting: 'NOX_MAX_OUTPUT',
    unit: 'bytes',
    default: 10 * MIB,
    minimum: KIB,
    maximum: GIB,
    meaning: 'What is kept of standard output, and of standard error, each',
  },
} as const satisfies Record<string, LimitRow>;

export type LimitName = keyof typeof LIMITS;
export type Limits = Readonly<Record<LimitName, number>>;

/** What so many bytes on disk in so many entries take of the limit of a workspace. */
export function shareOf({ bytes, entries }: { readonly bytes: number; readonly entries: number }): number {
  return Math.max(bytes, entries * FILE_BYTES);
}

export const fileShare = (bytes: number): number => shareOf({ bytes, entries: 1 });

export const LIMIT_NAMES = Object.keys(LIMITS) as LimitName[];
export const DEFAULT_LIMITS = Object.fromEntries(
  LIMIT_NAMES.map((name) => [name, LIMITS[name].default]),
) as Limits;

/** Limits as a request may state them: any subset, each within the row's own range. */
export const LimitsRequest = Type.Object(
  {
    wallSeconds: Type.Optional(limitNumber('wallSeconds')),
    cpuSeconds: Type.Optional(limitNumber('cpuSeconds')),
    memoryBytes: Type.Optional(limitNumber('memoryBytes')),
    tmpBytes: Type.Optional(limitNumber('tmpBytes')),
    processes: Type.Optional(limitNumber('processes')),
    openFiles: Type.Optional(limitNumber('openFiles')),
    fileBytes: Type.Optional(limitNumber('fileBytes')),
    workspaceBytes: Type.Optional(limitNumber('workspaceBytes')),
    outputBytes: Type.Optional(limitNumber('outputBytes')),
  },
  { additionalProperties: false },
);
export type LimitsRequest = Static<typeof LimitsRequest>;

function limitNumber(name: LimitName) {
  const row: LimitRow = LIMITS[name];
  return row.unit === 'seconds'
    ? Type.Number({ minimum: row.minimum, maximum: row.maximum })
    : Type.Integer({ minimum: row.minimum, maximum: row.maximum });
}
