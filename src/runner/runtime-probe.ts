/**
 * What this machine can really run: found out by running it.
 *
 * A runtime whose `detect` files are there is asked for its version and has its hello world compiled and run in a real
 * sandbox. Nothing is looked at before somebody asks; what was found holds until one of those files has changed.
 */
import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import type { RunRequest, RunResult } from '../protocol/messages.ts';
import type { RuntimeInfo } from '../protocol/runtimes.ts';
import { nodeProgram } from './host.ts';
import {
  findVersion,
  isCompiled,
  isPython,
  planRuntime,
  planVersion,
  type Runtime,
  type Runtimes,
} from './runtime.ts';
import { NODE } from './sandbox.ts';
import { newMark, StageSplitter, type StreamName } from './stage.ts';

/** A failure may have other causes than the files that are looked at (a linker that is missing, a busy machine). */
const FAILED_MS = 60_000;
/** The clients' runs come first, but not for ever. */
const PATIENCE_MS = 5000;
const LOOK_MS = 50;
/** The most that a reason repeats of what a program said. */
const SHOWN = 200;
const DIR = '/tmp/.nox-hello';
/** The workspace has files of clients: away from them. $1 is the file, $2 what is to be in it, then K=V and a command. */
const PLACE = `mkdir ${DIR} && cd ${DIR} && printf %s "$2" >"$1" && shift 2 && exec /usr/bin/env "$@"`;
const ASK = 'cd /tmp && exec /usr/bin/env "$@"';

export interface ProbeOutput {
  readonly stdout: string;
  readonly stderr: string;
  readonly result: RunResult;
}
/** Runs a program in a sandbox. Rejects with a NoxError where that says nothing about the program (a full queue). */
export type ProbeRun = (program: RunRequest['program']) => Promise<ProbeOutput>;

export interface RuntimeProbeOptions {
  readonly runtimes: Runtimes;
  /** PATH of the runs. */
  readonly path: string;
  /** The memory limit of the runs. */
  readonly memoryBytes: number;
  readonly run: ProbeRun;
  /** How many runs of clients are waiting for a slot. */
  readonly waiting: () => number;
  /** Where the host has NODE, if anywhere. */
  readonly node?: () => string | undefined;
}

interface Found {
  /** Of the files that were looked at. */
  readonly state: string;
  readonly at: number;
  readonly available: boolean;
  readonly version: string | null;
  readonly reason?: string;
}

export class RuntimeProbe {
  readonly #options: RuntimeProbeOptions;
  readonly #found = new Map<string, Found>();
  #current: Promise<RuntimeInfo[]> | undefined;

  constructor(options: RuntimeProbeOptions) {
    this.#options = options;
  }

