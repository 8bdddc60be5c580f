/** Facts about the machine and its users: what Nox needs to find there. */
import { readFileSync } from 'node:fs';
import { readable } from '../runner/host.ts';
import { bad, fact, judge, ok, REPAIR, ROOT, type Context, type Fact } from './fact.ts';
import type { Step } from './steps.ts';

export function systemd(): Fact {
  return fact({
    name: 'systemd',
    remedy: 'install on a machine that systemd has booted; anywhere else: make run',
    check: ({ host }) =>
      host.entry('/run/systemd/system')?.kind === 'directory'
        ? ok('running')
        : bad('it is not process 1 here'),
  });
}

/** cgroups(7): `cgroup.controllers` is in the root of version 2 alone. */
export function cgroup(): Fact {
  return fact({
    name: 'cgroup v2',
    remedy:
      'boot with systemd.unified_cgroup_hierarchy=1: the limits of runs need memory, pids and cpu of cgroup v2',
    check: ({ host }) => {
      const found = host.text('/sys/fs/cgroup/cgroup.controllers')?.trim();
      if (found === undefined) return bad('/sys/fs/cgroup is not cgroup v2');
      const missing = ['cpu', 'memory', 'pids'].filter((name) => !found.split(' ').includes(name));
      return missing.length === 0 ? ok(found) : bad(`no controller ${missing.join(', ')}`);
    },
  });
}

export function packages(): Fact {
  const missing = ({ host, desired }: Context): string[] =>
    desired.packages.filter(
      (name) => host.run(['dpkg-query', '-W', '-f', '${db:Status-Status}', name]).stdout !== 'installed',
    );
  return fact({
    name: 'packages',
    remedy: 'apt-get install the packages named',
    check: (context) =>
      judge(
        missing(context).map((name) => `${name} is missing`),
        context.desired.packages.join(' '),
      ),
    // Within an installation by dpkg, which holds its own lock (deb-postinst(5)), there is no other.
    plan: (context) =>
      process.env['DPKG_MAINTSCRIPT_NAME'] === undefined ? [{ do: 'packages', names: missing(context) }] : [],
  });
}

/** Switches that keep everybody but root from making user namespaces, by distribution. */
const SWITCHES = [
  {
    path: '/proc/sys/kernel/unprivileged_userns_clone',
    bad: '0',
    name: 'kernel.unprivileged_userns_clone',
    good: '1',
  },
  { path: '/proc/sys/user/max_user_namespaces', bad: '0', name: 'user.max_user_namespaces', good: '15000' },
] as const;
const APPARMOR_SWITCH = '/proc/sys/kernel/apparmor_restrict_unprivileged_userns';
const APPARMOR_PROFILE = '/etc/apparmor.d/nox-bwrap';
/** Ubuntu 24.04: a program may make user namespaces if a profile of its own says so. */
const APPARMOR_TEXT = `abi <abi/4.0>,
include <tunables/global>
# Nox: bubblewrap makes the sandboxes of the runs.
profile nox-bwrap /usr/bin/bwrap flags=(unconfined) {
  userns,
}
`;
/** Sorts behind what hardening guides tell to put into 99-*.conf (sysctl.d(5): the last one counts). */
const SYSCTL_FILE = '/etc/sysctl.d/99-zz-nox.conf';

export function userNamespaces(): Fact {
  const switches = () =>
    SWITCHES.filter(({ path, bad: value }) => readable(path) && readFileSync(path, 'utf8').trim() === value);
  const restricted = ({ host }: Context) =>
    readable(APPARMOR_SWITCH) &&
    readFileSync(APPARMOR_SWITCH, 'utf8').trim() === '1' &&
    !host
      .names('/etc/apparmor.d')
      .some((name) => host.text(`/etc/apparmor.d/${name}`)?.includes('/usr/bin/bwrap '));
  return fact({
    name: 'user namespaces',
    check: (context) => {
      const faults = switches().map(({ name, bad: value }) => `${name} is ${value}`);
      if (restricted(context)) faults.push('AppArmor keeps bwrap from them');
      return judge(faults, 'allowed');
    },
    plan: (context) => {
      const found = switches();
      const steps: Step[] = [];
      if (found.length > 0) {
        const text = found.map(({ name, good }) => `${name} = ${good}\n`).join('');
        steps.push({ do: 'file', path: SYSCTL_FILE, text, mode: 0o644, ...ROOT });
        steps.push({
          do: 'command',
          argv: ['sysctl', '-q', '-p', SYSCTL_FILE],
          why: 'allow user namespaces',
        });
      }
      if (restricted(context)) {
        steps.push({ do: 'file', path: APPARMOR_PROFILE, text: APPARMOR_TEXT, mode: 0o644, ...ROOT });
        steps.push({
          do: 'command',
          argv: ['apparmor_parser', '-r', APPARMOR_PROFILE],
          why: 'allow them to bwrap',
        });
      }
      return steps;
    },
  });
}

export function user(name: string): Fact {
  return fact({
    name: `user ${name}`,
    remedy: `${REPAIR}; a user with uid 0 is for you to rename or remove`,
    check: ({ host }) => {
      const found = host.user(name);
      if (found === undefined) return bad('missing');
      const faults: string[] = [];
      if (found.uid === 0) faults.push('uid is 0');
      if (!/(^|\/)(nologin|false)$/.test(found.shell)) faults.push(`login shell ${found.shell}`);
      if (found.gid !== host.group('nox')?.gid) faults.push('primary group is not nox');
      return judge(faults, `uid ${String(found.uid)}, group nox, no login`);
    },
    plan: () => [{ do: 'user', name, group: 'nox', home: name === 'nox' ? '/home/nox' : '/nonexistent' }],
    restarts: true,
  });
}
