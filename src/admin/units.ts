/**
 * The units of an installed Nox: pure functions from a few settings to the texts that systemd reads.
 *
 * docs/decisions/0010-units.md has the reasons that concern all of them, test/vm/units.test.ts the behaviour. A
 * directive that one would expect and that is missing is explained where it would stand.
 */

export interface UnitSettings {
  /** NOX_BIND_ADDR: decides from where the gateway can be reached. */
  readonly bindAddress: string;
  /** NOX_METRICS_ADDR and NOX_OTLP_ENDPOINT, empty for none: where else the gateway is reached, and whom it reaches. */
  readonly metricsAddress: string;
  readonly otlpEndpoint: string;
  /** undefined: there are no webhooks. */
  readonly webhookAllow: readonly string[] | undefined;
  /** NOX_SANDBOX. */
  readonly sandbox: string;
  /** NOX_WORKSPACES. */
  readonly workspaces: string;
  /** NOX_STOP_GRACE, in seconds. */
  readonly stopGraceSeconds: number;
}

/** Name of the file in /etc/systemd/system → its text. */
export type Units = Readonly<Record<(typeof UNIT_NAMES)[number], string>>;

export const UNIT_NAMES = ['nox.slice', 'nox-runner.service', 'nox-api.service'] as const;

/** The gateway's StateDirectory=, and the runner's. */
export const API_STATE = '/var/lib/nox-api';
export const RUNNER_STATE = '/var/lib/nox-runner';
const PROGRAM = '/opt/nox/current';
const SETTINGS_FILE = '/etc/default/nox-api';
/**
 * Beyond the grace: the program's own clean-up (CLEANUP_SECONDS in src/main.ts). A grace that is changed in the
 * settings later is told by the program itself (src/notify.ts).
 */
const STOP_MARGIN_SECONDS = 30;

/** All three, to be written as they are. */
export function makeUnits(settings: UnitSettings): Units {
  return {
    'nox.slice': slice(),
    'nox-runner.service': runner(settings),
    'nox-api.service': gateway(settings),
  };
}

/** Whether an address can be reached only from the machine itself. */
function isLoopback(address: string): boolean {
  return address === 'localhost' || address === '::1' || /^127\.\d+\.\d+\.\d+$/.test(address);
}

/** Through deploy/notify.pl, because Node has no datagram sockets of the unix kind, which sd_notify(3) needs. */
function command(...argv: readonly string[]): string {
  return ['/usr/bin/perl', `${PROGRAM}/deploy/notify.pl`, ...argv].join(' ');
}

const NODE = [`${PROGRAM}/bin/node`, '--max-semi-space-size=2', '--heap-growing-percent=100'] as const;

/** What both services have: how they start, end, and come back. */
function lifecycle({ stopGraceSeconds }: UnitSettings): string {
  return `Type=notify
NotifyAccess=main
WatchdogSec=60
# Also starts again what was killed; but settings that cannot be used (exit code 2) do not mend themselves.
Restart=always
RestartSec=2
RestartPreventExitStatus=2
TimeoutStartSec=180
TimeoutStopSec=${Math.ceil(stopGraceSeconds) + STOP_MARGIN_SECONDS}
# To the server alone: it lets what is under way come to its end.
KillMode=mixed
Slice=nox.slice
EnvironmentFile=${SETTINGS_FILE}
# Memory holds the token, and what programs and clients said.
LimitCORE=0`;
}

/** What costs neither of the two anything. */
const HARDENING = `CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
ProtectClock=yes
RemoveIPC=yes
KeyringMode=private
DevicePolicy=closed
PrivateDevices=yes
PrivateMounts=yes
ProtectProc=invisible
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM`;

function slice(): string {
  return `# The gateway, the runner and all runs.
[Unit]
Description=Nox

[Slice]
# The system, its login and its other services come first where they compete with code of others.
CPUWeight=50
IOWeight=50
# The rest is the system's. Of the memory below, the gateway keeps what nox-runner.service cannot take.
MemoryMax=85%
MemoryMin=96M
`;
}

