/** The Debian package: installed by apt, upgraded, an upgrade that does not work, removed, purged. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { python, SLOW, start, TREE, works } from './nox.ts';

const HOURS = 3_600_000;
const ROOT = join(import.meta.dirname, '../..');
const packages = () => readdirSync(join(ROOT, 'dist-deb')).filter((name) => name.endsWith('.deb'));

test('lintian finds no error in the package', () => {
  const [name = '', ...more] = packages();
  assert.deepEqual(more, [], 'one package: make deb makes it');
  const words = ['--allow-root', '--fail-on', 'error', '--tag-display-limit', '0', join('dist-deb', name)];
  execFileSync('lintian', words, { cwd: ROOT, stdio: 'inherit' });
});

/** Another version of the package: what `edit` makes of what lies in it. */
const repack = (version: string, edit: string): string => `rm -rf /root/x && dpkg-deb -R /root/nox.deb /root/x
sed -i 's/^Version:.*/Version: ${version}/' /root/x/DEBIAN/control
cd /root/x/usr/lib/nox
${edit}
rm -f /root/x/DEBIAN/md5sums; dpkg-deb --root-owner-group -Znone -b /root/x /root/nox-${version}.deb`;
const manifest = (code: string): string => `bin/node -e '
const fs = require("fs"), { createHash } = require("crypto");
${code}
const manifest = JSON.parse(fs.readFileSync("manifest.json"));
for (const name of Object.keys(manifest)) if (!name.startsWith("bin/")) manifest[name] = createHash("sha256").update(fs.readFileSync(name)).digest("hex");
fs.writeFileSync("manifest.json", JSON.stringify(manifest));'`;
const apt = (words: string): string => `DEBIAN_FRONTEND=noninteractive apt-get -y -q ${words}`;

test('a machine of the package', { timeout: 4 * HOURS }, async (t) => {
  const m = await start();
  t.after(() => m.stop());
  await m.succeed(`cp ${TREE}/dist-deb/nox_*.deb /root/nox.deb`);

  await t.test('apt-get install: the services answer, noxctl validate passes', async () => {
    await m.succeed(apt('install /root/nox.deb'), SLOW);
    await works(m);
    assert.match(await m.succeed('noxctl validate', SLOW), /^\d+ passed, 0 failed$/m);
    // This image leaves documents out.
    assert.equal((await m.execute('dpkg --verify nox | grep -v /usr/share/doc', SLOW)).stdout, '');
  });

  await t.test('a damaged program is mended from the package', async () => {
    for (const command of ['noxctl', '/opt/nox/bin/noxctl']) {
      await m.succeed('echo >>/opt/nox/current/dist/gateway/main.js');
      assert.match(await m.succeed(`${command} repair`, SLOW), /main\.js was changed/);
    }
    await works(m);
  });

  await t.test('a newer package: same token, same files', async () => {
    const token = await m.succeed('cat /etc/default/nox-api');
    await python(m, 'open("data", "w").write("precious")');
    await m.succeed(
      repack(
        '9.9.9',
        manifest(
          'fs.writeFileSync("package.json", fs.readFileSync("package.json", "utf8").replace(/"version": "[^"]*"/, "\\"version\\": \\"9.9.9\\""));',
        ),
      ),
      SLOW,
    );
    await m.succeed(apt('install /root/nox-9.9.9.deb'), SLOW);
    assert.match(await m.succeed('readlink /opt/nox/current'), /^releases\/9\.9\.9-/);
    assert.equal(await m.succeed('cat /etc/default/nox-api'), token);
    assert.equal((await python(m, 'print(open("data").read())')).stdout, 'precious\n');
  });

  await t.test('one that does not start: apt says so, and the version before it goes on', async () => {
    await m.succeed(
      repack(
        '9.9.10',
        manifest('fs.appendFileSync("dist/gateway/main.js", "throw new Error(\\"broken\\");\\n");'),
      ),
      SLOW,
    );
    const failed = await m.fail(apt('install /root/nox-9.9.10.deb'), SLOW);
    assert.match(failed.stdout + failed.stderr, /everything is as it was before/);
    await works(m);
    assert.match(await m.succeed('readlink /opt/nox/current'), /^releases\/9\.9\.9-/);
  });

  await t.test('the older package goes back', async () => {
    await m.succeed(apt('install --allow-downgrades /root/nox.deb'), SLOW);
    await works(m);
    assert.doesNotMatch(await m.succeed('readlink /opt/nox/current'), /9\.9/);
  });

  await t.test('remove keeps settings and workspace; installed again it has them', async () => {
    await m.succeed(apt('remove nox'), SLOW);
    assert.equal(
      (
        await m.execute(
          'ls -d /opt/nox /usr/lib/nox /etc/systemd/system/nox.slice /etc/systemd/system/nox-[arf]* 2>/dev/null',
        )
      ).stdout,
      '',
    );
    await m.succeed('test -e /etc/default/nox-api && test -e /home/nox/nox/sandbox/data');
    await m.succeed(apt('install /root/nox.deb'), SLOW);
    assert.equal((await python(m, 'print(open("data").read())')).stdout, 'precious\n');
  });

  await t.test('purge leaves nothing', async () => {
    const ids = (await m.succeed('id -u nox; id -u nox-runner; getent group nox | cut -d: -f3'))
      .trim()
      .split('\n');
    await m.succeed(apt('purge nox'), SLOW);
    const places =
      '/opt/nox /usr/lib/nox /home/nox /var/lib/nox-admin /var/lib/nox-api /etc/default/nox-api /etc/logrotate.d/nox';
    assert.equal(
      (
        await m.execute(
          `ls -d ${places} /etc/systemd/system/nox.slice /etc/systemd/system/nox-[arf]* 2>/dev/null`,
        )
      ).stdout,
      '',
    );
    assert.equal((await m.execute('getent passwd nox nox-runner; getent group nox')).stdout, '');
    const [nox, runner, group] = ids;
    const owned = `find / -xdev \\( -uid ${nox ?? ''} -o -uid ${runner ?? ''} -o -gid ${group ?? ''} \\) 2>/dev/null`;
    assert.equal((await m.execute(owned, SLOW)).stdout, '');
    assert.equal(
      (await m.succeed('systemctl list-units --all --plain --no-legend "nox-a*" "nox-r*" nox.slice')).trim(),
      '',
    );
  });
});
