/**
 * Runtimes: how a language is detected, compiled and run, as data. Each is a JSON file: runtimes/*.json are ours, the
 * administrator's are in a directory of their own (NOX_RUNTIMES; docs/operations.md) and replace ours of the same name.
 *
 * A definition has no more power than a client: whatever it says is done inside a sandbox.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, extname, join } from 'node:path';
import Type, { type Static } from 'typebox';
import { validator } from '../protocol/validate.ts';
import { markBytes } from './stage.ts';

const NAME = '^[a-z][a-z0-9+_-]{0,31}$';
const NO_NUL = '^[^\\0]+$';
const Words = Type.Array(Type.String({ pattern: NO_NUL }), { minItems: 1 });
const STRICT = { additionalProperties: false };

const COMMON = {
  name: Type.String({ pattern: NAME }),
  /** For people, such as `C (GNU)`. */
  title: Type.String({ minLength: 1, maxLength: 80 }),
  aliases: Type.Optional(Type.Array(Type.String({ pattern: NAME }))),
  /** Of its source files, without the dot. */
  extension: Type.String({ pattern: '^[A-Za-z0-9+_-]{1,16}$' }),
  /** The name that code without one is given. */
  file: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9+_.-]{0,63}$' }),
  /** What must be there: absolute paths as a run sees them, or names that are looked up in a run's PATH. */
  detect: Type.Array(Type.String({ pattern: '^(/[^\\0]+|[^/\\0]+)$' }), { minItems: 1 }),
  /** A command and what to look for in what it prints (either stream): the first group, or all that matches. */
  version: Type.Object({ argv: Words, pattern: Type.String({ minLength: 1 }) }, STRICT),
  env: Type.Optional(
    Type.Record(
      Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_]*$' }),
      Type.String({ pattern: '^[^\\0]*$' }),
      STRICT,
    ),
  ),
  /** Source of a program that prints exactly `Hello from <name>` and a line feed. */
  hello: Type.String({ pattern: NO_NUL }),
};
const CommandRuntime = Type.Object({ ...COMMON, compile: Type.Optional(Words), run: Words }, STRICT);
const PythonRuntime = Type.Object({ ...COMMON, builtin: Type.Literal('python') }, STRICT);

/** Its code is compiled by `compile`, if there is one, and executed by `run` and the client's arguments. */
export type CommandRuntime = Static<typeof CommandRuntime>;
/** Its code is run as /run_py runs it (program kind `python`). */
export type PythonRuntime = Static<typeof PythonRuntime>;
export type Runtime = CommandRuntime | PythonRuntime;

const checkCommand = validator(CommandRuntime);
const checkPython = validator(PythonRuntime);

export const isPython = (runtime: Runtime): runtime is PythonRuntime => 'builtin' in runtime;
export const isCompiled = (runtime: Runtime): boolean => !isPython(runtime) && runtime.compile !== undefined;

/** What stands in braces in words of `compile`, `run` and `env`; `env` and `version` have only heapMiB. */
const PLACEHOLDERS = ['file', 'dir', 'stem', 'out', 'heapMiB'] as const;
type Placeholder = (typeof PLACEHOLDERS)[number];
const PLACEHOLDER = /\{([A-Za-z]+)\}/g;
/** Where a compiled program is put: a run's /tmp is its own. */
const OUT = '/tmp/.nox-program';
/** The rest of a run's memory is for what a collected heap is not: code, stacks, buffers, /tmp. */
const HEAP_SHARE = 0.75;
const MIB = 2 ** 20;

export class RuntimeFileError extends Error {
  override readonly name = 'RuntimeFileError';
}

const OURS = new URL('./runtimes/', import.meta.url);
/** Read at once: later the server may be a user who cannot read its own program. */
const BUILT_IN: readonly Runtime[] = readdirSync(OURS)
  .filter((name) => name.endsWith('.json'))
  .sort()
  .map((name) => parseRuntime(name, readFileSync(new URL(name, OURS), 'utf8')));

