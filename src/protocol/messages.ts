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

export const RunRequest = Type.Object({
  /** The request's id, for the logs of both sides. */
  id: Type.String({ minLength: 1, maxLength: 128, pattern: '^[A-Za-z0-9._:-]+$' }),
  program: Type.Union([PythonProgram, CommandProgram]),
  stdin: Type.Optional(Type.String()),
  limits: Type.Optional(LimitsRequest),
});
export type RunRequest = Static<typeof RunRequest>;

export const PutRequest = Type.Object({
  id: Type.String({ minLength: 1, maxLength: 128, pattern: '^[A-Za-z0-9._:-]+$' }),
  path: Type.String(),
});
export type PutRequest = Static<typeof PutRequest>;

export const PutResult = Type.Object({ saved: Type.String(), bytes: Type.Integer({ minimum: 0 }) });
export type PutResult = Static<typeof PutResult>;

const Usage = Type.Object({
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
export const RunResult = Type.Object({
  outcome: Type.Enum([...OUTCOMES]),
  exitCode: Type.Union([Type.Integer(), Type.Null()]),
  signal: Type.Union([Type.Integer(), Type.Null()]),
  /** The bytes of each stream that were left out between head and tail. */
  omitted: Type.Object({ stdout: Type.Integer(), stderr: Type.Integer() }),
  /** For an outcome that a limit caused: which limit, and its value. */
  limit: Type.Optional(Type.Object({ name: Type.String(), value: Type.Number(), unit: Type.String() })),
  usage: Usage,
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

/** `output` comes zero or more times, `end` once and last. */
export type RunEvent =
  | { readonly type: 'output'; readonly stream: 'stdout' | 'stderr'; readonly data: Uint8Array }
  | { readonly type: 'end'; readonly result: RunResult };
