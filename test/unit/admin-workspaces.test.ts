/** Where the workspaces of an installed Nox are: in its units, its backups, and what an uninstall takes away. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { restorePlan } from '../../src/admin/backup.ts';
import { uninstallPlan } from '../../src/admin/uninstall.ts';
import { makeUnits } from '../../src/admin/units.ts';
import { at, machine } from '../support/machine.ts';

const UNITS = {
  metricsAddress: '',
  otlpEndpoint: '',
  webhookAllow: undefined,
  bindAddress: '127.0.0.1',
  sandbox: '/home/nox/nox/sandbox',
  stopGraceSeconds: 30,
};
const STATE = '/var/lib/nox-runner';

describe('the workspaces', () => {
  test('the runner has a state directory that nobody else can enter, and writes to nothing else but the sandbox', () => {
    const unit = makeUnits({ ...UNITS, workspaces: `${STATE}/workspaces` })['nox-runner.service'];
    assert.match(unit, /^StateDirectory=nox-runner\nStateDirectoryMode=0700$/m);
    assert.match(unit, /^ReadWritePaths=\/home\/nox\/nox\/sandbox$/m);
    const api = makeUnits({ ...UNITS, workspaces: `${STATE}/workspaces` })['nox-api.service'];
    assert.ok(!api.includes(STATE));
  });

  test('elsewhere, they are bound and can be written', () => {
    const unit = makeUnits({ ...UNITS, workspaces: '/srv/nox' })['nox-runner.service'];
    assert.match(unit, /^BindPaths=\/home\/nox\/nox\/sandbox \/srv\/nox$/m);
    assert.match(unit, /^ReadWritePaths=\/home\/nox\/nox\/sandbox \/srv\/nox$/m);
  });

  test('uninstall keeps them, purge takes them with what restores have put aside, and leaves others', () => {
    for (const dir of [STATE, `${STATE}.bak.1764093600`, `${STATE}-of-somebody`, '/srv/nox'])
      mkdirSync(at(dir), { recursive: true });
    writeFileSync(at('/etc/default/nox-api'), 'NOX_API_TOKEN=x\nNOX_WORKSPACES=/srv/nox\n');
    const { keep, remove } = uninstallPlan(machine, false);
    for (const path of [STATE, `${STATE}.bak.1764093600`, '/srv/nox']) {
      assert.ok(keep.includes(path), path);
      assert.ok(!remove.includes(path), path);
    }
    const purged = uninstallPlan(machine, true);
    for (const path of [STATE, `${STATE}.bak.1764093600`]) assert.ok(purged.remove.includes(path), path);
    assert.ok(!purged.remove.some((path) => path === `${STATE}-of-somebody` || path === '/srv/nox'));
    assert.ok(purged.keep.includes('/srv/nox'));
  });

  test('a restore puts both trees in place and what was there aside; an old backup leaves the workspaces', () => {
    mkdirSync(at(STATE), { recursive: true });
    const unpacked = {
      manifest: { format: 2, version: '1', made: '' },
      ...{ settings: '', sandbox: UNITS.sandbox, fresh: `${UNITS.sandbox}.restore.7` },
    };
    const moves = (plan: ReturnType<typeof restorePlan>) =>
      plan.flatMap((step) => (step.do === 'move' ? [[step.from, step.to]] : []));
    const own = [
      [UNITS.sandbox, `${UNITS.sandbox}.bak.7`],
      [`${UNITS.sandbox}.restore.7`, UNITS.sandbox],
    ];
    const shelf = { path: STATE, fresh: `${STATE}.restore.7` };
    assert.deepEqual(moves(restorePlan(machine, { ...unpacked, shelf }, '7')), [
      ...own,
      [STATE, `${STATE}.bak.7`],
      [`${STATE}.restore.7`, STATE],
    ]);
    assert.deepEqual(moves(restorePlan(machine, unpacked, '7')), own);
    const tokens = { text: 'hashes', path: '/var/lib/nox-api/tokens.restored.json' };
    const plan = restorePlan(machine, { ...unpacked, tokens }, '7');
    const own600 = { owner: 'nox', group: 'nox', mode: 0o600 };
    assert.deepEqual(
      plan.filter((step) => step.do === 'file' && step.path === tokens.path),
      [{ do: 'file', ...tokens, ...own600 }],
    );
    // The gateway takes them in when it starts.
    const nth = (what: string) => plan.findIndex((step) => step.do === what);
    assert.ok(nth('services') < nth('file'));
  });
});