/** By name, sorted by it. */
export type Runtimes = ReadonlyMap<string, Runtime>;

export interface LoadedRuntimes {
  readonly runtimes: Runtimes;
  /** Names of ours that a file of the administrator has replaced; for the log. */
  readonly replaced: readonly string[];
}

/**
 * @param dir the administrator's directory; need not exist. Only files `<name>.json` are looked at
 * @throws RuntimeFileError naming file and member; check.ts has the remedy
 */
export function loadRuntimes(dir: string): LoadedRuntimes {
  const byName = new Map(BUILT_IN.map((runtime) => [runtime.name, runtime]));
  const replaced: string[] = [];
  const from = new Map<string, string>();
  for (const name of jsonFiles(dir)) {
    const path = join(dir, name);
    const runtime = parseRuntime(path, readDefinition(path));
    if (byName.has(runtime.name)) replaced.push(runtime.name);
    byName.set(runtime.name, runtime);
    from.set(runtime.name, path);
  }
  const runtimes = new Map([...byName].sort(([a], [b]) => (a < b ? -1 : 1)));
  refuseAmbiguous(runtimes, from);
  return { runtimes, replaced };
}

/** By its name or one of its aliases. */
export function findRuntime(runtimes: Runtimes, name: string): Runtime | undefined {
  return runtimes.get(name) ?? [...runtimes.values()].find((each) => each.aliases?.includes(name));
}

function jsonFiles(dir: string): string[] {
  try {
    return readdirSync(dir)
      .filter((name) => name.endsWith('.json'))
      .sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw refusal(dir, (error as Error).message);
  }
}

function readDefinition(path: string): string {
  try {
    // A FIFO would be waited for.
    if (!statSync(path).isFile()) throw new Error('is not a regular file');
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw refusal(path, (error as Error).message);
  }
}

function refusal(path: string, reason: string): RuntimeFileError {
  return new RuntimeFileError(`${path}: ${reason}`);
}

/** @throws RuntimeFileError */
export function parseRuntime(path: string, text: string): Runtime {
  try {
    const value: unknown = JSON.parse(text);
    const python = typeof value === 'object' && value !== null && 'builtin' in value;
    const runtime = python ? checkPython(value) : checkCommand(value);
    if (basename(path) !== `${runtime.name}.json`)
      throw new Error(`name: the file must be called ${runtime.name}.json`);
    checkPattern(runtime.version.pattern);
    checkPlaceholders(runtime);
    return runtime;
  } catch (error) {
    throw refusal(path, (error as Error).message);
  }
}

function checkPattern(pattern: string): void {
  try {
    versionPattern(pattern);
  } catch (error) {
    throw new Error(`version.pattern: ${(error as Error).message}`, { cause: error });
  }
}

function versionPattern(pattern: string): RegExp {
  return new RegExp(pattern, 'm');
}

function checkPlaceholders(runtime: Runtime): void {
  const members: [member: string, words: readonly string[], known: readonly Placeholder[]][] = [
    ['version.argv', runtime.version.argv, ['heapMiB']],
    ['env', Object.values(runtime.env ?? {}), ['heapMiB']],
  ];
  if (!isPython(runtime))
    members.push(['compile', runtime.compile ?? [], PLACEHOLDERS], ['run', runtime.run, PLACEHOLDERS]);
  for (const [member, words, known] of members)
    for (const [placeholder, name] of words.flatMap((word) => [...word.matchAll(PLACEHOLDER)]))
      if (!known.some((each) => each === name))
        throw new Error(
          `${member}: ${placeholder} is none of ${known.map((each) => `{${each}}`).join(', ')}`,
        );
}

