/** The doctor: what the machine must have before any code of others runs. One fact a check, one remedy a fact. */
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import type { Config } from '../config.ts';
import type { CgroupState } from './cgroup.ts';
import { BWRAP, choosePython, readable, virtualEnvironment } from './host.ts';
import { loadRuntimes } from './runtime.ts';
import { currentArch } from './seccomp/compile.ts';

export interface Check {
  readonly name: string;
  readonly pass: boolean;
  /** What was found. */
  readonly value: string;
  /** What mends it; meaningful where `pass` is false. */
  readonly remedy: string;
}

/** 5.14: RLIMIT_NPROC counts per user namespace (user_namespaces(7)), so that it can hold for each run. */
const KERNEL_MIN = [5, 14] as const;
/** 0.5.0 knows every option that sandbox.ts uses; Debian 11 has 0.4.1, Ubuntu 22.04 0.6.1, Debian 12 0.8.0. */
const BWRAP_MIN = [0, 5] as const;

export function runChecks(config: Config, cgroup: CgroupState): Check[] {
  return [
    attempt('architecture', currentArch, 'run Nox on x86_64 or aarch64'),
    kernelVersion(),
    notRoot(),
    seccomp(),
    bwrap(),
    userNamespaces(),
    workspace(config.sandbox),
    shelf(config),
    interpreter(choosePython(config.python)),
    preload(choosePython(config.python), config.warm),
    runtimes(config.runtimes),
    cgroupCheck(config, cgroup),
  ];
}

function attempt(name: string, find: () => string, remedy: string): Check {
  try {
    return { name, pass: true, value: find(), remedy };
  } catch (error) {
    return { name, pass: false, value: firstLine(error), remedy };
  }
}

function program(path: string, ...args: string[]): string {
  return execFileSync(path, args, {
    env: {},
    encoding: 'utf8',
    timeout: 10_000,
    stdio: ['ignore', 'pipe', 'pipe'],
  }).trim();
}

function firstLine(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message?: string };
  return (stderr?.trim() || message || String(error)).split('\n')[0] ?? '';
}

function atLeast(version: string, minimum: readonly [number, number]): boolean {
  const [major = 0, minor = 0] = version.match(/\d+/g)?.map(Number) ?? [];
  return major > minimum[0] || (major === minimum[0] && minor >= minimum[1]);
}

function kernelVersion(): Check {
  const value = readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
  const remedy = `boot Linux ${KERNEL_MIN.join('.')} or newer`;
  return { name: 'kernel', pass: atLeast(value, KERNEL_MIN), value, remedy };
}

function notRoot(): Check {
  const uid = process.geteuid?.() ?? 0;
  const remedy = 'start the runner as a user of its own; `make run` as root drops to NOX_RUN_UID';
  return { name: 'user', pass: uid !== 0, value: `uid ${String(uid)}`, remedy };
}

function seccomp(): Check {
  const path = '/proc/sys/kernel/seccomp/actions_avail';
  const remedy = 'boot a kernel with CONFIG_SECCOMP_FILTER=y';
  return attempt('seccomp', () => readFileSync(path, 'utf8').trim(), remedy);
}

function bwrap(): Check {
  const remedy = `apt-get install bubblewrap (${BWRAP_MIN.join('.')} or newer)`;
  const found = attempt('bubblewrap', () => program(BWRAP, '--version'), remedy);
  return found.pass ? { ...found, pass: atLeast(found.value, BWRAP_MIN) } : found;
}

const USERNS_SWITCHES: readonly (readonly [path: string, bad: string, remedy: string])[] = [
  ['/proc/sys/kernel/unprivileged_userns_clone', '0', 'sysctl -w kernel.unprivileged_userns_clone=1'],
  ['/proc/sys/user/max_user_namespaces', '0', 'sysctl -w user.max_user_namespaces=15000'],
  [
    '/proc/sys/kernel/apparmor_restrict_unprivileged_userns',
    '1',
    "give bwrap an AppArmor profile that allows them: printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile bwrap /usr/bin/bwrap flags=(unconfined) {\\n  userns,\\n}\\n' > /etc/apparmor.d/bwrap && apparmor_parser -r /etc/apparmor.d/bwrap",
  ],
];

