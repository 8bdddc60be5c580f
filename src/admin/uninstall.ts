/** Takes away what install has made. Workspaces, tokens, settings and the users who own them stay, unless `purge` is said. */
import { rmSync } from 'node:fs';
import { LOGS, SETTINGS_FILE } from './desired.ts';
import { FIREWALL_FILE } from './firewall.ts';
import { STATE, type Host } from './host.ts';
import { parseSettings } from './settings.ts';
import { isElsewhere, UNIT_NAMES } from './units.ts';
import { SERVICES } from './undo.ts';

const FILES = [
  '/etc/logrotate.d/nox',
  '/usr/local/sbin/noxctl',
  FIREWALL_FILE,
  '/etc/apparmor.d/nox-bwrap',
  '/etc/sysctl.d/99-zz-nox.conf',
];
/** StateDirectory= of its unit: tokens, runs, usage. */
const GATEWAY_STATE = '/var/lib/nox-api';
const SYSTEM = '/etc/systemd/system';
const FIREWALL_UNIT = 'nox-firewall.service';

/**
 * What would go and what would stay, in this order.
 *
 * @returns paths
 */
export function uninstallPlan(
  host: Host,
  purge: boolean,
): { readonly remove: string[]; readonly keep: string[] } {
  const units = [...UNIT_NAMES, FIREWALL_UNIT].map((name) => `${SYSTEM}/${name}`);
  const own = ['/opt/nox', STATE, ...units, ...dropIns(host), ...FILES];
  const copies = host.names('/etc/default').filter((name) => name.startsWith('nox-api.bak.'));
  // With what restores have put aside.
  const states = host.names('/var/lib').filter((name) => /^nox-runner(\.(bak|restore)\.\d+)?$/.test(name));
  const data = [
    ...['/home/nox', GATEWAY_STATE, ...states.map((name) => `/var/lib/${name}`), SETTINGS_FILE],
    ...copies.map((name) => `/etc/default/${name}`),
  ];
  const settings = parseSettings(host.text(SETTINGS_FILE) ?? '');
  const { NOX_SANDBOX: sandbox = '', NOX_WORKSPACES: workspaces = '' } = settings;
  // Places of the administrator's, who may have more in them than runs have made.
  const elsewhere = [
    ...(sandbox === '' || sandbox.startsWith('/home/nox/') ? [] : [sandbox]),
    ...(workspaces !== '' && isElsewhere(workspaces) ? [workspaces] : []),
  ];
  const there = (paths: readonly string[]): string[] =>
    paths.filter((path) => host.entry(path) !== undefined);
  return purge
    ? { remove: there([...own, ...data]), keep: there(elsewhere) }
    : { remove: there(own), keep: there([...data, ...elsewhere]) };
}

function dropIns(host: Host): string[] {
  const ours = /^nox(-api|-runner)?\.(service|slice)\.d(\.bak\.\d+)?$/;
  return host
    .names(SYSTEM)
    .filter((name) => ours.test(name))
    .map((name) => `${SYSTEM}/${name}`);
}

/** Users whom `purge` takes away. */
export const USERS = ['nox-runner', 'nox'] as const;

/** May be repeated: what was interrupted is finished by the next call. */
export function uninstall(host: Host, purge: boolean, say: (line: string) => void): void {
  const { remove, keep } = uninstallPlan(host, purge);
  // The firewall's unit was made by a command of its own, but is of no use without Nox.
  for (const unit of [...SERVICES.toReversed(), FIREWALL_UNIT]) {
    if (host.entry(`${SYSTEM}/${unit}`) === undefined) continue;
    host.run(['systemctl', 'disable', '--now', '--quiet', unit]);
  }
  // Without its unit it would stay until the next boot.
  host.run(['systemctl', 'stop', 'nox.slice']);
  if (host.entry('/etc/apparmor.d/nox-bwrap') !== undefined)
    host.run(['apparmor_parser', '-R', '/etc/apparmor.d/nox-bwrap']);
  for (const path of remove) {
    say(`remove ${path}`);
    // rm(1)'s way: a link is removed, not followed.
    rmSync(host.at(path), { recursive: true, force: true });
  }
  host.run(['systemctl', 'daemon-reload']);
  for (const unit of SERVICES) host.run(['systemctl', 'reset-failed', unit]);
  if (purge) {
    for (const user of USERS) {
      if (host.user(user) === undefined) continue;
      say(`remove user ${user}`);
      host.must(['userdel', user]);
    }
    if (host.group('nox') !== undefined) host.must(['groupdel', 'nox']);
  }
  for (const path of keep) say(`kept: ${path}`);
  if (!purge && keep.length > 0) {
    say(`kept: the users nox and nox-runner, to whom files in ${LOGS.replace(/\/logs$/, '')} belong`);
    const byPackage = process.env['DPKG_MAINTSCRIPT_NAME'] !== undefined;
    say(
      `to take these away as well: ${byPackage ? 'apt-get purge nox' : 'make uninstall ARGS=--purge, in the clone'}`,
    );
  }
}