/** A name that means two runtimes would mean the one or the other by chance. */
function refuseAmbiguous(runtimes: Runtimes, from: ReadonlyMap<string, string>): void {
  const owner = new Map([...runtimes.keys()].map((name) => [name, name]));
  for (const { name, aliases = [] } of runtimes.values())
    for (const alias of aliases) {
      const other = owner.get(alias);
      owner.set(alias, name);
      if (other === undefined || other === name) continue;
      const path = from.get(name) ?? from.get(other) ?? '';
      throw refusal(path, `aliases: ${JSON.stringify(alias)} means both ${other} and ${name}`);
    }
}

export interface RuntimeCall {
  /** Absolute path of the source, as the run sees it. */
  readonly file: string;
  /** The client's. Without NUL, as any argument. */
  readonly args: readonly string[];
  /** From `newMark`, a new one for each run; without it the output is not staged. */
  readonly mark?: string | undefined;
  /** The run's limit. */
  readonly memoryBytes: number;
}

export interface RuntimePlan {
  readonly argv: readonly string[];
  /** What the runtime adds to the environment of a run. */
  readonly env: Readonly<Record<string, string>>;
  /** Its output is to go through a `StageSplitter` with the same mark. */
  readonly staged: boolean;
}

/** The command that compiles and runs a source, as one program. */
export function planRuntime(runtime: CommandRuntime, call: RuntimeCall): RuntimePlan {
  const { file, args, mark, memoryBytes } = call;
  const values = {
    ...{ file, dir: dirname(file), stem: basename(file, extname(file)), out: OUT },
    ...heapOf(memoryBytes),
  };
  const program = [...substitute(runtime.run, values), ...args];
  const env = environmentOf(runtime, memoryBytes);
  if (runtime.compile === undefined) return { argv: program, env, staged: false };
  const script = driver(substitute(runtime.compile, values), mark);
  return { argv: ['/bin/sh', '-c', script, 'sh', ...program], env, staged: mark !== undefined };
}

/** The command that prints the version. */
export function planVersion(runtime: Runtime, memoryBytes: number): Omit<RuntimePlan, 'staged'> {
  return {
    argv: substitute(runtime.version.argv, heapOf(memoryBytes)),
    env: environmentOf(runtime, memoryBytes),
  };
}

/** @returns undefined where the text has none */
export function findVersion(runtime: Runtime, text: string): string | undefined {
  const match = versionPattern(runtime.version.pattern).exec(text);
  return match?.[1] ?? match?.[0];
}

/**
 * The compiler, then the mark on both streams, then the program in the shell's place. The program's words are the
 * shell's arguments, so that they need no quoting. The last of the three is not reached unless the mark is out.
 */
function driver(compile: readonly string[], mark: string | undefined): string {
  const first = `${compile.map(quote).join(' ')} </dev/null >&2 || exit\n`;
  if (mark === undefined) return `${first}exec "$@"`;
  const bytes = `'${markBytes(mark).toString('latin1').replaceAll('\0', '\\000')}'`;
  return `${first}printf ${bytes} && printf ${bytes} >&2 && exec "$@"`;
}

/** One word of the shell, whatever is in it. */
export function quote(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

function environmentOf(runtime: Runtime, memoryBytes: number): Record<string, string> {
  const entries = Object.entries(runtime.env ?? {});
  const values = substitute(
    entries.map(([, value]) => value),
    heapOf(memoryBytes),
  );
  return Object.fromEntries(entries.map(([name], index) => [name, values[index] ?? '']));
}

function heapOf(memoryBytes: number): { readonly heapMiB: string } {
  return { heapMiB: String(Math.max(1, Math.floor((memoryBytes * HEAP_SHARE) / MIB))) };
}

/** In one pass: what is put in is not looked at again. */
function substitute(words: readonly string[], values: Partial<Record<Placeholder, string>>): string[] {
  return words.map((word) =>
    word.replaceAll(PLACEHOLDER, (whole, name) => values[name as Placeholder] ?? whole),
  );
}