/** Where the gateway listens, and whom it talks to: settings that name hosts which are not this machine. */
function others({ bindAddress, metricsAddress, otlpEndpoint, webhookAllow }: UnitSettings): string[] {
  const metrics = metricsAddress.slice(0, Math.max(0, metricsAddress.lastIndexOf(':')));
  const otlp = otlpEndpoint === '' ? '' : new URL(otlpEndpoint).hostname;
  const hosts = { NOX_BIND_ADDR: bindAddress, NOX_METRICS_ADDR: metrics, NOX_OTLP_ENDPOINT: otlp };
  const named = Object.entries(hosts)
    .filter(([, host]) => host !== '' && !isLoopback(host.replace(/^\[(.*)\]$/, '$1')))
    .map(([name, host]) => `${name}=${host}`);
  // Whom they are sent to, each run says; the gateway itself keeps them from the local network.
  return webhookAllow === undefined ? named : [...named, 'NOX_WEBHOOK=on'];
}

function network(settings: UnitSettings): string {
  const { bindAddress } = settings;
  const far = others(settings);
  if (far.length === 0) {
    return `# It listens on ${bindAddress}: packets from and to other machines are dropped by the kernel.
IPAddressDeny=any
IPAddressAllow=localhost`;
  }
  return `# IPAddressDeny= is missing: ${far.join(', ')}: there are other machines to be reached, or to be let in. To let in only
# some of them: noxctl firewall ADDRESS... --apply. A drop-in would be put aside by the next install or repair.`;
}

function gateway(settings: UnitSettings): string {
  const online = others(settings).length === 0 ? '' : ' network-online.target';
  return `# Nox's gateway: HTTP, the token, nothing else. It runs no code and writes nothing but its database and its log of calls.
[Unit]
Description=Nox API
# Not Requires=: without the runner it answers, and says so. As it starts after it, it is stopped before it: what is
# under way gets its answer.
Wants=nox-runner.service${online}
After=network.target nox-runner.service${online}
StartLimitIntervalSec=0

[Service]
${lifecycle(settings)}
SyslogIdentifier=nox-api
User=nox
Group=nox
# No just-in-time compiler: it would need memory that is writable and executable.
ExecStart=${command(NODE[0], '--jitless', NODE[1], `${PROGRAM}/dist/gateway/main.js`)}
# /var/lib/nox-api: NOX_STATE, the database.
StateDirectory=nox-api
StateDirectoryMode=0700
UMask=0077

# Runs must not starve it, and it is the last of Nox that the kernel ends for want of memory.
CPUWeight=1000
IOWeight=1000
MemoryMin=96M
OOMScoreAdjust=-500
TasksMax=64
# As its soft limit too: setrlimit(2), by which Node would raise it, is refused below.
LimitNOFILE=65536

ProtectSystem=strict
ProtectHome=read-only
NoNewPrivileges=true
PrivateTmp=true
ReadWritePaths=/home/nox/nox/sandbox /home/nox/nox/logs
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=true
RestrictRealtime=true
MemoryDenyWriteExecute=true

${HARDENING}
PrivateUsers=yes
PrivateIPC=yes
ProtectHostname=yes
ProcSubset=pid
# NoExecPaths=/ is missing: what ExecPaths= then lets be executed would be mounted anew, and ProtectSystem= not hold there.
# Places of the system where everybody may write.
ReadOnlyPaths=/run -/dev/shm
SystemCallFilter=@system-service
# By name: code in memory that MemoryDenyWriteExecute= would not see, and ways past this filter or into other processes.
SystemCallFilter=~@privileged @resources @keyring @aio memfd_create io_uring_setup io_uring_enter io_uring_register process_vm_readv process_vm_writev kcmp userfaultfd
ProtectKernelLogs=yes
RestrictSUIDSGID=yes
# PrivateNetwork= is missing: it serves the network. So is AF_NETLINK: it asks the kernel for no addresses.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
${network(settings)}

[Install]
WantedBy=multi-user.target
`;
}

