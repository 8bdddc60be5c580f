/**
 * One zygote: bwrap and in it nox_zygote.py, which has the theory of operation; here is the runner's end of its socket.
 *
 * States: starting → ready (`up` was heard) → ended (bwrap has exited, and with it every process of the sandbox).
 * If the runner dies, bwrap gets SIGKILL as its child, and process 1 as bwrap's (PR_SET_PDEATHSIG).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { Cell, ZygoteFailure, type CellWord } from './cell.ts';
import { BWRAP } from './host.ts';
import { packStrings } from './plan.ts';
import { childrenOf } from './proc.ts';
import type { Stages } from './seccomp/compile.ts';

/** Where the zygote's program and the cgroups of the runs are in the sandbox; a run has a /tmp of its own over it. */
export const ZYGOTE_DIR = '/tmp/.nox';
export const CGROUP_DIR = '/tmp/.nox-cgroup';
/** A package that takes longer to load is as good as broken. */
const START_TIMEOUT_MS = 60_000;
/** A cell takes milliseconds; a zygote that does not make one has been stopped or is stuck. */
const CELL_TIMEOUT_MS = 5000;
/** The kernel ends a process within this, if it ends it at all. */
const KILL_TIMEOUT_MS = 5000;
/** A zygote that does not answer for so long has been stopped: nobody would hear of the end of its runs. */
const PING_TIMEOUT_MS = 5000;
const COMPLAINT_MAX = 4096;
/** The zygote's own rehearsal of a run (nox_memory.py). */
const NOBODY = '0';

export interface ZygoteOptions {
  /** bwrap's arguments, the interpreter and its program included. */
  readonly argv: readonly string[];
  /** All that a run finds in its environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Where its runs see the workspace. */
  readonly workspace: string;
  /** Each run has an empty workspace of its own in its place. */
  readonly scratch: boolean;
  /** Other directories that are shown, at their own paths. */
  readonly shown: readonly string[];
  readonly tmpBytes: number;
  /** Of a run that asks for no less (plan.ts). */
  readonly limits: string;
  /** Where the zygote sees the cgroups of the runs; '' where there are none. */
  readonly cgroups: string;
  readonly filters: Stages;
  /** Names of packages, separated by spaces. */
  readonly preload: string;
}

interface Order {
  readonly lane: number;
  readonly warm: boolean;
  readonly resolve: (cell: Cell) => void;
  readonly reject: (error: ZygoteFailure) => void;
}

let serials = 0;

export class Zygote {
  /** Resolves when the packages are loaded. Rejects with a ZygoteFailure. */
  readonly ready: Promise<void>;
  /** Resolves when no process of the sandbox is alive. */
  readonly ended: Promise<void>;
  readonly startedAt = performance.now();
  readonly #child: ChildProcess;
  readonly #control: Duplex | undefined;
  readonly #ready = Promise.withResolvers<undefined>();
  readonly #orders = new Map<string, Order>();
  readonly #cells = new Map<string, { readonly lane: number; readonly cell: Cell }>();
  /** Lanes whose last run may have left something in its network namespace. */
  readonly #dirty = new Set<number>();
  #pid: number | undefined;
  #pinged: number | undefined;
  #unsent = '';
  #reason = '';
  #complaint = '';
  #exited = false;