  /**
   * All runtimes, by name. Who asks while somebody else does gets the same answer.
   *
   * @throws NoxError when runs cannot be had at the moment
   */
  list(): Promise<RuntimeInfo[]> {
    this.#current ??= this.#look().finally(() => {
      this.#current = undefined;
    });
    return this.#current;
  }

  /** What `detect` does not find, and what to do; a runtime that has everything may still not work. */
  lacks(runtime: Runtime): string | undefined {
    const state = this.#detect(runtime);
    return state.missing;
  }

  async #look(): Promise<RuntimeInfo[]> {
    const infos: RuntimeInfo[] = [];
    // One after another, so that all of it takes one slot at most.
    for (const runtime of this.#options.runtimes.values()) {
      const { available, version, reason } = await this.#examine(runtime);
      infos.push({
        name: runtime.name,
        title: runtime.title,
        aliases: runtime.aliases ?? [],
        extension: runtime.extension,
        compiled: isCompiled(runtime),
        available,
        version,
        ...(reason === undefined ? {} : { reason }),
      });
    }
    return infos;
  }

  async #examine(runtime: Runtime): Promise<Pick<Found, 'available' | 'version' | 'reason'>> {
    const { missing, state } = this.#detect(runtime);
    if (missing !== undefined) return { available: false, version: null, reason: missing };
    const known = this.#found.get(runtime.name);
    if (known?.state === state && (known.available || performance.now() - known.at < FAILED_MS)) return known;
    const version = await this.#version(runtime);
    const reason = await this.#failure(runtime);
    const verdict = reason === undefined ? { available: true } : { available: false, reason };
    const found = { state, at: performance.now(), version, ...verdict };
    this.#found.set(runtime.name, found);
    return found;
  }

  #detect(runtime: Runtime): { readonly missing?: string; readonly state: string } {
    const states: string[] = [];
    for (const wanted of runtime.detect) {
      const [state] = this.#candidates(wanted).flatMap(stateOf);
      if (state === undefined) return { missing: this.#missing(wanted), state: '' };
      states.push(state);
    }
    return { state: states.join() };
  }

  /** Where the host may have what a run is to find. */
  #candidates(wanted: string): string[] {
    const { path, node = nodeProgram } = this.#options;
    if (wanted === NODE) return [node() ?? ''];
    return wanted.startsWith('/') ? [wanted] : path.split(':').map((dir) => `${dir}/${wanted}`);
  }

  #missing(wanted: string): string {
    if (wanted === NODE)
      return `the user of the runs cannot reach ${process.execPath}: move Nox to where everybody may enter, such as /opt`;
    return wanted.startsWith('/')
      ? `${wanted} is not there: install it`
      : `${wanted} is not in ${this.#options.path}: install it`;
  }

  async #version(runtime: Runtime): Promise<string | null> {
    const { argv, env } = planVersion(runtime, this.#options.memoryBytes);
    const { stdout, stderr } = await this.#run(shell(ASK, [...assignments(env), ...argv]));
    return findVersion(runtime, `${stdout}\n${stderr}`) ?? null;
  }

  /** Why its hello world does not do what it should, if it does not. */
  async #failure(runtime: Runtime): Promise<string | undefined> {
    const { hello, name } = runtime;
    if (isPython(runtime)) {
      const output = await this.#run({ kind: 'python', code: hello, args: [] });
      return judge(name, output, false);
    }
    const mark = newMark();
    const file = `${DIR}/${runtime.file}`;
    const { memoryBytes } = this.#options;
    const { argv, env, staged } = planRuntime(runtime, { file, args: [], mark, memoryBytes });
    const output = await this.#run(shell(PLACE, [file, hello, ...assignments(env), ...argv]));
    if (!staged) return judge(name, output, false);
    const texts: Record<StreamName, string> = { stdout: '', stderr: '' };
    const splitter = new StageSplitter(mark, (_stage, stream, data) => {
      texts[stream] += Buffer.from(data).toString();
    });
    splitter.push('stdout', Buffer.from(output.stdout));
    splitter.push('stderr', Buffer.from(output.stderr));
    splitter.end();
    return judge(name, { ...texts, result: output.result }, splitter.stage === 'compile');
  }

  async #run(program: RunRequest['program']): Promise<ProbeOutput> {
    const { waiting, run } = this.#options;
    for (const deadline = performance.now() + PATIENCE_MS; waiting() > 0 && performance.now() < deadline;)
      await sleep(LOOK_MS);
    const output = await run(program);
    const { outcome } = output.result;
    if (outcome === 'sandbox_error' || outcome === 'cancelled')
      throw new NoxError(outcome, `A runtime could not be tried: ${outcome}`);
    return output;
  }
}

/** Runs programs by an executor, as its clients' are. */
export function probeBy(executor: Pick<Executor, 'run'>): ProbeRun {
  return async (program) => {
    const chunks: Record<StreamName, Uint8Array[]> = { stdout: [], stderr: [] };
    for await (const event of executor.run({ id: 'runtimes', program }, new AbortController().signal)) {
      // A command has no compiler: `compile` does not come.
      if (event.type === 'output' && event.stream !== 'compile') chunks[event.stream].push(event.data);
      else if (event.type === 'end') {
        const text = (stream: StreamName) => Buffer.concat(chunks[stream]).toString();
        return { stdout: text('stdout'), stderr: text('stderr'), result: event.result };
      }
    }
    throw new NoxError('internal', 'A run had no end');
  };
}

function judge(
  name: string,
  { stdout, stderr, result }: ProbeOutput,
  compiling: boolean,
): string | undefined {
  const { outcome, exitCode } = result;
  const said = stderr.trim() === '' ? '' : `: ${stderr.trim().slice(0, SHOWN)}`;
  const how = outcome === 'failed' ? `exit code ${String(exitCode)}` : outcome;
  if (compiling) return `its hello world was not compiled (${how})${said}`;
  if (outcome !== 'ok') return `its hello world failed (${how})${said}`;
  if (stdout === `Hello from ${name}\n`) return undefined;
  return `its hello world printed ${JSON.stringify(stdout.slice(0, SHOWN))}${said}`;
}

const shell = (script: string, words: readonly string[]): RunRequest['program'] => ({
  kind: 'command',
  argv: ['/bin/sh', '-c', script, 'sh', ...words],
});

const assignments = (env: Readonly<Record<string, string>>): string[] =>
  Object.entries(env).map(([name, value]) => `${name}=${value}`);

/** Another file under the name, or other content, is another state; none where there is no file. */
function stateOf(path: string): string[] {
  try {
    const { dev, ino, size, mtimeMs } = statSync(path);
    return [[path, dev, ino, size, mtimeMs].join(':')];
  } catch {
    return [];
  }
}
