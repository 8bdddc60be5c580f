/**
 * A Debian in a virtual machine, for what needs systemd and cgroup v2 and what only a whole machine can show
 * (installation, reboot, loss of power).
 *
 *     const m = await boot({ suite: 'bookworm' });
 *     after(() => m.stop());
 *     await m.succeed('systemctl is-active nox-api');
 *
 * Theory of operation. image.sh builds the disk once, source.sh puts this tree at /opt/nox-src. Each machine
 * writes to an overlay of its own, which lives as long as the machine object: a reboot and a power cut keep it.
 * Commands travel over a virtio port to guest/agent.py; QEMU's end of it is a socket pair that it inherits, so
 * there is no path to guess and no port to take. QEMU dies with this process, whatever ends it (pdeathsig), and
 * after `seconds` at the latest.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { stripVTControlCharacters } from 'node:util';

export const SUITES = ['bookworm', 'trixie'] as const;
type Suite = (typeof SUITES)[number];

export interface BootOptions {
  readonly suite?: Suite;
  /** MiB. */
  readonly memory?: number;
  readonly cpus?: number;
  /** Sizes in MiB of further, empty disks: /dev/disk/by-id/virtio-extra0, -extra1, … */
  readonly disks?: readonly number[];
  /** Lets the machine reach the network through the host; without it, it has none. */
  readonly network?: boolean;
  /** The most that the machine may live, over all its boots. */
  readonly seconds?: number;
}

export interface CommandOptions {
  readonly stdin?: string;
  readonly seconds?: number;
}

export interface Answer {
  /** Negative for a signal. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly timedOut: boolean;
}

export class MachineError extends Error {
  override readonly name = 'MachineError';
}

const HERE = import.meta.dirname;
const BOOT_SECONDS = 300;
const COMMAND_SECONDS = 120;
const CONSOLE_LINES = 20;

/** Boots a machine and resolves when systemd has started everything. */
export async function boot(options: BootOptions = {}): Promise<Machine> {
  const machine = new Machine(options);
  try {
    await machine.start();
  } catch (error) {
    await machine.stop();
    throw error;
  }
  return machine;
}

interface Pending {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

export class Machine {
  /** From QEMU's start to the end of systemd's start, at the last boot. */
  bootSeconds = 0;
  readonly console: string;
  readonly #options: BootOptions;
  readonly #directory: string;
  readonly #arguments: readonly string[];
  readonly #limit: NodeJS.Timeout;
  readonly #pending = new Map<number, Pending>();
  #qemu: ChildProcess | undefined;
  #socket: Socket | undefined;
  #hello: PromiseWithResolvers<undefined> | undefined;
  #nextId = 1;
  #failed = false;
  #limitReached = false;

  constructor(options: BootOptions) {
    this.#options = options;
    const suite = options.suite ?? 'bookworm';
    const image = script('image.sh', suite);
    const cache = dirname(image);
    this.#directory = mkdtempSync(join(cache, 'machine.'));
    process.on('exit', this.#removeDirectory);
    mkdirSync(join(cache, 'console'), { recursive: true });
    this.console = join(cache, 'console', `${suite}-${process.pid}-${Date.now()}.log`);
    const modules = script('source.sh', join(this.#directory, 'source.ext4'));
    this.#arguments = this.#prepare(image, modules);

    const seconds = options.seconds ?? 1800;
    this.#limit = setTimeout(() => {
      this.#limitReached = true;
      this.#qemu?.kill('SIGKILL');
    }, seconds * 1000);
    this.#limit.unref();
  }

  get #disk(): string {
    return join(this.#directory, 'root.qcow2');
  }

  #prepare(image: string, modules: string): string[] {
    const { memory = 2048, cpus = 2, disks = [], network = false } = this.#options;
    const overlay = this.#disk;
    const base = ['-q', '-f', 'qcow2', '-F', 'raw', '-b', join(image, 'disk.ext4')];
    execFileSync('qemu-img', ['create', ...base, overlay]);
    // Emulation works everywhere; KVM does not on every host that has /dev/kvm.
    const accelerator = process.env['VM_ACCEL'] ?? 'tcg';
    const args = [
      ...[
        '-machine',
        'q35',
        '-accel',
        accelerator,
        '-cpu',
        'max',
        '-smp',
        String(cpus),
        '-m',
        String(memory),
      ],
      ...['-display', 'none', '-monitor', 'none', '-no-reboot', '-nodefaults', '-no-user-config'],
      ...['-kernel', join(image, 'vmlinuz'), '-initrd', join(image, 'initrd')],
      '-append',
      'root=/dev/vda rw console=ttyS0 quiet systemd.show_status=yes systemd.log_color=no panic=-1',
      ...['-chardev', `file,id=console,path=${this.console},append=on`, '-serial', 'chardev:console'],
      ...['-device', 'virtio-serial', '-chardev', 'socket,id=agent,fd=3'],
      ...['-device', 'virtserialport,chardev=agent,name=nox.vm', '-device', 'virtio-rng-pci'],
      ...drive('root', `file=${overlay},format=qcow2`),
      ...drive('source', `file=${join(this.#directory, 'source.ext4')},format=raw,read-only=on`),
      ...drive('modules', `file=${modules},format=raw,read-only=on`),
      ...(network ? ['-nic', 'user,model=virtio'] : ['-nic', 'none']),
    ];
    for (const [index, megabytes] of disks.entries()) {
      const file = join(this.#directory, `extra${index}.qcow2`);
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, `${megabytes}M`]);
      args.push(...drive(`extra${index}`, `file=${file},format=qcow2`));
    }
    return args;
  }