  constructor(options: ZygoteOptions) {
    // Spawned without stdio, if descriptors are short: then there is nobody to talk to, and 'error' comes next.
    this.#child = spawn(BWRAP, options.argv, {
      detached: true,
      // Bound now, the names of libraries need not be looked up in every copy.
      env: { ...options.env, PYTHONPATH: ZYGOTE_DIR, LD_BIND_NOW: '1' },
      cwd: '/',
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on('data', (data: Buffer) => {
        this.#complaint = (this.#complaint + data.toString()).slice(0, COMPLAINT_MAX);
      });
    }
    this.ended = this.#whenEnded();
    this.#control = (this.#child.stdio as ChildProcess['stdio'] | undefined)?.[3] as Duplex | undefined;
    this.#control?.on('error', () => undefined);
    let rest = '';
    this.#control?.on('data', (data: Buffer) => {
      const lines = (rest + data.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.#heard(line);
    });
    this.ready = this.#ready.promise;
    this.ready.catch(() => undefined);
    const timer = setTimeout(() => {
      this.#reason = `not ready after ${String(START_TIMEOUT_MS / 1000)} s`;
      this.kill();
    }, START_TIMEOUT_MS);
    void Promise.race([this.ready.catch(() => undefined), this.ended]).then(() => {
      clearTimeout(timer);
    });
    const { workspace, scratch, shown, tmpBytes, limits, cgroups, filters, preload } = options;
    this.#control?.write(
      packStrings([
        ...[workspace, scratch ? 'scratch' : 'shared', shown.join('\0'), String(tmpBytes), limits, cgroups],
        ...[filters.base, filters.copy, filters.command, preload],
      ]),
    );
  }

  get alive(): boolean {
    return !this.#exited;
  }

  /** Host pid of the process that makes the cells, once it is ready. */
  get pid(): number | undefined {
    return this.#exited ? undefined : this.#pid;
  }

  /**
   * A cell for one run.
   *
   * @param lane runs of one lane must not be alive at the same time
   * @param warm with a program that waits for Python code
   * @returns a promise that rejects with a ZygoteFailure
   */
  async cell(lane: number, warm: boolean): Promise<Cell> {
    await this.ready;
    if (this.#exited) throw this.#failure();
    serials += 1;
    const serial = String(serials);
    const order = { lane, warm, ...Promise.withResolvers<Cell>() };
    this.#orders.set(serial, order);
    const network = this.#dirty.delete(lane) ? 'new' : 'old';
    this.#send(`cell ${lane} ${serial} ${network} ${warm ? 'python' : 'bare'}\n`);
    const timer = setTimeout(() => {
      this.#reason ||= `no cell within ${String(CELL_TIMEOUT_MS / 1000)} s`;
      this.kill();
    }, CELL_TIMEOUT_MS);
    return order.promise.finally(() => {
      clearTimeout(timer);
    });
  }

  /** Whether a run has left a socket in the network of its lane, which the next cell of the lane will not have. */
  isDirty(lane: number): boolean {
    return this.#dirty.has(lane);
  }

  /** There is time for it to learn which pages its runs write. */
  pin(): void {
    this.#send('pin\n');
  }

  /** Asks whether it still answers; to be called again and again. One that does not is ended. */
  ping(): void {
    if (this.#pinged === undefined) {
      this.#pinged = performance.now();
      this.#send('ping\n');
    } else if (performance.now() - this.#pinged > PING_TIMEOUT_MS) {
      this.#reason = `the zygote has not answered for ${PING_TIMEOUT_MS / 1000} s`;
      this.kill();
    }
  }

  /** Ends every process of the sandbox. */
  kill(): void {
    if (this.#exited || this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    // bwrap has not been waited for, so its pid is its own. It dies, and process 1 with it: `--die-with-parent`. As it
    // starts that does not hold yet, and its child is still of its process group.
    if (this.#child.pid !== undefined) process.kill(-this.#child.pid, 'SIGKILL');
  }

  #heard(line: string): void {
    const [word, serial = '', ...rest] = line.split(' ');
    if (serial === NOBODY) return;
    const known = this.#cells.get(serial);
    if (word === 'pong') this.#pinged = undefined;
    else if (word === 'up') this.#onUp(Number(serial));
    else if (word === 'cell') this.#onCell(serial, rest.map(Number));
    else if (word === 'no_cell') this.#reject(serial, rest.join(' '));
    else if (word === 'no_place') known?.cell.onNoPlace();
    else if (word === 'broken') known?.cell.onBroken(rest.join(' '));
    else if (word === 'end') {
      this.#cells.delete(serial);
      if (known?.cell.onEnd(rest.join(' ')) === false) this.#dirty.add(known.lane);
    } else {
      this.#reason ||= line.slice(0, COMPLAINT_MAX);
      this.kill();
    }
  }

  #onUp(pid: number): void {
    const [first] = childrenOf(this.#child.pid ?? 0);
    // With threads left behind, process 1 has the zygote as its child (nox_cells.py).
    this.#pid = pid === 1 ? first : childrenOf(first ?? 0)[0];
    if (this.#pid !== undefined) this.#ready.resolve(undefined);
    else this.kill();
  }

  #onCell(serial: string, [init = 0, plan = 0, stdout = 0, stderr = 0]: number[]): void {
    const order = this.#orders.get(serial);
    this.#orders.delete(serial);
    const zygote = this.#pid;
    if (order === undefined || zygote === undefined) {
      this.#send(`opened ${serial}\nkill ${serial}\n`);
      return;
    }
    try {
      const cell = new Cell({
        fds: { plan, stdout, stderr },
        zygote,
        init,
        warm: order.warm,
        say: (word, data) => {
          this.#say(word, serial, data);
        },
        release: () => {
          this.#send('');
        },
      });
      this.#cells.set(serial, { lane: order.lane, cell });
      // Not at once: waking the zygote for it would cost more than the descriptors.
      this.#unsent += `opened ${serial}\n`;
      order.resolve(cell);
    } catch (error) {
      // The runner is short of descriptors, say. The other runs of the workspace need not suffer for it.
      this.#send(`opened ${serial}\nkill ${serial}\n`);
      order.reject(new ZygoteFailure(`the pipes of a cell: ${String(error)} (see LimitNOFILE, ulimit -n)`));
    }
  }

  #reject(serial: string, reason: string): void {
    this.#orders.get(serial)?.reject(new ZygoteFailure(`a cell could not be made: ${reason}`));
    this.#orders.delete(serial);
  }

  #say(word: CellWord, serial: string, data?: Uint8Array | number): void {
    if (typeof data === 'number') {
      this.#send(`${word} ${serial} ${data}\n`);
      return;
    }
    this.#send(data === undefined ? `${word} ${serial}\n` : `${word} ${serial} ${data.length}\n`, data);
    if (word !== 'kill') return;
    setTimeout(() => {
      if (!this.#cells.has(serial)) return;
      this.#reason = 'the zygote did not end a run when it was told to';
      this.kill();
    }, KILL_TIMEOUT_MS).unref();
  }

  #send(text: string, data?: Uint8Array): void {
    const message = this.#unsent + text;
    this.#unsent = '';
    this.#control?.write(data === undefined ? message : Buffer.concat([Buffer.from(message), data]));
  }

  #failure(): ZygoteFailure {
    const { exitCode, signalCode } = this.#child;
    const how = `bwrap ended (exit code ${String(exitCode)}, signal ${String(signalCode)}); was it killed, or did memory run out? See dmesg and make validate`;
    return new ZygoteFailure([this.#reason, this.#complaint.trim()].filter(Boolean).join('; ') || how);
  }

  async #whenEnded(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#child.once('error', (error) => {
        this.#reason = `start of ${BWRAP}: ${error.message}`;
        resolve();
      });
      this.#child.once('close', () => {
        resolve();
      });
    });
    this.#exited = true;
    this.#control?.destroy();
    const failure = this.#failure();
    this.#ready.reject(failure);
    for (const order of this.#orders.values()) order.reject(failure);
    this.#orders.clear();
    for (const { cell } of this.#cells.values()) cell.onLost(`the sandbox has ended: ${failure.message}`);
    this.#cells.clear();
  }
}
