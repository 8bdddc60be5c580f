/**
 * The administrator's command; `make install` and the like call it. Each verb is a line of the table below.
 *
 * Those that change the machine are root's, and one at a time: the process starts itself again below flock(1), whose
 * lock ends with it, however it ends.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { parseConfig, type Config } from '../config.ts';
import { applyStep } from '../admin/apply.ts';
import { backup, restorePlan, unpack } from '../admin/backup.ts';
import { desire, SETTINGS_FILE } from '../admin/desired.ts';
import { Host, STATE } from '../admin/host.ts';
import { isUnhardened, timestamp } from '../admin/legacy.ts';
import { CURRENT } from '../admin/release.ts';
import { FIREWALL_FILE, firewallText, firewallUnit, sshPorts } from '../admin/firewall.ts';
import { proxyCommand } from '../admin/proxy.ts';
import { asEnvironment } from '../admin/settings.ts';
import { status } from '../admin/status.ts';
import { uninstall, uninstallPlan } from '../admin/uninstall.ts';
import { checkRunning, judged } from '../admin/validate.ts';
import {
  carryOut,
  ensure,
  examine,
  rollback,
  undoInterrupted,
  type Order,
  type Verb,
} from '../admin/verbs.ts';
import { printChecks } from './checks.ts';

const LOCK = `${STATE}/lock`;
const BUSY = 75;
const LOCKED = 'LOCKED_BY_NOXCTL';

const OPTIONS = {
  'dry-run': { type: 'boolean', default: false },
  source: { type: 'string' },
  purge: { type: 'boolean', default: false },
  'fail-at': { type: 'string' },
  'die-at': { type: 'string' },
} as const;

interface Call {
  readonly host: Host;
  readonly order: Order;
  readonly purge: boolean;
  readonly words: readonly string[];
}

interface Command {
  readonly help: string;
  readonly locks: boolean;
  /** Its words are options of its own. */
  readonly ownOptions?: true;
  /** @returns the exit code */
  run(call: Call): number | Promise<number>;
}

const change =
  (verb: Verb) =>
  async ({ order }: Call): Promise<number> => {
    await ensure(verb, order);
    return 0;
  };

const COMMANDS: Readonly<Record<string, Command>> = {
  install: {
    help: 'install, upgrade, or leave alone what is as it should be',
    locks: true,
    run: change('install'),
  },
  harden: { help: 'bring an older installation to the hardened state', locks: true, run: change('harden') },
  rollback: {
    help: 'back to the state before the last harden',
    locks: true,
    run: ({ host }) => {
      rollback(host, say);
      return 0;
    },
  },
  repair: { help: 'find what is broken and mend only that', locks: true, run: change('repair') },
  'repair-v2': { help: 'the same, and build anew what is broken', locks: true, run: change('repair-v2') },
  validate: {
    help: 'check everything, also by escaping from a real run: PASS or FAIL, remedy',
    locks: false,
    run: validate,
  },
  status: {
    help: 'services, API, settings',
    locks: false,
    run: async ({ host }) => ((await status(host, say)) ? 0 : 3),
  },
  backup: {
    help: 'FILE: settings, token and workspace, for root alone',
    locks: true,
    run: ({ host, words }) => {
      const file = fileOf(words);
      backup(host, file, installedVersion(host), new Date());
      say(`saved settings, token and workspace in ${file}`);
      return 0;
    },
  },
  restore: { help: 'FILE: put settings and workspace of a backup in place', locks: true, run: restoreFrom },
  proxy: {
    help: 'caddy|nginx --lan NAME or --domain NAME [--cert FILE --key FILE]: print the configuration of a reverse proxy',
    locks: false,
    ownOptions: true,
    run: ({ host, words }) => {
      say(proxyCommand(words, settingsOf(host)));
      return 0;
    },
  },
  firewall: {
    help: '[ADDRESS...] [--apply]: who may reach the port besides this machine; shown before it is applied',
    locks: true,
    ownOptions: true,
    run: firewall,
  },
  uninstall: {
    help: 'take away what install made; --purge: workspaces, settings and users too',
    locks: true,
    run: remove,
  },
};

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function fileOf(words: readonly string[]): string {
  const [file] = words;
  if (file === undefined)
    throw new Error('name the file of the backup: noxctl backup FILE, noxctl restore FILE');
  return resolve(file);
}

function installedVersion(host: Host): string {
  return host.linkTarget(CURRENT)?.replace('releases/', '') ?? 'none';
}

async function validate({ host, order }: Call): Promise<number> {
  if (host.entry(CURRENT) === undefined && !isUnhardened(host)) {
    // Nothing is installed: then it is the machine and this tree that are examined.
    await import('./validate.ts');
    return Number(process.exitCode ?? 0);
  }
  const context = { host, desired: desire(host, order.source), now: order.now, rebuild: false };
  return printChecks([...examine(context).map(judged), ...(await checkRunning(context))]) ? 0 : 1;
}