  /** Switches the machine on: after `shutdown` or `powerCut`. */
  async start(): Promise<void> {
    if (this.#limitReached) throw this.#error('the machine has used up its time');
    const started = performance.now();
    const hello = Promise.withResolvers<undefined>();
    // Whoever waits for it hears of a failure through the wait below; without a waiter it must not end the process.
    hello.promise.catch(() => undefined);
    this.#hello = hello;
    const log = openSync(this.console, 'a');
    const qemu = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...this.#arguments], {
      stdio: ['ignore', log, log, 'pipe'],
    });
    closeSync(log);
    this.#qemu = qemu;
    qemu.once('error', (error) => this.#gone(qemu, `cannot start QEMU: ${error.message}`));
    qemu.once('exit', (code, signal) => this.#gone(qemu, `QEMU ended (${signal ?? `exit code ${code}`})`));
    // Node types the extra stdio as either half; a 'pipe' is a socket pair.
    this.#socket = qemu.stdio[3] as Socket;
    this.#socket.on('error', () => undefined);
    createInterface({ input: this.#socket }).on('line', (line) => this.#receive(line));

    await within(hello.promise, BOOT_SECONDS, () => this.#error(`no sign of life after ${BOOT_SECONDS} s`));
    // Exits with 1 for "degraded", which is for the test to judge.
    await this.execute('systemctl is-system-running --wait', { seconds: BOOT_SECONDS });
    this.bootSeconds = (performance.now() - started) / 1000;
  }

  /** Runs a command with `bash -eo pipefail`, as root, and says how it ended, whatever that was. */
  execute(command: string, options: CommandOptions = {}): Promise<Answer> {
    const socket = this.#socket;
    if (socket === undefined) return Promise.reject(this.#error(`the machine is off: ${command}`));
    const { stdin = '', seconds = COMMAND_SECONDS } = options;
    const id = this.#nextId++;
    const answer = new Promise<Answer>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    socket.write(`${JSON.stringify({ id, command, stdin, seconds })}\n`);
    // The agent ends the command in time; this one is for a machine that has stopped answering.
    const limit = seconds + 60;
    return within(answer, limit, () => this.#error(`no answer within ${limit} s: ${command}`)).finally(() =>
      this.#pending.delete(id),
    );
  }

  /** Runs a command that must exit with 0, and returns its standard output. */
  async succeed(command: string, options: CommandOptions = {}): Promise<string> {
    const answer = await this.execute(command, options);
    if (answer.code !== 0) throw this.#error(report(command, answer, 'should have succeeded'));
    return answer.stdout;
  }

  /** Runs a command that must not exit with 0, and returns how it ended. */
  async fail(command: string, options: CommandOptions = {}): Promise<Answer> {
    const answer = await this.execute(command, options);
    if (answer.timedOut) throw this.#error(report(command, answer, 'should have failed'));
    if (answer.code === 0) throw this.#error(report(command, answer, 'should have failed'));
    return answer;
  }

  /** Repeats a command, each second, until it exits with 0. */
  async waitUntilSucceeds(command: string, seconds = COMMAND_SECONDS): Promise<string> {
    const end = performance.now() + seconds * 1000;
    for (;;) {
      const answer = await this.execute(command, { seconds });
      if (answer.code === 0) return answer.stdout;
      if (performance.now() > end)
        throw this.#error(report(command, answer, `did not succeed within ${seconds} s`));
      await sleep(1000);
    }
  }

  /** Waits until a unit is active; a unit that has failed is not waited for. */
  async waitForUnit(unit: string, seconds = COMMAND_SECONDS): Promise<void> {
    const end = performance.now() + seconds * 1000;
    for (;;) {
      const state = (await this.execute(`systemctl is-active ${unit}`)).stdout.trim();
      if (state === 'active') return;
      if (state === 'failed' || performance.now() > end) {
        const { stdout } = await this.execute(
          `systemctl status --no-pager --full --lines=0 ${unit} || true; journalctl --no-pager -n 50 -u ${unit}`,
        );
        throw this.#error(`unit ${unit} is ${state}, not active, after at most ${seconds} s\n${stdout}`);
      }
      await sleep(500);
    }
  }

  /** Writes a file of the machine. */
  async write(path: string, text: string, mode = '644'): Promise<void> {
    await this.succeed(`install -D -m ${mode} /dev/stdin '${path}'`, { stdin: text });
  }

  /** As an administrator would: all units are stopped in order, then everything starts again. */
  async reboot(): Promise<void> {
    await this.#down('systemctl reboot');
    await this.start();
  }

  /** As an administrator would; `start` switches it on again. */
  async shutdown(): Promise<void> {
    await this.#down('systemctl poweroff');
  }

  /** From one moment to the next: what the guest had not written to its disk is lost. `start` boots it again. */
  async powerCut(): Promise<void> {
    const qemu = this.#qemu;
    if (qemu === undefined) return;
    const exit = exited(qemu);
    qemu.kill('SIGKILL');
    await exit;
  }

  /** Keeps the disk as it is, under a name, for `revert`; leaves the machine switched off. */
  async checkpoint(name: string): Promise<void> {
    await this.shutdown();
    execFileSync('qemu-img', ['snapshot', '-c', name, this.#disk]);
  }

  /** Puts the disk back to a checkpoint, whatever the machine is doing; leaves the machine switched off. */
  async revert(name: string): Promise<void> {
    await this.powerCut();
    execFileSync('qemu-img', ['snapshot', '-a', name, this.#disk]);
  }

  /** Throws the machine away, with its disks; to be called at the end of each test file. */
  async stop(): Promise<void> {
    clearTimeout(this.#limit);
    await this.powerCut();
    this.#removeDirectory();
    process.off('exit', this.#removeDirectory);
    if (!this.#failed) rmSync(this.console, { force: true });
  }

  async #down(command: string): Promise<void> {
    const qemu = this.#qemu;
    if (qemu === undefined) throw this.#error(`the machine is off: ${command}`);
    const exit = exited(qemu);
    // The machine may be gone before it can answer.
    this.execute(command).catch(() => undefined);
    await within(exit, BOOT_SECONDS, () => this.#error(`${command}: still running after ${BOOT_SECONDS} s`));
  }

  #receive(line: string): void {
    const message = JSON.parse(line) as { hello: string } | (Answer & { id: number });
    if ('hello' in message) this.#hello?.resolve(undefined);
    else this.#pending.get(message.id)?.resolve(message);
  }

  #gone(qemu: ChildProcess, reason: string): void {
    if (this.#qemu !== qemu) return;
    this.#qemu = undefined;
    this.#socket?.destroy();
    this.#socket = undefined;
    const why = this.#limitReached ? 'the machine has used up its time' : reason;
    for (const { reject } of this.#pending.values()) reject(this.#error(why));
    this.#hello?.reject(this.#error(why));
  }

  #error(message: string): MachineError {
    this.#failed = true;
    return new MachineError(`${message}\n${this.#consoleTail()}`);
  }

  #consoleTail(): string {
    if (!existsSync(this.console)) return '';
    const text = stripVTControlCharacters(readFileSync(this.console, 'utf8'));
    // systemd redraws its "Job … running" line each half second.
    const lines = text.split(/[\r\n]+/).filter((line) => !/^(M|\s)*$|Job .*\(.*[0-9]s/.test(line));
    const tail = lines.slice(-CONSOLE_LINES).map((line) => `  | ${line}`);
    return [`console (whole log: ${this.console}):`, ...tail].join('\n');
  }

  readonly #removeDirectory = (): void => rmSync(this.#directory, { recursive: true, force: true });
}

function script(name: string, argument: string): string {
  const stdio: ['ignore', 'pipe', 'inherit'] = ['ignore', 'pipe', 'inherit'];
  return execFileSync('bash', [join(HERE, name), argument], { encoding: 'utf8', stdio }).trim();
}

function drive(serial: string, backend: string): string[] {
  return [
    '-drive',
    `if=none,id=${serial},${backend}`,
    '-device',
    `virtio-blk-pci,drive=${serial},serial=${serial}`,
  ];
}

function report(command: string, answer: Answer, what: string): string {
  const end = answer.timedOut ? 'was killed at its time limit' : `ended with ${answer.code}`;
  return `command ${what} and ${end}: ${command}\nstdout: ${answer.stdout}\nstderr: ${answer.stderr}`;
}

function exited(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => child.once('exit', () => resolve()));
}

async function within<T>(promise: Promise<T>, seconds: number, error: () => Error): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(error()), seconds * 1000);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
