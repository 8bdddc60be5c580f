/**
 * The program as it lies in /opt/nox/releases/<id>: what it is made of, what its id is, whether it is whole.
 *
 * The source is a built tree: the clone that `make install` was typed in, or what the Debian package has unpacked.
 * node_modules holds much that only development needs; package-lock.json says what the program itself needs.
 */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import type { Host } from './host.ts';

export const RELEASES = '/opt/nox/releases';
export const CURRENT = '/opt/nox/current';
const MANIFEST = 'manifest.json';
const EXECUTABLE = new Set(['bin/node']);

/** Path in the release → SHA-256, in hexadecimal. */
type Manifest = Readonly<Record<string, string>>;

export interface Release {
  readonly version: string;
  /** Version and content: the same id is the same program. */
  readonly id: string;
  readonly source: string;
  readonly manifest: Manifest;
}

interface Lock {
  readonly packages: Readonly<Record<string, { readonly dev?: boolean; readonly optional?: boolean }>>;
}

/** Of what npm's packages bring: what Node loads, and the licences. */
const LOADED = /\.([cm]?js|json|node)$|^(licen[cs]e|copying|notice)/i;
const ASIDE = new Set([
  'test',
  'tests',
  'docs',
  'example',
  'examples',
  'benchmark',
  'benchmarks',
  'integration',
]);

/** Where each file of a release comes from, by its path in the release. */
function files(source: string): Map<string, string> {
  const found = new Map<string, string>();
  const add = (path: string, wanted: (parts: readonly string[]) => boolean = () => true) => {
    for (const file of filesBelow(join(source, path))) {
      const name = relative(join(source, path), file);
      if (wanted(name.split('/'))) found.set(join(path, name), file);
    }
  };
  add('dist');
  for (const name of ['package.json', 'package-lock.json']) found.set(name, join(source, name));
  add('deploy');
  found.set('bin/node', join(source, isRelease(source) ? 'bin/node' : 'node_modules/node/bin/node'));
  const lock = JSON.parse(readFileSync(join(source, 'package-lock.json'), 'utf8')) as Lock;
  for (const [path, { dev }] of Object.entries(lock.packages))
    if (path !== '' && dev !== true && existsSync(join(source, path)))
      add(path, (parts) => LOADED.test(parts.at(-1) ?? '') && !parts.some((part) => ASIDE.has(part)));
  return found;
}

function readManifest(source: string): Manifest {
  try {
    return JSON.parse(readFileSync(join(source, MANIFEST), 'utf8')) as Manifest;
  } catch (error) {
    throw new Error(
      `${join(source, MANIFEST)}: ${(error as Error).message}: name a whole tree with --source, or reinstall the package`,
      { cause: error },
    );
  }
}

/** What was installed, or what the Debian package has unpacked; not a clone. */
export function isRelease(source: string): boolean {
  return existsSync(join(source, MANIFEST));
}

/** Regular files only: npm's `.bin` links and caches are no part of a program. */
function filesBelow(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    // What is nested below a package has an entry of its own in the lock file.
    if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : filesBelow(path);
    return entry.isFile() && !entry.name.startsWith('.') ? [path] : [];
  });
}

/**
 * A source that is a release itself (an installed one, what the Debian package has unpacked) is what its manifest
 * says, also where it was damaged since: so that the damage is seen, and not installed.
 *
 * @throws Error where the source was not built
 */
export function readRelease(source: string): Release {
  const release = isRelease(source);
  if (!release && !existsSync(join(source, 'dist/cli/noxctl.js')))
    throw new Error(
      `${source} is no built tree of Nox: type make build there, or name another with --source`,
    );
  const manifest = release
    ? readManifest(source)
    : Object.fromEntries(
        [...files(source)].sort(([a], [b]) => (a < b ? -1 : 1)).map(([path, from]) => [path, sha256(from)]),
      );
  const { version } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8')) as { version: string };
  const content = createHash('sha256').update(JSON.stringify(manifest)).digest('hex').slice(0, 12);
  return { version, id: `${version}-${content}`, source, manifest };
}

/**
 * Copies a release whole, root's and nobody else's to write.
 *
 * @throws Error naming a file of the source that is not what it should be
 */
export function copyRelease(host: Host, source: string, path: string): void {
  const target = host.at(path);
  rmSync(target, { recursive: true, force: true });
  const { manifest } = readRelease(source);
  const from = files(source);
  for (const [name, hash] of Object.entries(manifest)) {
    const file = from.get(name);
    const there = file !== undefined && existsSync(file);
    if (!there || sha256(file) !== hash)
      throw new Error(
        `${join(source, name)} ${there ? 'was changed' : 'is missing'}: there is nothing to copy it from; name a whole tree with --source (a clone in which make build was typed), or reinstall the package`,
      );
    const to = join(target, name);
    mkdirSync(dirname(to), { recursive: true, mode: 0o755 });
    copyFileSync(file, to);
    chmodSync(to, EXECUTABLE.has(name) ? 0o755 : 0o644);
  }
  writeFileSync(join(target, MANIFEST), JSON.stringify(manifest), { mode: 0o644, flush: true });
  host.run(['sync', '-f', target]);
}

/** What is wrong with an installed release, a line each: missing, changed, added, or open to others. */
export function damages(host: Host, path: string): string[] {
  const text = host.text(join(path, MANIFEST));
  if (text === undefined) return [`${path}/${MANIFEST} is missing`];
  let manifest: Manifest;
  try {
    manifest = JSON.parse(text) as Manifest;
  } catch {
    return [`${path}/${MANIFEST} is no JSON`];
  }
  const faults: string[] = [];
  for (const [name, hash] of Object.entries(manifest)) {
    const file = join(path, name);
    const entry = host.entry(file);
    if (entry?.kind !== 'file') faults.push(`${file} is ${entry === undefined ? 'missing' : 'no file'}`);
    else if (sha256(host.at(file)) !== hash) faults.push(`${file} was changed`);
    else if (EXECUTABLE.has(name) && (entry.mode & 0o111) !== 0o111) faults.push(`${file} is not executable`);
  }
  const { root } = host;
  for (const real of entriesBelow(host.at(path))) {
    const file = root === '' ? real : real.slice(root.length);
    const stats = lstatSync(real);
    const name = relative(path, file);
    if (!stats.isDirectory() && name !== MANIFEST && !Object.hasOwn(manifest, name))
      faults.push(`${file} does not belong there`);
    if (root === '' && (stats.uid !== 0 || (stats.mode & 0o022) !== 0))
      faults.push(`${file} can be changed by others than root`);
  }
  return faults;
}

function entriesBelow(directory: string): string[] {
  return [
    directory,
    ...readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
      const path = join(directory, entry.name);
      return entry.isDirectory() ? entriesBelow(path) : [path];
    }),
  ];
}

/** One for all: there are thousands of files. */
const piece = Buffer.allocUnsafe(1024 * 1024);
/** One command asks several times; what root can change without a trace in these is root's own affair. */
const known = new Map<string, string>();

function sha256(path: string): string {
  const { dev, ino, size, ctimeNs } = lstatSync(path, { bigint: true });
  const key = [dev, ino, size, ctimeNs].join(' ');
  const hash = known.get(key) ?? hashOf(path);
  known.set(key, hash);
  return hash;
}

function hashOf(path: string): string {
  const hash = createHash('sha256');
  const fd = openSync(path, 'r');
  try {
    for (let size = readSync(fd, piece); size > 0; size = readSync(fd, piece))
      hash.update(piece.subarray(0, size));
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}
