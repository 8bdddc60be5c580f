/** The doctor, as `make validate` calls it where nothing is installed. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { makeDirectory } from '../support/server.ts';

const PROGRAM = fileURLToPath(new URL('../../dist/cli/validate.js', import.meta.url));

test('make validate: every check passes, and every escape is held', async () => {
  const dir = await makeDirectory();
  try {
    const env = {
      PATH: process.env['PATH'] ?? '',
      HOME: dir,
      NOX_SANDBOX: join(dir, 'sandbox'),
      NOX_WORKSPACES: join(dir, 'workspaces'),
    };
    const child = spawn(process.execPath, [PROGRAM], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    child.stdout.on('data', (data: Buffer) => (out += data.toString()));
    child.stderr.on('data', (data: Buffer) => (out += data.toString()));
    const [code] = (await once(child, 'close')) as [number];
    assert.deepEqual([code, out.match(/^FAIL.*$/gm)], [0, null], out);
    assert.match(out, /^PASS {2}probes +26 escapes tried$/m);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
