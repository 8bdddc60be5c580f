/** Who owns what in a workspace: given away, and taken back. */
import assert from 'node:assert/strict';
import { chmodSync, linkSync, lstatSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { giveTo, listOwners, restoreOwners, type OwnerRow } from '../../src/admin/share.ts';
import { at, GID, machine, picture, UID } from '../support/machine.ts';

describe('files of a workspace', () => {
  const place = '/home/nox/nox/sandbox';

  test('directories and files are given away and taken back; links and second names are left alone', () => {
    mkdirSync(at('/victim'));
    writeFileSync(at('/victim/file'), 'x', { mode: 0o600 });
    chmodSync(at('/victim'), 0o700);
    mkdirSync(at(`${place}/dir`), { mode: 0o700 });
    writeFileSync(at(`${place}/dir/program`), 'x', { mode: 0o755 });
    chmodSync(at(`${place}/dir/program`), 0o4755);
    writeFileSync(Buffer.concat([Buffer.from(at(`${place}/`)), Buffer.from([0xff, 0x0a, 0x41])]), 'x', {
      mode: 0o600,
    });
    linkSync(at('/victim/file'), at(`${place}/second`));
    symlinkSync(at('/victim'), at(`${place}/link`));
    const before = picture();
    const rows: OwnerRow[] = [];
    listOwners(machine, place, (row) => rows.push(row));
    giveTo(machine, place, UID, GID);
    const mode = (path: string) => (lstatSync(at(path)).mode & 0o7777).toString(8);
    assert.equal(mode(`${place}/dir`), '2770');
    assert.equal(mode(`${place}/dir/program`), '775');
    assert.equal(mode('/victim/file'), '600');
    assert.equal(mode('/victim'), '700');
    restoreOwners(machine, place, rows);
    // Not the set-user-id bit: meanwhile the runs could have put anything into the file.
    assert.deepEqual(
      picture(),
      before.map((row) => row.replace(' 4755 ', ' 755 ')),
    );
  });

  test('a link in the place of the workspace is not followed', () => {
    mkdirSync(at('/victim'));
    rmSync(at(place), { recursive: true });
    symlinkSync(at('/victim'), at(place));
    assert.throws(() => {
      giveTo(machine, place, UID, GID);
    }, /ELOOP|ENOTDIR/);
  });
});
