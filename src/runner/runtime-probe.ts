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
import type { RunRequest, RunResult, StreamName } from '../protocol/messages.ts';
import type { RuntimeInfo } from '../protocol/runtimes.ts';
import { nodeProgram } from './host.ts';
import { findVersion, isCompiled, planVersion, type Runtime, type Runtimes } from './runtime.ts';
import { NODE } from './sandbox.ts';

/** A failure may have other causes than the files that are looked at (a linker that is missing, a busy machine). */
const FAILED_MS = 60_000;
/** The clients' runs come first, but not for ever. */
const PATIENCE_MS = 5000;
const LOOK_MS = 50;
/** The most that a reason repeats of what a program said. */
const SHOWN = 200;

export interface ProbeOutput {
  readonly stdout: string;
  /** What its compiler said, too. */
  readonly stderr: string;
  readonly result: RunResult;
}
/** Runs a program in a sandbox. Rejects with a NoxError where that says nothing about the program (a full queue). */
export type ProbeRun = (request: ProbeRequest) => Promise<ProbeOutput>;
export type ProbeRequest = Pick<RunRequest, 'program' | 'env'>;

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
    const { stdout, stderr } = await this.#run({
      program: { kind: 'command', argv: [...argv] },
      env: { ...env },
    });
    return findVersion(runtime, `${stdout}\n${stderr}`) ?? null;
  }

  /** Why its hello world does not do what it should, if it does not. */
  async #failure({ name, hello }: Runtime): Promise<string | undefined> {
    return judge(
      name,
      await this.#run({ program: { kind: 'runtime', runtime: name, code: hello, args: [] } }),
    );
  }

  async #run(request: ProbeRequest): Promise<ProbeOutput> {
    const { waiting, run } = this.#options;
    for (const deadline = performance.now() + PATIENCE_MS; waiting() > 0 && performance.now() < deadline;)
      await sleep(LOOK_MS);
    const output = await run(request);
    const { outcome } = output.result;
    if (outcome === 'sandbox_error' || outcome === 'cancelled')
      throw new NoxError(outcome, `A runtime could not be tried: ${outcome}`);
    return output;
  }
}

/** Runs programs by an executor, as its clients' are, away from their files. */
export function probeBy(executor: Pick<Executor, 'run'>): ProbeRun {
  return async (request) => {
    const chunks: Record<StreamName, Uint8Array[]> = { stdout: [], stderr: [], compile: [] };
    const whole = { ...request, id: 'runtimes', workspace: { scratch: 'runtimes' } };
    for await (const event of executor.run(whole, new AbortController().signal)) {
      if (event.type === 'output') chunks[event.stream].push(Buffer.from(event.data));
      else if (event.type === 'end') {
        const text = (...parts: Uint8Array[][]) => Buffer.concat(parts.flat()).toString();
        const { stdout, stderr, compile } = chunks;
        return { stdout: text(stdout), stderr: text(compile, stderr), result: event.result };
      }
    }
    throw new NoxError('internal', 'A run had no end');
  };
}

function judge(name: string, { stdout, stderr, result }: ProbeOutput): string | undefined {
  const { outcome, exitCode } = result;
  const said = stderr.trim() === '' ? '' : `: ${stderr.trim().slice(0, SHOWN)}`;
  const how = outcome === 'failed' ? `exit code ${String(exitCode)}` : outcome;
  if (result.stage === 'compile') return `its hello world was not compiled (${how})${said}`;
  if (outcome !== 'ok') return `its hello world failed (${how})${said}`;
  if (stdout === `Hello from ${name}\n`) return undefined;
  return `its hello world printed ${JSON.stringify(stdout.slice(0, SHOWN))}${said}`;
}

/** Another file under the name, or other content, is another state; none where there is no file. */
function stateOf(path: string): string[] {
  try {
    const { dev, ino, size, mtimeMs } = statSync(path);
    return [[path, dev, ino, size, mtimeMs].join(':')];
  } catch {
    return [];
  }
}
