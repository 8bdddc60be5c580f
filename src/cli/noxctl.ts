/**
 * The administrator's command; `make install` and the like call it. Each verb is a line of the table below.
 *
 * Those that change the machine are root's, and one at a time: the process starts itself again below flock(1), whose
 * lock ends with it, however it ends.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { parseConfig, type Config } from '../config.ts';
import { applyStep } from '../admin/apply.ts';
import { asideOf, backup, restorePlan, unpack } from '../admin/backup.ts';
import { desire, SETTINGS_FILE } from '../admin/desired.ts';
import { Host } from '../admin/host.ts';
import { interrupted } from '../admin/journal.ts';
import { isUnhardened, timestamp } from '../admin/legacy.ts';
import { CURRENT, isRelease, readRelease, RELEASES } from '../admin/release.ts';
import { FIREWALL_FILE, firewallText, firewallUnit, sshPorts } from '../admin/firewall.ts';
import { proxyCommand } from '../admin/proxy.ts';
import { asEnvironment } from '../admin/settings.ts';
import { status } from '../admin/status.ts';
import { uninstall, uninstallPlan, USERS } from '../admin/uninstall.ts';
import { checkRunning, judged } from '../admin/validate.ts';
import {
  achieve,
  carryOut,
  ensure,
  examine,
  rollback,
  undoInterrupted,
  type Order,
  type Verb,
} from '../admin/verbs.ts';
import { auditCommand } from './audit.ts';
import { plain, printChecks } from './checks.ts';
import { UsageError } from './usage.ts';

/** Not below the state, which `uninstall` takes away while it holds it. */
const LOCK = '/run/nox-admin.lock';
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
  /** Can show what it would do. */
  readonly dryRuns?: true;
  /** Takes a FILE. */
  readonly takesFile?: true;
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
    dryRuns: true,
    run: change('install'),
  },
  harden: {
    help: 'bring an older installation to the hardened state',
    locks: true,
    dryRuns: true,
    run: change('harden'),
  },
  rollback: {
    help: 'back to the state before the last harden',
    locks: true,
    run: ({ host }) => {
      rollback(host, say);
      return 0;
    },
  },
  repair: {
    help: 'find what is broken and mend only that',
    locks: true,
    dryRuns: true,
    run: change('repair'),
  },
  'repair-v2': {
    help: 'the same, and build anew what is broken',
    locks: true,
    dryRuns: true,
    run: change('repair-v2'),
  },
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
    help: 'FILE: settings, tokens and workspaces, for root alone',
    locks: true,
    takesFile: true,
    run: ({ host, words }) => {
      const file = fileOf(words);
      backup(host, file, installedVersion(host), new Date());
      say(`saved settings, tokens and workspaces in ${file}`);
      return 0;
    },
  },
  restore: {
    help: 'FILE: put settings, tokens and workspaces of a backup in place',
    locks: true,
    takesFile: true,
    run: restoreFrom,
  },
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
  audit: {
    help: 'verify [--head SEQ:HASH] [FILE...]: whether a line of the audit file was changed, removed, moved or cut off',
    locks: false,
    ownOptions: true,
    run: ({ host, words }) => auditCommand(words, () => settingsOf(host).auditFile, say),
  },
  uninstall: {
    help: 'take away what install made; --purge: workspaces, settings and users too',
    locks: true,
    dryRuns: true,
    run: remove,
  },
};

function say(line: string): void {
  process.stdout.write(`${plain(line)}\n`);
}

/** The one word of backup and restore, which `refuseWords` has seen to be there. */
const fileOf = ([file = '']: readonly string[]): string => resolve(file);

function installedVersion(host: Host): string {
  return host.linkTarget(CURRENT)?.replace('releases/', '') ?? 'none';
}

async function validate({ host, order }: Call): Promise<number> {
  // Each of them: one that is gone is a damage to be found.
  if (
    [CURRENT, RELEASES, SETTINGS_FILE].every((path) => host.entry(path) === undefined) &&
    !isUnhardened(host)
  ) {
    // Nothing is installed: then it is the machine and this tree that are examined.
    await import('./validate.ts');
    return Number(process.exitCode ?? 0);
  }
  const context = { host, desired: desire(host, order.source), now: order.now, rebuild: false };
  return printChecks([...examine(context).map(judged), ...(await checkRunning(context))]) ? 0 : 1;
}

/** One transaction: what the settings of the backup ask for is made true in it, or all is as it was. */
async function restoreFrom({ host, words, order }: Call): Promise<number> {
  const file = fileOf(words);
  undoInterrupted(host, say);
  if (host.entry(CURRENT) === undefined) throw new Error('restore: install Nox first: noxctl install');
  const stamp = timestamp(order.now);
  const unpacked = unpack(host, file, stamp);
  const { manifest, sandbox, fresh, shelf } = unpacked;
  try {
    await carryOut(
      'restore',
      order,
      restorePlan(host, unpacked, stamp),
      // A later one in the journal: what is undone first.
      () => achieve('repair', { ...order, now: new Date(order.now.getTime() + 1) }),
      false,
    );
  } catch (error) {
    if (interrupted(host).length === 0)
      for (const path of [fresh, ...(shelf === undefined ? [] : [shelf.fresh])])
        rmSync(path, { recursive: true, force: true });
    throw error;
  }
  say(`restored settings, tokens and workspaces of ${manifest.made} (${manifest.version})`);
  const asides = [sandbox, ...(shelf === undefined ? [] : [shelf.path])].map((path) => asideOf(path, stamp));
  say(`what was here is in ${[...asides, `${SETTINGS_FILE}.bak.${stamp}`].join(' and ')}`);
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
  if (host.run(['nft', '--version']).code !== 0)
    throw new Error('firewall: this machine has no nft: apt-get install nftables');
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
    if (purge) for (const user of USERS) say(`would remove user ${user}`);
    for (const path of keep) say(`would keep ${path}`);
  }
  return 0;
}

