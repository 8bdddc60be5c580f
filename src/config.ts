/**
 * Every setting: one schema, the only reader of the environment.
 *
 * Gateway and runner read the same file on an installed machine, so that an unknown `NOX_*` name is judged
 * against all settings by both. docs/configuration.md repeats this table; test/unit/docs.test.ts holds it to it.
 */
import { availableParallelism } from 'node:os';
import { parseBlock, words } from './addresses.ts';
import { LIMIT_NAMES, LIMITS, type LimitRow, type Limits } from './protocol/limits.ts';

const MIB = 1024 * 1024;

interface Common {
  readonly meaning: string;
  readonly secret?: true;
}
interface NumberSetting extends Common {
  readonly kind: 'number';
  readonly unit: 'seconds' | 'bytes' | 'count';
  readonly default: number;
  readonly minimum: number;
  readonly maximum: number;
}
interface TextSetting extends Common {
  readonly kind: 'text';
  readonly default: string;
  readonly pattern?: { test(text: string): boolean };
  /** What the pattern means, for the message. */
  readonly shape?: string;
}
export type Setting = NumberSetting | TextSetting;

const ABSOLUTE = /^(\/(?!\.{1,2}(?:\/|$))[^/\0]+)+$/;
const OPTIONAL_ABSOLUTE = new RegExp(`^$|${ABSOLUTE.source}`);
const SWITCH = /^(on|off)$/;
const BLOCKS = { test: (text: string) => words(text).every((word) => parseBlock(word) !== undefined) };

