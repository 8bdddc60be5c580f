/**
 * The sandbox that bubblewrap builds: a pure function from what a run needs to bwrap's arguments.
 *
 * What is not listed here does not exist for a run: no /home, /root, /opt, /var, /srv, /sys, no host /etc beyond
 * ETC. `zygote.py` adds what needs a place of its own in each run (/tmp, /proc, /dev/shm, the code). Of the capabilities
 * that it is given for that (in the sandbox's user namespace) a run has none: its own namespace is below.
 */

import type { Shown } from './launch.ts';

/**
 * What programs need of the host's /etc: the linker's cache, names behind /usr's links, public certificates, time
 * zone, fonts, tables of names. Nothing here holds a secret on Debian and Ubuntu (all are mode 0644 by default).
 */
export const ETC = [
  '/etc/alternatives',
  '/etc/fonts',
  '/etc/ld.so.cache',
  '/etc/localtime',
  '/etc/mime.types',
  '/etc/protocols',
  '/etc/services',
  '/etc/ssl/certs',
  '/etc/ssl/openssl.cnf',
] as const;

/** Files that every run sees in place of the host's: it knows one user, itself. */
export const OWN_ETC: Readonly<Record<string, string>> = {
  passwd: 'nox:x:1000:1000:nox:/tmp:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n',
  group: 'nox:x:1000:\nnogroup:x:65534:\n',
  hosts: '127.0.0.1\tlocalhost nox\n::1\tlocalhost\n',
  hostname: 'nox\n',
  'nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n',
};

const DEVICES = ['null', 'zero', 'full', 'random', 'urandom', 'tty'];
const DEVICE_LINKS = {
  fd: '/proc/self/fd',
  stdin: '/proc/self/fd/0',
  stdout: '/proc/self/fd/1',
  stderr: '/proc/self/fd/2',
  core: '/proc/kcore',
  ptmx: 'pts/ptmx',
};

export interface SandboxPlan {
  /** Where the workspace is, and where runs see it; both absolute. */
  readonly workspace: Shown;
  /** Directory with the files of OWN_ETC. */
  readonly etcDir: string;
  /** Where the zygote's program is, and where the zygote is to see it. */
  readonly zygote?: { readonly from: string; readonly at: string } | undefined;
  /** Entries of the host's root that are links into /usr on a merged-usr system: name → target. */
  readonly rootLinks: ReadonlyMap<string, string>;
  /** Entries of ETC that exist on this host. */
  readonly etc: readonly string[];
  /** A virtual environment outside /usr, shown read-only at its own path. */
  readonly venv: string | undefined;
  /** The program of Nox's own Node on this host, if the runner's user can reach it: runs see it as NODE. */
  readonly node?: string | undefined;
  /** Where the cgroups of the runs are, and where the zygote is to see them. */
  readonly cgroups?: { readonly from: string; readonly at: string } | undefined;
}

/** Where a run finds the Node that Nox itself runs on: one file, for JavaScript and TypeScript. */
export const NODE = '/run/nox/node';

/** Directories of a host's root that hold programs and libraries. */
export const ROOT_DIRS = ['/bin', '/lib', '/lib32', '/lib64', '/libx32', '/sbin'] as const;

/** bwrap's arguments up to, not including, the program that it starts. */
export function sandboxArguments(plan: SandboxPlan): string[] {
  const roots = [...plan.rootLinks].flatMap(([path, target]) => ['--symlink', target, path]);
  const etc = plan.etc.flatMap((path) => ['--ro-bind', path, path]);
  const ownEtc = Object.keys(OWN_ETC).flatMap((name) => [
    '--ro-bind',
    `${plan.etcDir}/${name}`,
    `/etc/${name}`,
  ]);
  return [
    // Each by name: `--unshare-all` would go on without a cgroup namespace. Programs that join a cgroup of their own
    // take a namespace after that: one from here would not let them.
    ...['--unshare-user', '--unshare-pid', '--unshare-ipc', '--unshare-uts', '--unshare-net'],
    ...(plan.cgroups === undefined ? ['--unshare-cgroup'] : []),
    ...['--hostname', 'nox'],
    // A new session has no controlling terminal: TIOCSTI has nothing to push into.
    ...['--die-with-parent', '--new-session', '--as-pid-1'],
    // For mounts and namespaces, for its network namespaces, and for giving capabilities up. They are held in the
    // namespace that owns all others only if bwrap makes no second one: hence no other uid than the runner's, and not
    // bwrap's own /dev, whose devpts it mounts as root.
    ...[
      '--cap-drop',
      'ALL',
      ...['CAP_SYS_ADMIN', 'CAP_NET_ADMIN', 'CAP_SETPCAP'].flatMap((name) => ['--cap-add', name]),
    ],
    ...['--ro-bind', '/usr', '/usr', '--perms', '0755', '--dir', '/etc', ...roots, ...etc, ...ownEtc],
    ...['--proc', '/proc', '--tmpfs', '/dev', '--dir', '/tmp', '--dir', '/run'],
    ...DEVICES.flatMap((name) => ['--dev-bind', `/dev/${name}`, `/dev/${name}`]),
    ...['--dir', '/dev/shm', '--dir', '/dev/pts'],
    ...Object.entries(DEVICE_LINKS).flatMap(([name, target]) => ['--symlink', target, `/dev/${name}`]),
    ...(plan.venv === undefined ? [] : ['--ro-bind', plan.venv, plan.venv]),
    ...(plan.node === undefined ? [] : ['--ro-bind', plan.node, NODE]),
    ...(plan.zygote === undefined ? [] : ['--ro-bind', plan.zygote.from, plan.zygote.at]),
    ...(plan.cgroups === undefined ? [] : ['--bind', plan.cgroups.from, plan.cgroups.at]),
    ...['--bind', plan.workspace.from, plan.workspace.at],
    // Both are tmpfs without a size, owned by the run's user: writable they would be memory that no limit sees.
    ...['--remount-ro', '/dev', '--remount-ro', '/'],
  ];
}