function usage(): string {
  const lines = Object.entries(COMMANDS).map(([name, { help }]) => `  ${name.padEnd(12)} ${help}`);
  return `usage: noxctl COMMAND [--source TREE]
${lines.join('\n')}
install, harden, repair, repair-v2, uninstall --dry-run: show what would be done
exit codes: 0 done, well; 1 failed, not well; 2 not understood; 3 (status) down; 75 another command is at work
`;
}

function version(): string {
  const { version: number } = JSON.parse(readFileSync(join(OWN_TREE, 'package.json'), 'utf8')) as {
    version: string;
  };
  return number;
}

function parse(name: string, command: Command, rest: readonly string[]) {
  try {
    const options = { options: OPTIONS, allowPositionals: true, args: [...rest] } as const;
    const parsed = parseArgs(command.ownOptions === true ? { ...options, args: [] } : options);
    refuseWords(name, command, command.ownOptions === true ? [] : parsed.positionals);
    if (parsed.values['dry-run'] && command.dryRuns !== true)
      throw new UsageError(`${name} has no --dry-run; nothing was done`);
    if (parsed.values.purge && name !== 'uninstall') throw new UsageError('--purge is for uninstall');
    return parsed;
  } catch (error) {
    if (error instanceof UsageError) throw error;
    // Node's own text goes on to advise what would carry the command out.
    throw new UsageError(`${name}: ${(error as Error).message.split('. ')[0] ?? ''}`);
  }
}

function refuseWords(name: string, { takesFile }: Command, words: readonly string[]): void {
  if (takesFile === true && words.length !== 1)
    throw new UsageError(`name the file of the backup: noxctl ${name} FILE`);
  if (takesFile !== true && words.length > 0)
    throw new UsageError(`${name}: ${words.join(' ')}: is no option of it; nothing was done`);
}

/** The tree that this program is a part of. */
const OWN_TREE = join(import.meta.dirname, '../..');
/** Where the Debian package has its program. */
const PACKAGE = '/usr/lib/nox';

async function main(): Promise<number> {
  const [name = '', ...rest] = process.argv.slice(2);
  if (['help', '--help', '-h'].includes(name) || rest.includes('--help')) {
    say(usage().trimEnd());
    return 0;
  }
  if (name === '--version') {
    say(version());
    return 0;
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined)
    throw new UsageError(
      `${name === '' ? 'name a command' : `no such command: ${name}`}\n${usage().trimEnd()}`,
    );
  process.umask(0o022);
  const { values, positionals } = parse(name, command, rest);
  const words = command.ownOptions === true ? rest : positionals;
  const dryRun = values['dry-run'];
  if (command.locks && !dryRun) {
    if (process.getuid?.() !== 0) throw new Error(`${name} changes the machine: run it as root (sudo)`);
    if (process.env[LOCKED] === undefined) return startLocked(name);
  }
  const host = new Host();
  const order: Order = {
    ...{ host, source: values.source ?? sourceFor(host, name), now: new Date(), say, dryRun },
    ...(values['fail-at'] === undefined ? {} : { failAt: Number(values['fail-at']) }),
    ...(values['die-at'] === undefined ? {} : { dieAt: Number(values['die-at']) }),
  };
  return command.run({ host, order, purge: values.purge, words });
}

/**
 * What is broken is mended from the program that is in use, whatever the clone has become meanwhile: from a whole tree
 * of it where there is one, which the installed one itself may not be any more.
 */
function sourceFor(host: Host, name: string): string {
  const id = host.linkTarget(CURRENT)?.replace('releases/', '') ?? '';
  const installed = join(RELEASES, id);
  const usesInstalled = ['repair', 'repair-v2', 'validate', 'restore'].includes(name);
  if (!usesInstalled || id === '' || !isRelease(installed)) return OWN_TREE;
  const others = [OWN_TREE, ...(isRelease(PACKAGE) ? [PACKAGE] : [])].filter((tree) => tree !== installed);
  return others.find((tree) => readRelease(tree).id === id) ?? installed;
}

/**
 * Says whose the lock is, for whoever finds it taken, before anything slow; exec keeps the process. A full disk must
 * not keep a command from its work.
 */
const NOTE_HOLDER = `(echo "$1, process $$" >"$0") 2>/dev/null; shift; exec "$@"`;

/** @returns the exit code of this program, started again with the lock held */
function startLocked(name: string): number {
  if (!existsSync(LOCK)) writeFileSync(LOCK, '', { mode: 0o600 });
  const words = [
    '--nonblock',
    `--conflict-exit-code=${String(BUSY)}`,
    ...[LOCK, 'sh', '-c', NOTE_HOLDER, LOCK, name],
    process.execPath,
    ...process.argv.slice(1),
  ];
  const { status: code, signal } = spawnSync('flock', words, {
    stdio: 'inherit',
    env: { ...process.env, [LOCKED]: '1' },
  });
  if (code === BUSY) {
    const held = readFileSync(LOCK, 'utf8').trim();
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
  process.stderr.write(
    `nox: ${plain(message)}${code === 'EACCES' ? ': only root may do this (sudo)' : ''}\n`,
  );
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
