/**
 * What gateway and runner say to each other: schemas, and the types inferred from them.
 *
 * The gateway checks a client's request against its own schemas; the runner checks these again, as if the
 * gateway had been taken over.
 */
import Type, { type Static } from 'typebox';
import { LimitsRequest } from './limits.ts';
import { OUTCOMES } from './outcome.ts';

/** The longest name of a file and the longest path that Linux takes (limits.h: NAME_MAX, PATH_MAX - 1). */
export const NAME_MAX = 255;
export const PATH_MAX = 4095;

/**
 * One argument may have at most 131,071 bytes (execve(2): MAX_ARG_STRLEN, the terminating NUL excluded), all of
 * them together at most a quarter of the stack limit of 8 MiB (ARG_MAX); half of that leaves room for the rest.
 */
export const ARGUMENT_MAX = 131_071;
export const ARGUMENTS_MAX_BYTES = 1024 * 1024;

/** Of a terminal, in characters (ioctl_tty(2), TIOCSWINSZ: 16 bits). */
export const TerminalSize = Type.Integer({ minimum: 1, maximum: 65_535 });

const PythonProgram = Type.Object({
  kind: Type.Literal('python'),
  code: Type.String(),
  /** Path inside the workspace under which the code runs. Saved there when given; without it, `run.py` and not saved. */
  filename: Type.Optional(Type.String({ minLength: 1, maxLength: PATH_MAX })),
  args: Type.Array(Type.String()),
  /** A new interpreter, where otherwise a copy of a warm one may run the code. */
  fresh: Type.Optional(Type.Boolean()),
});

const CommandProgram = Type.Object({
  kind: Type.Literal('command'),
  argv: Type.Array(Type.String(), { minItems: 1 }),
});

/** A program of one of the runtimes that are data (src/runner/runtimes/). */
const RuntimeProgram = Type.Object({
  kind: Type.Literal('runtime'),
  runtime: Type.String({ minLength: 1, maxLength: 32 }),
  /** Written to `entry` before the run; without it the file must be there, or among `files`. */
  code: Type.Optional(Type.String()),
  /** Path inside the workspace. Without it the runtime's own name for a program. */
  entry: Type.Optional(Type.String({ minLength: 1, maxLength: PATH_MAX })),
  args: Type.Array(Type.String()),
  /** Of Python: see PythonProgram. */
  fresh: Type.Optional(Type.Boolean()),
});

/** The name of a workspace; `default` is that of the four calls. */
export const WORKSPACE_ID = '^[a-z0-9][a-z0-9_-]{0,63}$';
/** A workspace with a name; or a new one that vanishes with the run, warm together with others of its group. */
const RunWorkspace = Type.Union([
  Type.Object({ id: Type.String({ pattern: WORKSPACE_ID }) }),
  Type.Object({ scratch: Type.String({ pattern: WORKSPACE_ID }) }),
]);

/** Names of environment variables (POSIX, section 8.1). */
export const ENV_NAME = '^[A-Za-z_][A-Za-z0-9_]{0,254}$';

export const RunFile = Type.Object({
  path: Type.String({ minLength: 1, maxLength: PATH_MAX }),
  /** The content, in base64. */
  data: Type.String({ pattern: '^[A-Za-z0-9+/]*={0,2}$' }),
});
export type RunFile = Static<typeof RunFile>;

export const RunRequest = Type.Object({
  /** The request's id, for the logs of both sides. */
  id: Type.String({ minLength: 1, maxLength: 128, pattern: '^[A-Za-z0-9._:-]+$' }),
  program: Type.Union([PythonProgram, CommandProgram, RuntimeProgram]),
  stdin: Type.Optional(Type.String()),
  limits: Type.Optional(LimitsRequest),
  /** Default: the default workspace. */
  workspace: Type.Optional(RunWorkspace),
  /** On top of what every run has; the same name wins. */
  env: Type.Optional(
    Type.Record(Type.String({ pattern: ENV_NAME }), Type.String(), { additionalProperties: false }),
  ),
  /** Written to the workspace before the run. */
  files: Type.Optional(Type.Array(RunFile, { maxItems: 1000 })),
  /** `bounded`, the default: head and tail of each stream. `all`: everything, as fast as the reader takes it. */
  output: Type.Optional(Type.Union([Type.Literal('bounded'), Type.Literal('all')])),
  /** Standard input stays open after `stdin`, and takes what `input` brings. */
  interactive: Type.Optional(Type.Boolean()),
  /** Programs see a terminal of this size, with both outputs on stdout. Needs `interactive`. */
  terminal: Type.Optional(Type.Object({ rows: TerminalSize, columns: TerminalSize })),
  /** The result names the files that the run made, changed and removed. */
  changes: Type.Optional(Type.Boolean()),
});
export type RunRequest = Static<typeof RunRequest>;

