/**
 * From what a client asks for to what a sandbox executes: files get their place, code its name, a runtime its command.
 *
 * In a workspace with a name, files are written by the server, before the run, as an upload is. A scratch workspace
 * does not exist before its run: what it needs goes along with the plan and is written from inside. The same holds for
 * code without a name of a runtime that is a command: it is put into the run's own /tmp.
 */
import { isUtf8 } from 'node:buffer';
import { relative } from 'node:path';
import { NoxError } from '../protocol/errors.ts';
import type { Limits } from '../protocol/limits.ts';
import type { RunFile, RunRequest } from '../protocol/messages.ts';
import type { LaunchPlan, Scratch, Shown } from './launch.ts';
import { findRuntime, isPython, planRuntime, type CommandRuntime, type Runtimes } from './runtime.ts';
import { newMark } from './stage.ts';
import { onTerminal } from './terminal.ts';
import { pathNames } from './workspace.ts';
import type { WorkspaceState } from './workspace-state.ts';

/** Where code without a name is put, for a command. */
const NAMELESS_DIR = '/tmp/.nox-run';
/** The name of Python code without one, in a scratch workspace. */
const DEFAULT_SCRIPT = 'run.py';
/** What terminals of today understand, where the client says nothing else. */
const TERM = 'xterm-256color';
/** Of names of files and directories, which a scratch workspace has to make (its tmpfs has at least 1024 inodes). */
const SCRATCH_NAMES_MAX = 768;
const PAGE = 4096;

/** Where a run is to happen. */
export type Place = WorkspaceState | Scratch;

type Program = RunRequest['program'];
type File = NonNullable<LaunchPlan['files']>[number];

export interface PlacedProgram {
  readonly kind: LaunchPlan['kind'];
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly script?: NonNullable<LaunchPlan['script']>;
  readonly files?: readonly File[];
  /** The output goes through a StageSplitter with this mark. */
  readonly mark?: string;
  release(): void;
}

export interface Placing {
  readonly place: Place;
  readonly python: string;
  readonly runtimes: Runtimes;
  readonly request: RunRequest;
  readonly limits: Limits;
}

/** @throws NoxError for a path or a runtime that cannot be used; `workspace_full` */
export async function placeProgram(placing: Placing): Promise<PlacedProgram> {
  const { python, request } = placing;
  if (request.terminal === undefined) return placeWhole(placing);
  if (request.interactive !== true || request.stdin !== undefined)
    throw new NoxError('invalid_request', 'terminal: needs `interactive`, and takes no `stdin`');
  const placed = await placeWhole(placing);
  const argv = onTerminal(python, request.terminal, placed.argv);
  return { ...placed, argv, env: { TERM, ...placed.env } };
}

async function placeWhole(placing: Placing): Promise<PlacedProgram> {
  const { place } = placing;
  const resolved = resolve(placing);
  if ('group' in place) return inScratch(placing, place, resolved);
  place.workspace.prepare();
  const files = placing.request.files?.map(decode) ?? [];
  // Before anything that could see it.
  if (!('python' in resolved) || resolved.python.name !== undefined || files.length > 0)
    place.placeholder.remove();
  for (const file of files) await save(place, file);
  return 'python' in resolved
    ? pythonIn(placing, place, resolved.python)
    : commandIn(place, resolved.command, resolved.code);
}

export function shownAs(place: Place): Shown | Scratch {
  return 'group' in place ? place : { from: place.workspace.path, at: place.workspace.shown };
}

interface PythonCode {
  readonly code: string;
  readonly name: string | undefined;
  readonly args: readonly string[];
  readonly fresh: boolean;
  readonly env: Readonly<Record<string, string>>;
}
type Command = Pick<PlacedProgram, 'argv' | 'env' | 'mark'>;
/** Python code, or a command and the code that it is for: at an absolute path, or at one of the workspace. */
type Resolved =
  { readonly python: PythonCode } | { readonly command: Command; readonly code: File | undefined };

function resolve(placing: Placing): Resolved {
  const { request, runtimes } = placing;
  const { program, env = {} } = request;
  if (program.kind === 'command') return { command: { argv: program.argv, env }, code: undefined };
  if (program.kind === 'python') {
    const { code, filename: name, args, fresh } = program;
    return asPython(placing, code, { name, args, fresh });
  }
  const runtime = findRuntime(runtimes, program.runtime);
  if (runtime === undefined)
    throw new NoxError('unknown_runtime', `runtime: there is no ${JSON.stringify(program.runtime)}`);
  if (!isPython(runtime)) return asCommand(placing, runtime, program);
  const { entry: name, args, fresh } = program;
  const code = program.code ?? textAmong(request, name);
  if (code !== undefined) return asPython(placing, code, { name, args, fresh });
  const argv = [placing.python, `${atOf(placing.place)}/${normal(name ?? runtime.file)}`, ...args];
  return { command: { argv, env }, code: undefined };
}

/** A copy of a warm interpreter has the environment of that: one that is to have another is a new one. */
function asPython(
  { place, python, request: { env = {}, terminal } }: Placing,
  code: string,
  { name, args, fresh }: { name: string | undefined; args: readonly string[]; fresh: boolean | undefined },
): Resolved {
  // A terminal has a program started on it.
  if (terminal !== undefined) {
    const { path, shown } = codeAt(place, name, DEFAULT_SCRIPT);
    return { command: { argv: [python, shown, ...args], env }, code: { path, data: Buffer.from(code) } };
  }
  return { python: { code, name, args, env, fresh: fresh === true || Object.keys(env).length > 0 } };
}