export const SETTINGS = {
  NOX_API_TOKEN: {
    kind: 'text',
    default: '',
    secret: true,
    pattern: /^[\x21-\x7e]{0,512}$/,
    shape: 'at most 512 printable ASCII characters without spaces',
    meaning: 'The bearer token. Required by the gateway; the runner neither needs nor reads it',
  },
  NOX_SANDBOX: {
    kind: 'text',
    default: '/home/nox/nox/sandbox',
    pattern: ABSOLUTE,
    shape: 'an absolute path',
    meaning: 'The default workspace',
  },
  NOX_WORKSPACES: {
    kind: 'text',
    default: '/var/lib/nox-runner/workspaces',
    pattern: ABSOLUTE,
    shape: 'an absolute path',
    meaning: 'Directory of all other workspaces and of the snapshots, for the runner alone',
  },
  NOX_BIND_ADDR: {
    kind: 'text',
    default: '127.0.0.1',
    pattern: /^[0-9A-Za-z.:%_-]+$/,
    shape: 'an address or a host name',
    meaning: 'Address on which the gateway listens',
  },
  NOX_PORT: {
    kind: 'number',
    unit: 'count',
    default: 8080,
    minimum: 0,
    maximum: 65_535,
    meaning: 'Port on which the gateway listens; 0 takes a free one',
  },
  NOX_TRUSTED_PROXY: {
    kind: 'text',
    default: '',
    pattern: BLOCKS,
    shape: 'addresses or blocks such as 10.0.0.0/8, separated by spaces',
    meaning:
      'Reverse proxies whose `X-Forwarded-For` is believed. Default: none, the client is who opened the connection',
  },
  NOX_AUDIT_FILE: {
    kind: 'text',
    default: '',
    pattern: OPTIONAL_ABSOLUTE,
    shape: 'an absolute path',
    meaning:
      'File to which every call that runs or changes something is written, and every refused token. Default: none',
  },
  NOX_STATE: {
    kind: 'text',
    default: '/var/lib/nox-api',
    pattern: ABSOLUTE,
    shape: 'an absolute path',
    meaning: "The gateway's own directory: its database of tokens, runs and usage. Only its user can read it",
  },
  NOX_BACKGROUND_QUEUE: {
    kind: 'number',
    unit: 'count',
    default: 10_000,
    minimum: 0,
    maximum: 1_000_000,
    meaning: 'Runs in the background that may wait; one more is refused with 429 `queue_full`',
  },
  NOX_KEEP_OUTPUT: {
    kind: 'number',
    unit: 'bytes',
    default: 64 * MIB,
    minimum: 1024,
    maximum: 1024 * 1024 * MIB,
    meaning:
      'What is kept on disk of the events of one run in the background; output leaves 64 MiB of the disk free, or a tenth of a small one',
  },
  NOX_KEEP_OUTPUT_ALL: {
    kind: 'number',
    unit: 'bytes',
    default: 4096 * MIB,
    minimum: 1024,
    maximum: 16_384 * 1024 * MIB,
    meaning: 'The same of all of them together; the oldest that have ended make room',
  },
  NOX_WEBHOOK: {
    kind: 'text',
    default: 'off',
    pattern: SWITCH,
    shape: 'on or off',
    meaning:
      'on lets runs in the background tell their end to an http or https address of the public network',
  },
  NOX_WEBHOOK_ALLOW: {
    kind: 'text',
    default: '',
    pattern: BLOCKS,
    shape: 'addresses or blocks such as 10.0.0.0/8, separated by spaces',
    meaning: 'Addresses that webhooks may reach though they are not of the public network. Default: none',
  },
  NOX_KEEP_RUNS: {
    kind: 'number',
    unit: 'count',
    default: 100_000,
    minimum: 0,
    maximum: 100_000_000,
    meaning: 'Ended runs that are kept in it; fewer where the database would grow beyond 1 GiB',
  },
  NOX_KEEP_DAYS: {
    kind: 'number',
    unit: 'count',
    default: 30,
    minimum: 0,
    maximum: 36_500,
    meaning: 'Days for which ended runs, and tokens that were revoked, are kept in it',
  },
  NOX_METRICS_ADDR: {
    kind: 'text',
    default: '',
    pattern: /^$|^(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+):\d{1,5}$/,
    shape: 'an address or a host name with a port, such as 127.0.0.1:9464',
    meaning:
      'Address on which /metrics is served without a token, for loopback or a private network. Default: none, /metrics needs a token with the scope admin',
  },
  NOX_OTLP_ENDPOINT: {
    kind: 'text',
    default: '',
    pattern: /^$|^https?:\/\/[^\s"'\\]+$/,
    shape: 'an http or https address',
    meaning:
      'Where traces are sent, as OTLP over HTTP in JSON, such as http://127.0.0.1:4318/v1/traces. Default: none',
  },
  NOX_RUNNER_SOCKET: {
    kind: 'text',
    default: '/run/nox-runner/runner.sock',
    pattern: ABSOLUTE,
    shape: 'an absolute path',
    meaning: 'Socket between gateway and runner, where they are two processes',
  },
  NOX_PYTHON: {
    kind: 'text',
    default: '',
    pattern: OPTIONAL_ABSOLUTE,
    shape: 'an absolute path',
    meaning:
      'Python of the runs, in /usr or in a virtual environment. Default: /opt/nox/.venv/bin/python3 if it is there, else /usr/bin/python3',
  },
  NOX_PYTHON_JIT: {
    kind: 'text',
    default: 'off',
    pattern: SWITCH,
    shape: 'on or off',
    meaning: 'on lets /run_py map memory that is writable and executable (numba, torch.compile need it)',
  },
  NOX_RUNTIMES: {
    kind: 'text',
    default: '/etc/nox/runtimes',
    pattern: ABSOLUTE,
    shape: 'an absolute path',
    meaning: 'Directory with the administrator’s own runtimes, one JSON file each; it need not exist',
  },
  NOX_WARM: {
    kind: 'text',
    default: 'on',
    pattern: SWITCH,
    shape: 'on or off',
    meaning: 'off gives every /run_py a new interpreter; on, a copy of one that stands ready',
  },
  NOX_PYTHON_PRELOAD: {
    kind: 'text',
    default: '',
    pattern: /^[A-Za-z0-9_. ]*$/,
    shape: 'names of Python packages, separated by spaces',
    meaning: 'Packages of the interpreter that are loaded ahead, so that importing them costs a run nothing',
  },
  NOX_PYTHON_PACKAGES: {
    kind: 'text',
    default: '',
    pattern: /^[A-Za-z0-9_.,<>=!~[\]:;@+\- ]*$/,
    shape: "pip's requirements, separated by spaces, each with its `--hash=…` after it where wanted",
    meaning: 'Packages that `make install` puts into the environment of the runs',
  },
  NOX_PYTHON_INDEX: {
    kind: 'text',
    default: '',
    pattern: /^$|^https?:\/\/[^\s"'\\]+$|^\/[^\s"'\\]*$/,
    shape: 'an http or https address, or an absolute path',
    meaning:
      "Where they come from: a package index, or a directory of wheels. Default: Debian's own packages (python3-…)",
  },
  NOX_WARM_MEMORY: {
    kind: 'number',
    unit: 'bytes',
    default: 512 * MIB,
    minimum: MIB,
    maximum: 16_384 * 1024 * MIB,
    meaning: 'Memory of all idle warm interpreters; beyond it the longest unused are put away',
  },
  NOX_WARM_IDLE: {
    kind: 'number',
    unit: 'seconds',
    default: 600,
    minimum: 1,
    maximum: 86_400,
    meaning: 'How long a warm interpreter may be idle before it is put away',
  },
  NOX_CGROUP: {
    kind: 'text',
    default: 'auto',
    pattern: /^(auto|required|off)$/,
    shape: 'auto, required or off',
    meaning:
      'Limits by cgroup v2: where it can be had (auto), or refuse to start (required), or rlimits and a watcher (off)',
  },
  NOX_RUN_UID: {
    kind: 'number',
    unit: 'count',
    default: 60_600,
    minimum: 1,
    maximum: 4_294_967_293,
    meaning: 'User and group id that a runner started as root takes on before it does anything else',
  },
  NOX_API_UID: {
    kind: 'number',
    unit: 'count',
    default: 60_601,
    minimum: 1,
    maximum: 4_294_967_293,
    meaning: 'User id that a gateway of its own process takes on when it is started as root',
  },
  NOX_FORBIDDEN: {
    kind: 'text',
    default: 'rm reboot shutdown mkfs dd mount umount kill pkill sudo',
    meaning: 'First words that /run_sh refuses, separated by spaces; empty: none',
  },
  NOX_SLOTS: {
    kind: 'number',
    unit: 'count',
    default: Math.max(2, availableParallelism()),
    minimum: 1,
    maximum: 1024,
    meaning: 'Runs at one time. Default: the number of cores, at least 2',
  },
  NOX_QUEUE: {
    kind: 'number',
    unit: 'count',
    default: 128,
    minimum: 0,
    maximum: 100_000,
    meaning: 'Runs that may wait for a slot; one more is refused with 429 `queue_full`',
  },
  NOX_QUEUE_WAIT: {
    kind: 'number',
    unit: 'seconds',
    default: 60,
    minimum: 0.1,
    maximum: 86_400,
    meaning: 'How long a run may wait for a slot before it is refused with 503 `queue_timeout`',
  },
  NOX_MAX_BODY: {
    kind: 'number',
    unit: 'bytes',
    default: 8 * MIB,
    minimum: 1024,
    maximum: 256 * MIB,
    meaning: 'Size of a JSON body',
  },
  NOX_MAX_UPLOAD: {
    kind: 'number',
    unit: 'bytes',
    default: 1024 * MIB,
    minimum: 1024,
    maximum: 16_384 * 1024 * MIB,
    meaning: 'Size of an uploaded file',
  },
  NOX_STOP_GRACE: {
    kind: 'number',
    unit: 'seconds',
    default: 30,
    minimum: 0,
    maximum: 86_400,
    meaning: 'How long a server that is told to stop lets what is under way come to its end; then it ends it',
  },
  NOX_LOG_LEVEL: {
    kind: 'text',
    default: 'info',
    pattern: /^(fatal|error|warn|info|debug|trace|silent)$/,
    shape: 'fatal, error, warn, info, debug, trace or silent',
    meaning: 'The least severe log line that is written',
  },
  ...limitSettings(),
} as const satisfies Record<string, Setting>;

function limitSettings(): Record<(typeof LIMITS)[keyof typeof LIMITS]['setting'], NumberSetting> {
  const entries = LIMIT_NAMES.map((name) => {
    const row: LimitRow = LIMITS[name];
    return [row.setting, { kind: 'number', ...row }] as const;
  });
  // The entries are the rows of LIMITS, whose names the return type lists.
  return Object.fromEntries(entries) as unknown as ReturnType<typeof limitSettings>;
}

export type SettingName = keyof typeof SETTINGS;
const NAMES = Object.keys(SETTINGS) as SettingName[];

export interface Config {
  readonly token: string;
  readonly sandbox: string;
  readonly workspaces: string;
  readonly bindAddress: string;
  readonly port: number;
  readonly trustedProxy: readonly string[];
  readonly auditFile: string;
  readonly state: string;
  readonly backgroundQueue: number;
  /** undefined: no webhooks. */
  readonly webhookAllow: readonly string[] | undefined;
  readonly keep: {
    readonly runs: number;
    readonly days: number;
    readonly outputBytes: number;
    readonly allOutputBytes: number;
  };
  readonly metricsAddress: string;
  readonly otlpEndpoint: string;
  readonly runnerSocket: string;
  readonly python: string;
  readonly pythonJit: boolean;
  readonly runtimes: string;
  readonly warm: {
    readonly on: boolean;
    readonly preload: string;
    readonly memoryBytes: number;
    readonly idleSeconds: number;
  };
  readonly packages: { readonly names: string; readonly index: string };
  readonly cgroup: 'auto' | 'required' | 'off';
  readonly runUid: number;
  readonly apiUid: number;
  readonly forbidden: readonly string[];
  readonly slots: number;
  readonly queue: number;
  readonly queueWaitSeconds: number;
  readonly maxBodyBytes: number;
  readonly maxUploadBytes: number;
  readonly stopGraceSeconds: number;
  readonly logLevel: string;
  readonly limits: Limits;
}

/** Thrown for settings that cannot be used; the message lists every fault, one a line. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

type Values = Record<SettingName, string | number>;
export type Defaults = Partial<Record<SettingName, string>>;
export type Environment = Readonly<Record<string, string | undefined>>;

/** Which process reads the settings: only the one that faces the network needs the token. */
export type Role = 'gateway' | 'runner';

/**
 * @param env where `NOX_*` names are looked up; other names are ignored
 * @param defaults what the caller knows better than the schema (a development server's own paths)
 * @throws ConfigError naming each unknown name, bad value and missing requirement
 */
export function parseConfig(role: Role, env: Environment, defaults: Defaults = {}): Config {
  const faults: string[] = [];
  for (const name of Object.keys(env)) {
    if (name.startsWith('NOX_') && !Object.hasOwn(SETTINGS, name)) {
      faults.push(`${name}: no such setting; docs/configuration.md lists them`);
    }
  }
  const values = Object.fromEntries(
    NAMES.map((name) => [name, parseSetting(name, env[name] ?? defaults[name], faults)]),
  ) as Values;
  if (role === 'gateway' && values.NOX_API_TOKEN === '') {
    faults.push(
      'NOX_API_TOKEN: missing or empty; set it to a secret of your own, for example from `openssl rand -hex 32`',
    );
  }
  if (faults.length > 0) throw new ConfigError(faults.join('\n'));
  return assemble(values);
}

function parseSetting(name: SettingName, text: string | undefined, faults: string[]): string | number {
  const setting: Setting = SETTINGS[name];
  if (text === undefined) return setting.default;
  if (setting.kind === 'text') {
    if (setting.pattern !== undefined && !setting.pattern.test(text)) {
      const shown =
        setting.secret === true ? `a value of ${String(text.length)} characters` : JSON.stringify(text);
      faults.push(`${name}: ${shown} is not ${setting.shape ?? 'valid'}`);
    }
    return text;
  }
  const number = parseNumber(text, setting.unit);
  if (number === undefined || number < setting.minimum || number > setting.maximum) {
    const suffix = setting.unit === 'bytes' ? ' bytes (K, M, G, T for powers of 1024)' : ` ${setting.unit}`;
    const range = `${String(setting.minimum)} to ${String(setting.maximum)}`;
    faults.push(`${name}: ${JSON.stringify(text)} is not a number from ${range}${suffix}`);
    return setting.default;
  }
  return number;
}

const FACTOR: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

function parseNumber(text: string, unit: NumberSetting['unit']): number | undefined {
  const shape = { seconds: /^(\d+(?:\.\d+)?)()$/, count: /^(\d+)()$/, bytes: /^(\d+)([KMGT]?)$/ }[unit];
  const match = shape.exec(text);
  return match === null ? undefined : Number(match[1]) * (FACTOR[match[2] ?? ''] ?? Number.NaN);
}

function assemble(values: Values): Config {
  const text = (name: SettingName) => String(values[name]);
  const number = (name: SettingName) => Number(values[name]);
  return {
    token: text('NOX_API_TOKEN'),
    sandbox: text('NOX_SANDBOX'),
    workspaces: text('NOX_WORKSPACES'),
    bindAddress: text('NOX_BIND_ADDR'),
    port: number('NOX_PORT'),
    trustedProxy: words(text('NOX_TRUSTED_PROXY')),
    auditFile: text('NOX_AUDIT_FILE'),
    state: text('NOX_STATE'),
    backgroundQueue: number('NOX_BACKGROUND_QUEUE'),
    webhookAllow: text('NOX_WEBHOOK') === 'on' ? words(text('NOX_WEBHOOK_ALLOW')) : undefined,
    keep: {
      runs: number('NOX_KEEP_RUNS'),
      days: number('NOX_KEEP_DAYS'),
      outputBytes: number('NOX_KEEP_OUTPUT'),
      allOutputBytes: number('NOX_KEEP_OUTPUT_ALL'),
    },
    metricsAddress: text('NOX_METRICS_ADDR'),
    otlpEndpoint: text('NOX_OTLP_ENDPOINT'),
    runnerSocket: text('NOX_RUNNER_SOCKET'),
    python: text('NOX_PYTHON'),
    pythonJit: text('NOX_PYTHON_JIT') === 'on',
    runtimes: text('NOX_RUNTIMES'),
    warm: {
      on: text('NOX_WARM') === 'on',
      preload: text('NOX_PYTHON_PRELOAD').trim(),
      memoryBytes: number('NOX_WARM_MEMORY'),
      idleSeconds: number('NOX_WARM_IDLE'),
    },
    packages: { names: text('NOX_PYTHON_PACKAGES'), index: text('NOX_PYTHON_INDEX') },
    cgroup: text('NOX_CGROUP') as Config['cgroup'],
    runUid: number('NOX_RUN_UID'),
    apiUid: number('NOX_API_UID'),
    forbidden: words(text('NOX_FORBIDDEN')),
    slots: number('NOX_SLOTS'),
    queue: number('NOX_QUEUE'),
    queueWaitSeconds: number('NOX_QUEUE_WAIT'),
    maxBodyBytes: number('NOX_MAX_BODY'),
    maxUploadBytes: number('NOX_MAX_UPLOAD'),
    stopGraceSeconds: number('NOX_STOP_GRACE'),
    logLevel: text('NOX_LOG_LEVEL'),
    limits: Object.fromEntries(LIMIT_NAMES.map((name) => [name, number(LIMITS[name].setting)])) as Limits,
  };
}

/** The names of settings whose values cannot be used. */
export function badSettings(env: Environment): SettingName[] {
  return NAMES.filter((name) => {
    const faults: string[] = [];
    parseSetting(name, env[name], faults);
    return faults.length > 0;
  });
}

/** What is in force, one `NAME=value` a line, secrets hidden: the answer of `--check-config`. */
export function describeConfig(env: Environment, defaults: Defaults = {}): string {
  return NAMES.map((name) => {
    const setting: Setting = SETTINGS[name];
    const value = parseSetting(name, env[name] ?? defaults[name], []);
    return `${name}=${setting.secret === true ? '(hidden)' : String(value)}`;
  }).join('\n');
}

export function readEnvironment(): Environment {
  return process.env;
}