/** What the runner writes, but for its StateDirectory=. */
function writable({ sandbox, workspaces }: UnitSettings): string {
  return isElsewhere(workspaces) ? `${sandbox} ${workspaces}` : sandbox;
}

/** Whether a directory of workspaces is a place of the administrator's. */
export function isElsewhere(workspaces: string): boolean {
  return !workspaces.startsWith(`${RUNNER_STATE}/`);
}

function runner(settings: UnitSettings): string {
  return `# Nox's runner: makes the sandboxes. It trusts nobody, has no token, no network and no privilege.
[Unit]
Description=Nox runner
StartLimitIntervalSec=0

[Service]
${lifecycle(settings)}
SyslogIdentifier=nox-runner
# A user of its own: what breaks out of everything still cannot signal or read the gateway.
User=nox-runner
# The gateway's group: it opens the socket, and files of the workspace are for both.
Group=nox
UMask=0002
UnsetEnvironment=NOX_API_TOKEN
# env: the limits of runs need the cgroup, whatever ${SETTINGS_FILE} says.
ExecStart=${command('/usr/bin/env', 'NOX_CGROUP=required', ...NODE, `${PROGRAM}/dist/runner/main.js`)}
RuntimeDirectory=nox-runner
RuntimeDirectoryMode=0750
# All workspaces but the default one. Not for the gateway.
StateDirectory=nox-runner
StateDirectoryMode=0700

# A cgroup for each run, below this unit's own.
Delegate=memory pids
# A run that takes too much ends, not the runner.
OOMPolicy=continue
OOMScoreAdjust=200
CPUWeight=50
IOWeight=50
MemoryMax=75%
MemorySwapMax=0
# Above what all runs together may have: each has a limit of its own.
TasksMax=60%
LimitNOFILE=65536:524288
# The pages that each run would copy are pinned.
LimitMEMLOCK=infinity

ProtectSystem=strict
# Of all homes it sees the workspaces alone. In systemd 252 the empty ones can be written: what is there is its own
# memory, and gone with it.
ProtectHome=tmpfs
BindPaths=${writable(settings)}
ReadWritePaths=${writable(settings)}
NoNewPrivileges=true
PrivateTmp=true
PrivateNetwork=yes
ProtectKernelModules=yes
# What ProtectKernelTunables= would do to /sys.
ReadOnlyPaths=/sys
ReadWritePaths=/sys/fs/cgroup
RestrictRealtime=true
${HARDENING}
PrivateUsers=yes
# RestrictSUIDSGID= is missing: it answers openat2(2) with ENOSYS, without which bubblewrap 0.12 (Debian 13) makes no
# sandbox. The filter of each run refuses the modes that it would refuse.
# ProtectHostname= is missing: it refuses sethostname(2), by which each sandbox gets a name of its own.
# ProtectControlGroups= is missing: it makes the cgroups of the runs.
# MemoryDenyWriteExecute= is missing: runs would inherit it, and with it no compiler of theirs (and no Node) would
# work. /run_py has a filter of its own for it (NOX_PYTHON_JIT).
# ProcSubset=, ProtectKernelTunables= and ProtectKernelLogs= are missing: each run has a /proc of its own, which the
# kernel gives only to who sees all of one. bubblewrap 0.8 could look past what the latter two mount there, 0.12 cannot.
# Both keep root from writing, and the runner is not root, not even of its own user namespace.
# Those that sandboxes are made of: of the ones that systemd 252 knows, all.
RestrictNamespaces=user mnt pid ipc uts net cgroup
# AF_INET and AF_INET6: loopbacks of the runs. AF_NETLINK: bubblewrap brings them up with it.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
IPAddressDeny=any
# What runs may call, and what makes sandboxes: mounts, filters, a host name. Each run has a narrower filter.
SystemCallFilter=@system-service @mount @pkey seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self mincore sethostname
SystemCallFilter=~@keyring userfaultfd kcmp process_vm_readv process_vm_writev

[Install]
WantedBy=multi-user.target
`;
}