async function restoreFrom({ host, words, order }: Call): Promise<number> {
  const file = fileOf(words);
  undoInterrupted(host, say);
  if (host.entry(CURRENT) === undefined) throw new Error('restore: install Nox first: make install');
  const stamp = timestamp(order.now);
  const unpacked = unpack(host, file, stamp);
  const { manifest, sandbox, fresh } = unpacked;
  const aside = `${sandbox}.bak.${stamp}`;
  try {
    await carryOut('restore', order, restorePlan(host, unpacked, aside), () => Promise.resolve(), false);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    throw error;
  }
  say(`restored settings, token and workspace of ${manifest.made} (${manifest.version})`);
  say(`the workspace that was here is in ${aside}`);
  // The settings may ask for other units; and the services are to start again.
  await ensure('install', order);
  return 0;
}

function settingsOf(host: Host): Config {
  // As the runner, who needs no token: nor is one needed to say where the server listens.
  return parseConfig('runner', asEnvironment(host.text(SETTINGS_FILE) ?? ''));
}

/** Without `--apply` it only shows. What is applied stays over a reboot, and goes with `systemctl disable --now nox-firewall`. */
function firewall({ host, words }: Call): number {
  const apply = words.includes('--apply');
  const allowed = words.filter((word) => word !== '--apply');
  const { port } = settingsOf(host);
  const ports = sshPorts(host.run(['sshd', '-T']).stdout, host.run(['ss', '-Hltnp']).stdout);
  const text = firewallText({ port, allowed, sshPorts: ports });
  say(text);
  if (!apply) {
    say(`# not applied; to do so: noxctl firewall ${[...allowed, '--apply'].join(' ')}`);
    return 0;
  }
  const root = { mode: 0o644, owner: 'root', group: 'root' } as const;
  const unit = '/etc/systemd/system/nox-firewall.service';
  host.must(['nft', '--check', '--file', '/dev/stdin'], { stdin: text });
  applyStep(host, { do: 'file', path: FIREWALL_FILE, text, ...root }, '');
  applyStep(host, { do: 'file', path: unit, text: firewallUnit(), ...root }, '');
  host.must(['systemctl', 'daemon-reload']);
  host.must(['systemctl', 'enable', '--quiet', 'nox-firewall.service']);
  host.must(['systemctl', 'restart', 'nox-firewall.service']);
  say('# applied, and at every boot; to take it away: systemctl disable --now nox-firewall');
  return 0;
}

function remove({ host, purge, order }: Call): number {
  const { remove: paths, keep } = uninstallPlan(host, purge);
  if (!order.dryRun) uninstall(host, purge, say);
  else {
    for (const path of paths) say(`would remove ${path}`);
    for (const path of keep) say(`would keep ${path}`);
  }
  return 0;
}

function usage(): string {
  const lines = Object.entries(COMMANDS).map(([name, { help }]) => `  ${name.padEnd(12)} ${help}`);
  return `usage: noxctl COMMAND [--dry-run] [--source TREE]\n${lines.join('\n')}\n`;
}

/** The tree that this program is a part of. */
const OWN_TREE = join(import.meta.dirname, '../..');

async function main(): Promise<number> {
  const [name = '', ...rest] = process.argv.slice(2);
  const command = COMMANDS[name];
  if (command === undefined) {
    process.stderr.write(usage());
    return 2;
  }
  process.umask(0o022);
  const own = command.ownOptions === true;
  const { values, positionals } = parseArgs({
    options: OPTIONS,
    allowPositionals: true,
    args: own ? [] : rest,
  });
  const words = own ? rest : positionals;
  const dryRun = values['dry-run'];
  if (command.locks && !dryRun) {
    if (process.getuid?.() !== 0) throw new Error(`${name} changes the machine: run it as root (sudo)`);
    if (process.env[LOCKED] === undefined) return startLocked(name);
    writeFileSync(LOCK, `${name}, process ${String(process.pid)}\n`);
  }
  const host = new Host();
  const order: Order = {
    ...{ host, source: values.source ?? OWN_TREE, now: new Date(), say, dryRun },
    ...(values['fail-at'] === undefined ? {} : { failAt: Number(values['fail-at']) }),
    ...(values['die-at'] === undefined ? {} : { dieAt: Number(values['die-at']) }),
  };
  return command.run({ host, order, purge: values.purge, words });
}

/** @returns the exit code of this program, started again with the lock held */
function startLocked(name: string): number {
  mkdirSync(STATE, { recursive: true, mode: 0o700 });
  if (!existsSync(LOCK)) writeFileSync(LOCK, '', { mode: 0o600 });
  const held = readFileSync(LOCK, 'utf8').trim();
  const words = [
    '--nonblock',
    `--conflict-exit-code=${String(BUSY)}`,
    LOCK,
    process.execPath,
    ...process.argv.slice(1),
  ];
  const { status: code, signal } = spawnSync('flock', words, {
    stdio: 'inherit',
    env: { ...process.env, [LOCKED]: '1' },
  });
  if (code === BUSY) {
    process.stderr.write(`nox: ${name}: another command is at work (${held}); wait for its end\n`);
  }
  return code ?? (signal === null ? 1 : 128);
}

// A reader that goes away (`| head`) must not end a command in the middle of its work.
process.stdout.on('error', () => undefined);
try {
  process.exitCode = await main();
} catch (error) {
  const { message, code } = error as NodeJS.ErrnoException;
  process.stderr.write(`nox: ${message}${code === 'EACCES' ? ': only root may do this (sudo)' : ''}\n`);
  process.exitCode = 1;
}