/** Code that comes as a file need not be read by a new interpreter: its text is at hand. */
function textAmong({ files = [] }: RunRequest, entry: string | undefined): string | undefined {
  if (entry === undefined) return undefined;
  const file = files.find(({ path }) => normal(path) === normal(entry));
  const data = file === undefined ? undefined : decode(file).data;
  return data !== undefined && isUtf8(data) ? data.toString('utf8') : undefined;
}

function asCommand(
  { place, request, limits }: Placing,
  runtime: CommandRuntime,
  { code, entry, args }: Extract<Program, { kind: 'runtime' }>,
): Resolved {
  const { path, shown } = codeAt(place, code === undefined ? (entry ?? runtime.file) : entry, runtime.file);
  // A terminal has one stream for both.
  const mark = request.terminal === undefined ? newMark() : undefined;
  const plan = planRuntime(runtime, { file: shown, args, mark, memoryBytes: limits.memoryBytes });
  return {
    command: {
      argv: plan.argv,
      env: { ...plan.env, ...request.env },
      ...(plan.staged && mark !== undefined ? { mark } : {}),
    },
    code: code === undefined ? undefined : { path, data: Buffer.from(code) },
  };
}

/**
 * Where the code for a command goes. In a workspace that stays, code without a name leaves nothing behind.
 *
 * @returns its path as a file of the plan, and as the run sees it
 */
function codeAt(place: Place, name: string | undefined, usual: string): { path: string; shown: string } {
  const path = normal(name ?? usual);
  const nameless = `${NAMELESS_DIR}/${path}`;
  if (name === undefined && !('group' in place)) return { path: nameless, shown: nameless };
  return { path, shown: `${atOf(place)}/${path}` };
}

async function pythonIn(
  { python }: Placing,
  place: WorkspaceState,
  { code, name: filename, args, env, fresh }: PythonCode,
): Promise<PlacedProgram> {
  const { workspace, placeholder } = place;
  let name: string;
  if (filename === undefined) name = placeholder.claim();
  else {
    name = relative(workspace.shown, await save(place, { path: filename, data: Buffer.from(code) }));
    workspace.hold(name);
  }
  const shown = filename === undefined ? name : normal(filename);
  return {
    argv: [python, `${workspace.shown}/${shown}`, ...args],
    script: { name, code },
    kind: fresh ? 'fresh' : 'python',
    env,
    release: () => {
      workspace.release(name);
    },
  };
}

async function commandIn(
  place: WorkspaceState,
  command: Command,
  code: File | undefined,
): Promise<PlacedProgram> {
  const placed = { ...command, kind: 'command' as const, release: () => undefined };
  if (code?.path.startsWith('/') === true) return { ...placed, files: [code] };
  if (code !== undefined) await save(place, code);
  return placed;
}

function inScratch({ python, request, limits }: Placing, place: Scratch, resolved: Resolved): PlacedProgram {
  const files = (request.files ?? []).map((file) => ({ path: normal(file.path), data: decode(file).data }));
  const release = () => undefined;
  if (!('python' in resolved)) {
    const all = resolved.code === undefined ? files : [...files, resolved.code];
    checkRoom(all, limits);
    return { ...resolved.command, kind: 'command', files: all, release };
  }
  const { code, name = DEFAULT_SCRIPT, args, env, fresh } = resolved.python;
  const script = { name: normal(name), code };
  checkRoom([...files, { path: script.name, data: Buffer.from(code) }], limits);
  const argv = [python, `${place.at}/${script.name}`, ...args];
  return { argv, script, files, kind: fresh ? 'fresh' : 'python', env, release };
}

/** A scratch workspace is a part of the run's tmpfs: what has no room there is told before the run, not by its failure. */
function checkRoom(files: readonly File[], { tmpBytes, fileBytes }: Limits): void {
  const paths = new Set(files.map(({ path }) => path));
  for (const path of paths) {
    const above = prefixesOf(path).find((each) => each !== path && paths.has(each));
    if (above !== undefined)
      throw new NoxError(
        'invalid_path',
        `files: ${JSON.stringify(above)} is a file, and a directory of another`,
      );
  }
  const large = files.find(({ data }) => data.length > fileBytes);
  if (large !== undefined) {
    const message = `files: ${JSON.stringify(large.path)} has ${String(large.data.length)} bytes, more than the ${String(fileBytes)} of limits.fileBytes (NOX_MAX_FILE_SIZE)`;
    throw new NoxError('invalid_request', message);
  }
  const names = new Set(files.flatMap(({ path }) => prefixesOf(path)));
  if (names.size > SCRATCH_NAMES_MAX) {
    const message = `files: ${String(names.size)} files and directories, more than ${String(SCRATCH_NAMES_MAX)} in a scratch workspace; use one with a name`;
    throw new NoxError('invalid_request', message);
  }
  const bytes = files.reduce((sum, { data }) => sum + Math.ceil(data.length / PAGE) * PAGE, 0);
  if (bytes <= tmpBytes) return;
  const message = `files: ${String(bytes)} bytes, more than the ${String(tmpBytes)} of a scratch workspace (limits.tmpBytes, NOX_MAX_TMP)`;
  throw new NoxError('workspace_full', message);
}

function prefixesOf(path: string): string[] {
  const names = path.split('/');
  return names.map((_, index) => names.slice(0, index + 1).join('/'));
}

async function save({ workspace, disk }: WorkspaceState, { path, data }: File): Promise<string> {
  const { saved } = await workspace.write(path, [data], disk);
  return saved;
}

const decode = ({ path, data }: RunFile): { path: string; data: Buffer } => ({
  path,
  data: Buffer.from(data, 'base64'),
});
/** A client's path without what says nothing. */
const normal = (path: string): string => pathNames(path).join('/');
const atOf = (place: Place): string => ('group' in place ? place.at : place.workspace.shown);
