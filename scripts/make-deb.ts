/**
 * `make deb`: the built tree as a Debian package, nox_<version>_<architecture>.deb in dist-deb/.
 *
 * The package holds a release (src/admin/release.ts) in /usr/lib/nox, and its scripts call noxctl: so that
 * `apt install ./nox_*.deb` and `make install` are one installation. dpkg-deb(1) alone, without debhelper: there is
 * nothing to configure, compile or strip.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';
import { SYSTEM_PACKAGES } from '../src/admin/desired.ts';
import { Host } from '../src/admin/host.ts';
import { copyRelease, readRelease } from '../src/admin/release.ts';

const SOURCE = join(import.meta.dirname, '..');
const PARTS = join(SOURCE, 'scripts/deb');
const OUT = join(SOURCE, 'dist-deb');
/** What Node's own build is linked to, besides libatomic1. */
const LIBRARIES = ['libc6 (>= 2.28)', 'libgcc-s1', 'libstdc++6'];

const say = (program: string, ...args: string[]) =>
  execFileSync(program, args, { cwd: SOURCE, encoding: 'utf8' }).trim();

const { DEBFULLNAME = 'Nox', DEBEMAIL = say('git', 'log', '-1', '--format=%ae') } = process.env;
const MAINTAINER = `${DEBFULLNAME} <${DEBEMAIL}>`;
/** Of the last commit: packages of one commit are the same, and a later one is newer. */
const committed = Number(say('git', 'log', '-1', '--format=%ct'));
const date = new Date(committed * 1000);
const version = `${readRelease(SOURCE).version}+${date.toISOString().replaceAll(/[-T:]/g, '').slice(0, 14)}`;
const architecture = say('dpkg', '--print-architecture');
const file = join(OUT, `nox_${version}_${architecture}.deb`);

const stage = mkdtempSync(join(tmpdir(), 'nox-deb-'));
try {
  chmodSync(stage, 0o755);
  process.umask(0o022);
  const at = (path: string) => {
    mkdirSync(dirname(join(stage, path)), { recursive: true });
    return join(stage, path);
  };
  copyRelease(new Host(stage), SOURCE, '/usr/lib/nox');
  place('noxctl', 'usr/sbin/noxctl', 0o755);
  place('copyright', 'usr/share/doc/nox/copyright', 0o644);
  place('lintian-overrides', 'usr/share/lintian/overrides/nox', 0o644);
  writeFileSync(at('usr/share/doc/nox/changelog.gz'), gzipSync(changelog(), { level: 9 }));
  for (const page of ['operations.md', 'configuration.md', 'api.md'])
    copyFileSync(join(SOURCE, 'docs', page), at(`usr/share/doc/nox/${page}`));
  for (const script of ['postinst', 'prerm', 'postrm']) place(script, `DEBIAN/${script}`, 0o755);
  writeFileSync(at('DEBIAN/md5sums'), checksums());
  writeFileSync(at('DEBIAN/control'), control());
  mkdirSync(OUT, { recursive: true });
  execFileSync('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', stage, file], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, SOURCE_DATE_EPOCH: String(committed) },
  });
  process.stdout.write(`${relative(SOURCE, file)}: apt-get install ./${relative(SOURCE, file)}\n`);

  function place(name: string, path: string, mode: number): void {
    copyFileSync(join(PARTS, name), at(path));
    chmodSync(join(stage, path), mode);
  }
} finally {
  rmSync(stage, { recursive: true, force: true });
}

function control(): string {
  const kibibytes = say('du', '-sk', '--apparent-size', stage).split('\t')[0] ?? '';
  const depends = [...SYSTEM_PACKAGES, 'passwd', ...LIBRARIES].sort().join(', ');
  return `Package: nox
Version: ${version}
Architecture: ${architecture}
Maintainer: ${MAINTAINER}
Installed-Size: ${kibibytes}
Depends: ${depends}
Recommends: systemd
Section: net
Priority: optional
Description: server that runs other people's code on your own machine, safely
 Nox takes programs over an HTTP API behind a bearer token, runs each in a
 sandbox of its own (namespaces, seccomp, limits) and hands back what it
 printed, in milliseconds. No Docker, no KVM, no root daemon.
 .
 The package installs two hardened systemd services. The token is in
 /etc/default/nox-api; noxctl is the administrator's command.
`;
}

function changelog(): string {
  const when = date.toUTCString().replace('GMT', '+0000');
  return `nox (${version}) unstable; urgency=medium\n\n  * The tree as of commit ${say('git', 'rev-parse', '--short=12', 'HEAD')}.\n\n -- ${MAINTAINER}  ${when}\n`;
}

/** As md5sum(1) writes them: what `dpkg --verify nox` compares with. */
function checksums(): string {
  const names = readdirSync(stage, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(stage, join(entry.parentPath, entry.name)))
    .filter((name) => !name.startsWith('DEBIAN/'));
  return names
    .sort()
    .map(
      (name) =>
        `${createHash('md5')
          .update(readFileSync(join(stage, name)))
          .digest('hex')}  ${name}\n`,
    )
    .join('');
}