/** Tried, not inferred: a switch that is set does no harm where bwrap is allowed all the same. */
function userNamespaces(): Check {
  const culprit = USERNS_SWITCHES.find(
    ([path, bad]) => readable(path) && readFileSync(path, 'utf8').trim() === bad,
  );
  const remedy =
    culprit?.[2] ?? 'allow unprivileged user namespaces: see `sysctl user.max_user_namespaces` and AppArmor';
  const args = [
    '--unshare-user',
    '--unshare-pid',
    '--unshare-net',
    '--unshare-ipc',
    '--unshare-uts',
    '--unshare-cgroup',
  ];
  const tried = attempt(
    'user namespaces',
    () => {
      program(
        BWRAP,
        ...args,
        '--uid',
        '1000',
        '--gid',
        '1000',
        '--ro-bind',
        '/',
        '/',
        '--proc',
        '/proc',
        '--dev',
        '/dev',
        '/usr/bin/env',
      );
      return 'bwrap makes all six kinds of namespace';
    },
    remedy,
  );
  if (tried.pass || culprit === undefined) return tried;
  return { ...tried, value: `${tried.value} (${culprit[0]} is ${culprit[1]})` };
}

function workspace(path: string): Check {
  const uid = String(process.geteuid?.());
  const remedy = `make ${path} a directory that uid ${uid} can write: install -d -o ${uid} ${path}; or set NOX_SANDBOX`;
  return attempt(
    'workspace',
    () => {
      if (SYSTEM_PLACES.some((place) => `${path}/`.startsWith(`${place}/`)))
        throw new Error(`${path} is a place of the system`);
      const stats = statSync(path, { throwIfNoEntry: false });
      if (stats === undefined) throw new Error(`${path} does not exist`);
      if (!stats.isDirectory()) throw new Error(`${path} is not a directory`);
      program('/usr/bin/test', '-w', path);
      return path;
    },
    remedy,
  );
}

/** Runs see the sandbox: what is kept of the workspaces must not be in it, nor it among them. */
function shelf({ sandbox, workspaces }: Config): Check {
  const uid = String(process.geteuid?.());
  const remedy = `make ${workspaces} a directory of uid ${uid} alone, apart from NOX_SANDBOX: install -d -m 700 -o ${uid} ${workspaces}; or set NOX_WORKSPACES`;
  return attempt(
    'workspaces',
    () => {
      const [a, b] = [`${sandbox}/`, `${workspaces}/`];
      if (a.startsWith(b) || b.startsWith(a))
        throw new Error(`${workspaces} and ${sandbox} are in one another`);
      const stats = statSync(workspaces, { throwIfNoEntry: false });
      if (stats?.isDirectory() !== true) throw new Error(`${workspaces} is no directory`);
      if (stats.uid !== process.geteuid?.())
        throw new Error(`${workspaces} belongs to uid ${String(stats.uid)}`);
      return workspaces;
    },
    remedy,
  );
}

/** Where the sandbox puts something of its own: a workspace there would hide it or be hidden. */
const SYSTEM_PLACES = [
  '/usr',
  '/etc',
  '/proc',
  '/dev',
  '/sys',
  '/bin',
  '/sbin',
  '/lib',
  '/lib64',
  '/run/nox',
  '/run/nox-runner',
];

function interpreter(python: string): Check {
  const remedy = `apt-get install python3, or set NOX_PYTHON to an interpreter in /usr or in a virtual environment`;
  return attempt(
    'interpreter',
    () => {
      const real = program(
        python,
        '-c',
        'import os,sys; print(os.path.realpath(sys.executable)); print(sys.version.split()[0])',
      );
      const [path = '', version = ''] = real.split('\n');
      const venv = virtualEnvironment(python);
      if (!path.startsWith('/usr/') && (venv === undefined || !path.startsWith(`${venv}/`))) {
        throw new Error(`${python} is ${path}, which runs cannot see`);
      }
      return `${python} (Python ${version})`;
    },
    remedy,
  );
}

function preload(python: string, warm: Config['warm']): Check {
  const remedy = `install the packages of NOX_PYTHON_PRELOAD for ${python} (${JSON.stringify(warm.preload)}), or take out what it cannot import`;
  return attempt(
    'preload',
    () => {
      if (!warm.on) return 'off (NOX_WARM=off)';
      const code = 'import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]';
      if (warm.preload !== '') program(python, '-c', code, ...warm.preload.split(/\s+/));
      return warm.preload || 'no packages';
    },
    remedy,
  );
}

function runtimes(dir: string): Check {
  const remedy = `correct the file or take it away: docs/operations.md, Runtimes`;
  return attempt(
    'runtimes',
    () => {
      const { runtimes, replaced } = loadRuntimes(dir);
      const own = replaced.length > 0 ? `, ${dir} replaces ${replaced.join(', ')}` : '';
      return `${String(runtimes.size)} definitions${own}`;
    },
    remedy,
  );
}

function cgroupCheck(config: Config, cgroup: CgroupState): Check {
  const value = cgroup.available
    ? `v2, ${cgroup.path}`
    : `none (${cgroup.reason}): rlimits and a watcher hold the limits`;
  const remedy = 'start the runner in a systemd unit with Delegate=yes on cgroup v2, or set NOX_CGROUP=auto';
  return { name: 'cgroup', pass: cgroup.available || config.cgroup !== 'required', value, remedy };
}
