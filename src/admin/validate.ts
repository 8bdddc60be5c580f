/**
 * `validate` on an installed machine: every fact, what is in force in the running processes, and attempts to escape
 * from a real run. It changes nothing.
 */
import { readFileSync } from 'node:fs';
import type { Check } from '../runner/check.ts';
import { escapeChecks, PROBES } from '../runner/escapes.ts';
import { API_UNIT } from './legacy.ts';
import type { Context, Judged } from './fact.ts';
import type { Host } from './host.ts';
import { baseUrl, bounded, CALL_SECONDS, health, selfTest } from './selftest.ts';

/** What systemd says of the gateway's unit when the lines of the contract are in force. */
const IN_FORCE: Readonly<Record<string, string>> = {
  ProtectSystem: 'strict',
  ProtectHome: 'read-only',
  NoNewPrivileges: 'yes',
  PrivateTmp: 'yes',
  ReadWritePaths: '/home/nox/nox/sandbox /home/nox/nox/logs',
  ProtectKernelTunables: 'yes',
  ProtectKernelModules: 'yes',
  ProtectControlGroups: 'yes',
  RestrictNamespaces: 'yes',
  RestrictRealtime: 'yes',
  MemoryDenyWriteExecute: 'yes',
};
const SOCKET_DIRECTORY = '/run/nox-runner';

export function judged({ fact, finding }: Judged): Check {
  return { name: fact.name, pass: finding.pass, value: finding.value, remedy: fact.remedy };
}

/** What is true of the services as they run now. */
export async function checkRunning({ host, desired }: Context): Promise<Check[]> {
  const { config } = desired;
  const said = await health(config);
  const checks = [
    hardening(host),
    processOf(host, 'nox-api.service', 'nox'),
    processOf(host, 'nox-runner.service', 'nox-runner'),
    socket(host),
    {
      name: 'health',
      pass: said.ok,
      value: `${baseUrl(config)}: ${said.said}`,
      remedy: 'noxctl repair; the reason is in journalctl -u nox-runner -u nox-api',
    },
  ];
  if (!said.ok) return checks;
  return [...checks, await calls({ host, desired }), ...(await escapes(config))];
}

function hardening(host: Host): Check {
  const names = Object.keys(IN_FORCE);
  const { stdout } = host.run([
    'systemctl',
    'show',
    'nox-api.service',
    ...names.map((name) => `--property=${name}`),
  ]);
  const shown = Object.fromEntries(
    stdout.split('\n').map((line) => line.split(/=(.*)/s) as [string, string]),
  );
  const wrong = names.filter((name) => shown[name] !== IN_FORCE[name]);
  return {
    name: 'hardening',
    pass: wrong.length === 0,
    value:
      wrong.length === 0
        ? `${String(names.length)} directives in force`
        : wrong.map((name) => `${name} is ${shown[name] || 'not set'}`).join('; '),
    remedy: host.text(API_UNIT) === undefined ? 'noxctl install' : 'noxctl harden',
  };
}

/** proc_pid_status(5): who it is, no capability, no way to more, a filter. */
function processOf(host: Host, unit: string, user: string): Check {
  const pid = host.run(['systemctl', 'show', '--property=MainPID', '--value', unit]).stdout.trim();
  const status = pid === '' || pid === '0' ? undefined : statusOf(pid);
  const name = `process of ${unit.replace('.service', '')}`;
  const remedy = `systemctl restart ${unit}; noxctl repair`;
  if (status === undefined) return { name, pass: false, value: 'not running', remedy };
  const uid = String(host.user(user)?.uid);
  const faults = [
    ...(status['Uid'] === uid ? [] : [`runs as uid ${String(status['Uid'])}, not ${user}`]),
    ...(/^0+$/.test(status['CapEff'] ?? '') && /^0+$/.test(status['CapBnd'] ?? '')
      ? []
      : ['has capabilities']),
    ...(status['NoNewPrivs'] === '1' ? [] : ['can win privileges']),
    ...(status['Seccomp'] === '2' ? [] : ['has no system call filter']),
  ];
  return {
    ...{ name, remedy },
    pass: faults.length === 0,
    value: faults.join('; ') || `pid ${pid}, user ${user}, no capability, filtered`,
  };
}

function statusOf(pid: string): Record<string, string> | undefined {
  try {
    const lines = readFileSync(`/proc/${pid}/status`, 'utf8').split('\n');
    return Object.fromEntries(lines.map((line) => line.split(/[:\s]+/, 2) as [string, string]));
  } catch {
    return undefined;
  }
}

function socket(host: Host): Check {
  const directory = host.entry(SOCKET_DIRECTORY);
  const path = `${SOCKET_DIRECTORY}/runner.sock`;
  const entry = host.entry(path);
  const owner = host.user('nox-runner')?.uid;
  const group = host.group('nox')?.gid;
  const faults: string[] = [];
  if (entry === undefined) faults.push(`${path} is missing`);
  else if (entry.uid !== owner || entry.gid !== group || (entry.mode & 0o007) !== 0)
    faults.push(`${path} is open to others`);
  if (directory !== undefined && (directory.uid !== owner || (directory.mode & 0o027) !== 0))
    faults.push(`${SOCKET_DIRECTORY} is open to others`);
  return {
    name: 'socket',
    pass: faults.length === 0,
    value: faults.join('; ') || `${path}, for the gateway alone`,
    remedy: 'systemctl restart nox-runner nox-api',
  };
}

async function calls({ host, desired }: Pick<Context, 'host' | 'desired'>): Promise<Check> {
  const remedy = 'journalctl -u nox-runner -u nox-api says why; noxctl repair';
  try {
    return { name: 'calls', pass: true, value: (await selfTest(host, desired.config)).join(' '), remedy };
  } catch (error) {
    return { name: 'calls', pass: false, value: (error as Error).message, remedy };
  }
}

/** The attempts are made by a run like any other, through the API. */
async function escapes(config: Context['desired']['config']): Promise<Check[]> {
  try {
    const response = await fetch(`${baseUrl(config)}/run_py`, {
      method: 'POST',
      headers: { authorization: `Bearer ${config.token}` },
      body: JSON.stringify({ code: PROBES }),
      signal: AbortSignal.timeout(CALL_SECONDS * 1000),
    });
    const { stdout = '', stderr = '' } = JSON.parse(await bounded(response)) as {
      stdout?: string;
      stderr?: string;
    };
    return escapeChecks(stdout, stderr.trim());
  } catch (error) {
    return escapeChecks('', (error as Error).message);
  }
}
