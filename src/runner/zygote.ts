/**
 * One zygote: bwrap and in it zygote.py, which has the theory of operation; here is the runner's end of its socket.
 *
 * States: starting → ready (`up` was heard) → ended (bwrap has exited, and with it every process of the sandbox).
 * If the runner dies, bwrap gets SIGKILL as its child, and process 1 as bwrap's (PR_SET_PDEATHSIG).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { BWRAP } from './host.ts';
import { packString, packStrings } from './plan.ts';
import { Spare, ZygoteFailure } from './spare.ts';

/** Where zygote.py is seen in the sandbox; a run has a /tmp of its own over it. */
export const ZYGOTE_DIR = '/tmp/.nox';
/** A package that takes longer to load is as good as broken. */
const START_TIMEOUT_MS = 60_000;
/** A spare takes milliseconds; a zygote that does not make one has been stopped or is stuck. */
const SPARE_TIMEOUT_MS = 5000;
/** The kernel ends a process within this, if it ends it at all. */
const KILL_TIMEOUT_MS = 5000;
const COMPLAINT_MAX = 4096;

export interface ZygoteOptions {
  /** bwrap's arguments, the interpreter and its program included. */
  readonly argv: readonly string[];
  /** All that a run finds in its environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly workspace: string;
  /** Other directories that are shown, at their own paths. */
  readonly shown: readonly string[];
  readonly tmpBytes: number;
  readonly filters: { readonly open: Uint8Array; readonly strict: Uint8Array };
  /** Names of packages, separated by spaces. */
  readonly preload: string;
}

interface Order {
  readonly lane: number;
  readonly resolve: (spare: Spare) => void;
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
  readonly #spares = new Map<string, { readonly lane: number; readonly spare: Spare }>();
  /** Lanes whose last run may have left something in its network namespace. */
  readonly #dirty = new Set<number>();
  #pid: number | undefined;
  #unsent = '';
  #reason = '';
  #complaint = '';
  #exited = false;

  constructor(options: ZygoteOptions) {
    // Spawned without stdio, if descriptors are short: then there is nobody to talk to, and 'error' comes next.
    this.#child = spawn(BWRAP, options.argv, {
      env: { ...options.env, PYTHONPATH: ZYGOTE_DIR },
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
    const { workspace, shown, tmpBytes, filters, preload } = options;
    const settings = [workspace, shown.join('\0'), String(tmpBytes), filters.open, filters.strict, preload];
    this.#control?.write(packString(packStrings(settings)));
  }

  get alive(): boolean {
    return !this.#exited;
  }

  /** Host pid of the process that makes the spares, once it is ready. */
  get pid(): number | undefined {
    return this.#exited ? undefined : this.#pid;
  }

  /**
   * A sandbox for one run.
   *
   * @param lane runs of one lane must not be alive at the same time
   * @returns a promise that rejects with a ZygoteFailure
   */
  async spare(lane: number): Promise<Spare> {
    await this.ready;
    if (this.#exited) throw this.#failure();
    serials += 1;
    const serial = String(serials);
    const order = { lane, ...Promise.withResolvers<Spare>() };
    this.#orders.set(serial, order);
    const network = this.#dirty.delete(lane) ? 'new' : 'old';
    this.#send(`spare ${String(lane)} ${serial} ${network}\n`);
    const timer = setTimeout(() => {
      this.#reason ||= `no spare within ${String(SPARE_TIMEOUT_MS / 1000)} s`;
      this.kill();
    }, SPARE_TIMEOUT_MS);
    return order.promise.finally(() => {
      clearTimeout(timer);
    });
  }

  /** Ends every process of the sandbox. */
  kill(): void {
    if (this.#exited || this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    // bwrap has not been waited for, so its pid is its own. It dies, and process 1 with it: `--die-with-parent`.
    this.#child.kill('SIGKILL');
  }

  #heard(line: string): void {
    const [word, serial = '', ...rest] = line.split(' ');
    const spare = this.#spares.get(serial);
    if (word === 'up') this.#onUp(Number(serial));
    else if (word === 'spare') this.#onSpare(serial, rest.map(Number));
    else if (word === 'no_spare') this.#reject(serial, rest.join(' '));
    else if (word === 'begun') spare?.spare.onBegun();
    else if (word === 'end') this.#onEnd(serial, rest.join(' '));
    else if (word === 'no_place') spare?.spare.onNoPlace();
    else if (word === 'broken') spare?.spare.onBroken(rest.join(' '));
    else if (word === 'gone') {
      this.#spares.delete(serial);
      // One that did not come to its end has not looked what it leaves.
      if (spare?.spare.clean === false) this.#dirty.add(spare.lane);
      spare?.spare.onGone();
    } else {
      this.#reason ||= line.slice(0, COMPLAINT_MAX);
      this.kill();
    }
  }

  #onUp(pid: number): void {
    try {
      const [first] = childrenOf(this.#child.pid ?? 0);
      // With threads left behind, process 1 has the zygote as its child (zygote.py).
      this.#pid = pid === 1 ? first : childrenOf(first ?? 0)[0];
    } catch {
      this.#pid = undefined;
    }
    if (this.#pid !== undefined) this.#ready.resolve(undefined);
    else this.kill();
  }

  #onSpare(serial: string, [pid = 0, plan = 0, stdout = 0, stderr = 0]: number[]): void {
    const order = this.#orders.get(serial);
    this.#orders.delete(serial);
    const zygote = this.#pid;
    if (order === undefined || zygote === undefined) {
      this.#send(`opened ${serial}\nkill ${serial}\n`);
      return;
    }
    try {
      const spare = new Spare({
        fds: { plan, stdout, stderr },
        zygote,
        pid,
        kill: () => {
          this.#killSpare(serial);
        },
        release: () => {
          this.#send('');
        },
      });
      this.#spares.set(serial, { lane: order.lane, spare });
      // Not at once: waking the zygote for it would cost more than the descriptors.
      this.#unsent += `opened ${serial}\n`;
      order.resolve(spare);
    } catch (error) {
      // The runner is short of descriptors, say. The other runs of the workspace need not suffer for it.
      this.#send(`opened ${serial}\nkill ${serial}\n`);
      order.reject(new ZygoteFailure(`the pipes of a spare: ${String(error)} (see LimitNOFILE, ulimit -n)`));
    }
  }

  #onEnd(serial: string, report: string): void {
    const ended = this.#spares.get(serial);
    ended?.spare.onEnd(report);
    // Before the lane's next spare is asked for.
    if (ended?.spare.clean === false) this.#dirty.add(ended.lane);
  }

  #reject(serial: string, reason: string): void {
    this.#orders.get(serial)?.reject(new ZygoteFailure(`a spare could not be made: ${reason}`));
    this.#orders.delete(serial);
  }

  #send(text: string): void {
    this.#control?.write(this.#unsent + text);
    this.#unsent = '';
  }

  #killSpare(serial: string): void {
    this.#send(`kill ${serial}\n`);
    setTimeout(() => {
      if (!this.#spares.has(serial)) return;
      this.#reason = 'the zygote did not end a run when it was told to';
      this.kill();
    }, KILL_TIMEOUT_MS).unref();
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
    for (const { spare } of this.#spares.values()) {
      spare.onBroken(`the sandbox has ended: ${failure.message}`);
      spare.onGone();
    }
    this.#spares.clear();
  }
}

function childrenOf(pid: number): number[] {
  const children = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'utf8');
  return children.split(' ').filter(Boolean).map(Number);
}