export const PutRequest = Type.Object({
  id: Type.String({ minLength: 1, maxLength: 128, pattern: '^[A-Za-z0-9._:-]+$' }),
  path: Type.String(),
});
export type PutRequest = Static<typeof PutRequest>;

export const PutResult = Type.Object({ saved: Type.String(), bytes: Type.Integer({ minimum: 0 }) });
export type PutResult = Static<typeof PutResult>;

export const Usage = Type.Object({
  wallSeconds: Type.Number(),
  userSeconds: Type.Number(),
  systemSeconds: Type.Number(),
  /** Peak of all processes together where a cgroup measures it, else the largest seen at a sample, or the largest process. */
  peakMemoryBytes: Type.Integer(),
  peakProcesses: Type.Integer(),
  stdinBytes: Type.Integer(),
  stdoutBytes: Type.Integer(),
  stderrBytes: Type.Integer(),
});

/** Paths in the workspace, of regular files and links, at most CHANGES_MAX in all. */
export const Changes = Type.Object({
  created: Type.Array(Type.String()),
  changed: Type.Array(Type.String()),
  removed: Type.Array(Type.String()),
  /** There were more. */
  truncated: Type.Boolean(),
});

export const RunResult = Type.Object({
  outcome: Type.Enum([...OUTCOMES]),
  exitCode: Type.Union([Type.Integer(), Type.Null()]),
  signal: Type.Union([Type.Integer(), Type.Null()]),
  /** The bytes of each stream that were left out between head and tail. */
  omitted: Type.Object({ stdout: Type.Integer(), stderr: Type.Integer() }),
  /** For an outcome that a limit caused: which limit, and its value. */
  limit: Type.Optional(Type.Object({ name: Type.String(), value: Type.Number(), unit: Type.String() })),
  usage: Usage,
  /** Of a runtime that compiles: where the run ended, and how long its compiler took. */
  stage: Type.Optional(Type.Union([Type.Literal('compile'), Type.Literal('run')])),
  compileSeconds: Type.Optional(Type.Number()),
  changes: Type.Optional(Changes),
  /** Where its time went: waiting for a slot; its code placed and a sandbox had; from then to its end. */
  timings: Type.Optional(
    Type.Object({ queueSeconds: Type.Number(), prepareSeconds: Type.Number(), runSeconds: Type.Number() }),
  ),
});
export type RunResult = Static<typeof RunResult>;

export interface Health {
  readonly ok: boolean;
  /** `ok`, or in a few plain words why no code can run now. */
  readonly status: string;
}

/** Standard output and error of the program, and what its compiler said. */
export const STREAMS = ['stdout', 'stderr', 'compile'] as const;
export type StreamName = (typeof STREAMS)[number];

/** What a live run is told. Signals go to the program, not to what it has started. */
export const RunInput = Type.Union([
  Type.Object({ type: Type.Literal('stdin_end') }),
  Type.Object({ type: Type.Literal('signal'), signal: Type.Integer({ minimum: 1, maximum: 64 }) }),
  Type.Object({ type: Type.Literal('resize'), rows: TerminalSize, columns: TerminalSize }),
]);
export type RunInput = Static<typeof RunInput> | { readonly type: 'stdin'; readonly data: Uint8Array };

/**
 * `started` comes first, when a run with `output: 'all'` has its slot, before anything of it runs; of another run when it
 * has run for a while. `output` zero or more times, `end` once, last.
 */
export type RunEvent =
  | { readonly type: 'started' }
  | { readonly type: 'output'; readonly stream: StreamName; readonly data: Uint8Array }
  | { readonly type: 'end'; readonly result: RunResult };
