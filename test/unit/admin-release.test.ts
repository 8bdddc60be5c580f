/** A release of the program: whole, or named with what is wrong with it. */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { copyRelease, damages, readRelease } from '../../src/admin/release.ts';
import { at, machine } from '../support/machine.ts';

test('a release is whole, or says what is wrong with it', () => {
  const source = join(machine.root, 'source');
  for (const dir of [
    'dist/cli',
    'deploy',
    'node_modules/node/bin',
    'node_modules/lib/sub',
    'node_modules/dev',
  ])
    mkdirSync(join(source, dir), { recursive: true });
  writeFileSync(join(source, 'dist/cli/noxctl.js'), '1');
  writeFileSync(join(source, 'deploy/notify.pl'), '2');
  writeFileSync(join(source, 'node_modules/node/bin/node'), '3');
  writeFileSync(join(source, 'node_modules/lib/sub/index.js'), '4');
  writeFileSync(join(source, 'node_modules/dev/index.js'), '5');
  writeFileSync(join(source, 'package.json'), '{"version": "9.8.7"}');
  const packages = { '': {}, 'node_modules/lib': {}, 'node_modules/dev': { dev: true } };
  writeFileSync(join(source, 'package-lock.json'), JSON.stringify({ packages }));
  const release = readRelease(source);
  assert.match(release.id, /^9\.8\.7-[0-9a-f]{12}$/);
  assert.deepEqual(Object.keys(release.manifest), [
    ...['bin/node', 'deploy/notify.pl', 'dist/cli/noxctl.js', 'node_modules/lib/sub/index.js'],
    ...['package-lock.json', 'package.json'],
  ]);
  copyRelease(machine, source, '/opt/it');
  assert.deepEqual(damages(machine, '/opt/it'), []);
  // What was installed is itself a source, for the way back to an older program.
  assert.equal(readRelease(at('/opt/it')).id, release.id);

  writeFileSync(at('/opt/it/dist/cli/noxctl.js'), 'changed');
  rmSync(at('/opt/it/bin/node'));
  writeFileSync(at('/opt/it/dist/more.js'), 'added');
  const found = damages(machine, '/opt/it').join('\n');
  assert.match(found, /noxctl\.js was changed/);
  assert.match(found, /bin\/node is missing/);
  assert.match(found, /dist\/more\.js does not belong there/);
  // As a source it is still what it was, and gives nothing that it is not.
  assert.equal(readRelease(at('/opt/it')).id, release.id);
  assert.throws(() => copyRelease(machine, at('/opt/it'), '/opt/second'), /bin\/node is missing: there is/);
  copyFileSync(join(source, 'node_modules/node/bin/node'), at('/opt/it/bin/node'));
  assert.throws(() => copyRelease(machine, at('/opt/it'), '/opt/second'), /noxctl\.js was changed: there is/);
  rmSync(join(source, 'dist'), { recursive: true });
  assert.throws(() => readRelease(source), /no built tree of Nox/);
});
