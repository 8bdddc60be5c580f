/**
 * The Python environment of the runs, /opt/nox/.venv. It belongs to nox, so nothing of it is ever executed by root:
 * an environment is built, filled and questioned as nox, without a privilege and with an empty environment.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Host, Ran } from './host.ts';
import type { VenvPlan } from './steps.ts';
import { hideSecrets } from './settings.ts';
import { setAttributes } from './undo.ts';

export const VENV = '/opt/nox/.venv';
/** What the environment was built from, beside it and root's, so that a change of the settings is noticed. */
export const VENV_RECORD = '/opt/nox/venv.json';
const PIP_SECONDS = 1800;

function must(result: Ran, what: string): string {
  if (result.code === 0) return result.stdout;
  const said = (result.stderr.trim() || result.stdout.trim()).split('\n').slice(-12).join('\n');
  throw new Error(`${what}: ended with ${String(result.code)}:\n${said}`);
}

export function buildVenv(host: Host, plan: VenvPlan): void {
  const { staging, path, python, owner, group } = plan;
  const real = host.at(staging);
  rmSync(real, { recursive: true, force: true });
  mkdirSync(real, { mode: 0o755 });
  setAttributes(real, { mode: 0o755, uid: host.userId(owner), gid: host.groupId(group) });
  const as = (argv: readonly string[], stdin = '') =>
    host.runAs(owner, group, argv, { stdin, seconds: PIP_SECONDS });
  const system = plan.index === '' ? ['--system-site-packages'] : [];
  must(as([python, '-I', '-m', 'venv', ...system, real]), `build a Python environment at ${staging}`);
  if (plan.from !== undefined) bringPackages(host, plan, as);
  if (plan.index !== '' && plan.requirements !== '') {
    const isPlace = plan.index.startsWith('/');
    const source = isPlace ? ['--no-index', '--find-links', plan.index] : [];
    const hashes = plan.requirements.includes('--hash=') ? ['--require-hashes'] : [];
    const pip = [join(real, 'bin/python3'), '-I', '-m', 'pip', 'install', '--no-input', '--no-cache-dir'];
    const options = [
      '--disable-pip-version-check',
      '--only-binary=:all:',
      ...hashes,
      ...source,
      '-r',
      '/dev/stdin',
    ];
    // In the environment, not on the command line: an address may hold a password, and /proc shows command lines.
    const address = isPlace ? '' : 'read -r PIP_INDEX_URL; export PIP_INDEX_URL; ';
    // Through cat: what we write to is a socket, which cannot be opened as /dev/stdin.
    const shell = ['sh', '-c', `${address}cat | "$@"`, 'sh'];
    must(
      as([...shell, ...pip, ...options], isPlace ? plan.requirements : `${plan.index}\n${plan.requirements}`),
      `install ${plan.requirements.trim()} from ${hideSecrets(plan.index)}`,
    );
  }
  // Programs of the environment name it in their first line, and it will be moved.
  const names = `s|${real}|${path}|g`;
  const program = 'grep -rlIF -- "$1" "$2" | while IFS= read -r file; do sed -i -- "$3" "$file"; done';
  must(as(['sh', '-c', program, 'sh', real, join(real, 'bin'), names]), `rewrite the programs of ${staging}`);
}

/** Of an environment of the same Python version: its packages and their programs, but not what is here already. */
function bringPackages(
  host: Host,
  { from = '', staging, path, python }: VenvPlan,
  as: (argv: readonly string[]) => Ran,
): void {
  const version = must(
    as([python, '-I', '-c', 'import sys; print("python%d.%d" % sys.version_info[:2])']),
    python,
  ).trim();
  const old = join(from, 'lib', version, 'site-packages');
  if (host.entry(old)?.kind !== 'directory') return;
  const copy = ['cp', '-R', '-n', '--no-preserve=ownership'];
  must(
    as([...copy, `${host.at(old)}/.`, host.at(join(staging, 'lib', version, 'site-packages'))]),
    `copy the packages of ${from}`,
  );
  must(
    as([...copy, `${host.at(join(from, 'bin'))}/.`, host.at(join(staging, 'bin'))]),
    `copy the programs of ${from}`,
  );
  const program =
    'grep -rlIF -- "$1/" "$2" | while IFS= read -r file; do sed -i -- "s|$1/|$3/|g" "$file"; done';
  must(
    as(['sh', '-c', program, 'sh', from, host.at(join(staging, 'bin')), path]),
    `rewrite the programs of ${staging}`,
  );
}

/** What an environment says of itself: its prefix and its Python's version. */
export function questionVenv(host: Host, owner: string, group: string, path: string): string {
  const code = 'import sys; print(sys.prefix, "%d.%d.%d" % sys.version_info[:3])';
  return must(
    host.runAs(owner, group, [host.at(join(path, 'bin/python3')), '-I', '-c', code], { seconds: 60 }),
    `${path}/bin/python3`,
  ).trim();
}

/** `3.11.2` of the system's python3, which the environment must be built from. */
export function systemPython(host: Host): string {
  const { code, stdout } = host.run([
    '/usr/bin/python3',
    '-I',
    '-c',
    'import sys; print("%d.%d.%d" % sys.version_info[:3])',
  ]);
  return code === 0 ? stdout.trim() : '';
}

/**
 * Debian's package for a Python package: `python3-<name>`, or the name itself if it is one of Debian's already.
 *
 * @throws Error for a version or a hash: Debian has one version
 */
export function debianPackage(requirement: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(requirement))
    throw new Error(
      `NOX_PYTHON_PACKAGES: ${JSON.stringify(requirement)}: Debian has one version of a package; give its name alone, or name an index in NOX_PYTHON_INDEX`,
    );
  const name = requirement.toLowerCase().replaceAll(/[_.]/g, '-');
  return name.startsWith('python3-') ? name : `python3-${name}`;
}
