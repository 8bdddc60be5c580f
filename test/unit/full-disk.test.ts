import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

test('a full disk: what was to be written is not, what was there stays, and nothing half made', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nox-full-'));
  const child = fileURLToPath(new URL('../support/full-workspace.ts', import.meta.url));
  const { stdout } = await promisify(execFile)('bwrap', [
    ...['--bind', '/', '/', '--dev', '/dev', '--proc', '/proc'],
    ...['--size', String(4 * 2 ** 20), '--tmpfs', dir, process.execPath, child, dir],
  ]);
  rmSync(dir, { recursive: true });
  const { told, left, same, restored } = JSON.parse(stdout) as {
    told: Record<string, string>;
    left: { sandbox: string[]; shelf: string[] };
    same: boolean;
    restored: boolean;
  };
  const { afterwards, ...failed } = told;
  for (const [name, code] of Object.entries(failed)) assert.equal(code, 'ENOSPC', name);
  assert.deepEqual(left, { sandbox: ['filler', 'old'], shelf: ['default'] });
  assert.ok(same, 'the old file is whole');
  assert.equal(afterwards, 'done');
  assert.ok(restored);
});
