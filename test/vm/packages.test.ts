/** NOX_PYTHON_PACKAGES: Debian's packages from a repository, and wheels from a directory, with hashes. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { noxctl, python, SLOW, start, works } from './nox.ts';

const HOURS = 3_600_000;
const INSTALL = '/opt/nox/bin/noxctl install';

/** A small package of Debian's, as this machine's apt has it. */
function debianPackage(name: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'nox-package-'));
  try {
    execFileSync('apt-get', ['download', '-q', name], { cwd: dir, stdio: ['ignore', 'ignore', 'inherit'] });
    return readFileSync(join(dir, readdirSync(dir)[0] ?? '')).toString('base64');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** A repository in a directory; apt trusts it because the test says so. */
const REPOSITORY = `mkdir -p /opt/repository && cd /opt/repository && base64 -d >six.deb
{ dpkg-deb -f six.deb; echo Filename: ./six.deb; echo Size: $(stat -c %s six.deb); echo SHA256: $(sha256sum six.deb | cut -d' ' -f1); } >Packages
echo 'deb [trusted=yes] file:/opt/repository ./' >/etc/apt/sources.list`;

const MAKE_WHEEL = `import os, zipfile
os.makedirs('/opt/wheels', exist_ok=True)
with zipfile.ZipFile('/opt/wheels/tiny-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('tiny.py', 'ANSWER = 42\\n')
    info = 'tiny-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', 'tiny.py,,\\n%sMETADATA,,\\n%sWHEEL,,\\n%sRECORD,,\\n' % (info, info, info))
`;

test('packages for the runs', { timeout: 2 * HOURS }, async (t) => {
  const m = await start();
  t.after(() => m.stop());
  await m.succeed(noxctl('install'), SLOW);
  await works(m);
  const settings = await m.succeed('cat /etc/default/nox-api');
  const set = (lines: string) => m.write('/etc/default/nox-api', settings + lines, '600');

  await t.test('one that Debian does not have: an error that names it, and nothing has changed', async () => {
    await m.succeed(REPOSITORY, { stdin: debianPackage('python3-six') });
    await set('NOX_PYTHON_PACKAGES=no-such-thing\n');
    const refused = await m.fail(INSTALL, SLOW);
    assert.match(refused.stderr, /python3-no-such-thing[^]*everything is as it was before/);
    await works(m);
  });

  await t.test('Debian’s own, which a run imports', async () => {
    assert.match((await python(m, 'import six')).stderr, /No module named 'six'/);
    await set('NOX_PYTHON_PACKAGES=six\n');
    assert.match(await m.succeed(INSTALL, SLOW), /^install Debian packages: python3-six$/m);
    assert.equal((await python(m, 'import six; print(six.PY3)')).stdout, 'True\n');
  });

  await t.test('wheels, only with the right hash', async () => {
    await m.succeed('python3 -', { stdin: MAKE_WHEEL });
    const hash = (await m.succeed('sha256sum /opt/wheels/*.whl')).slice(0, 64);
    const wheel = (digest: string) =>
      set(`NOX_PYTHON_INDEX=/opt/wheels\nNOX_PYTHON_PACKAGES="tiny==1.0 --hash=sha256:${digest}"\n`);
    await wheel('0'.repeat(64));
    const refused = await m.fail(INSTALL, SLOW);
    assert.match(refused.stderr, /HASHES[^]*everything is as it was before/);
    await works(m);
    await wheel(hash);
    await m.succeed(INSTALL, SLOW);
    assert.equal((await python(m, 'import tiny; print(tiny.ANSWER)')).stdout, '42\n');
  });

  await t.test('none again', async () => {
    await set('');
    await m.succeed(INSTALL, SLOW);
    assert.match((await python(m, 'import tiny')).stderr, /No module named 'tiny'/);
  });
});
