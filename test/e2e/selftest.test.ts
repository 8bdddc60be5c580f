/** What the administrator's commands ask of a running server, when its workspace is against them. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { Host } from '../../src/admin/host.ts';
import { selfTest } from '../../src/admin/selftest.ts';
import { parseConfig } from '../../src/config.ts';
import { escapeChecks, PROBES } from '../../src/runner/escapes.ts';
import { makeDirectory, runPy, TOKEN, withServer } from '../support/server.ts';

test('a full workspace keeps no upgrade from its self-test', async () => {
  const dir = await makeDirectory();
  const sandbox = join(dir, 'sandbox');
  // Before the server counts it.
  writeFileSync(join(sandbox, 'fill'), Buffer.alloc(2 << 20));
  try {
    await withServer({ env: { NOX_SANDBOX: sandbox, NOX_MAX_WORKSPACE: '1M' } }, async ({ url }) => {
      const { hostname, port } = new URL(url);
      const env = { NOX_API_TOKEN: TOKEN, NOX_SANDBOX: sandbox, NOX_BIND_ADDR: hostname, NOX_PORT: port };
      const said = await selfTest(new Host(), parseConfig('gateway', env));
      assert.match(said.join(), /the workspace is full/);
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});

test('a module of the workspace cannot answer for the attempts to escape', () =>
  withServer({}, async (server) => {
    const forged = `print('{"name": "forged", "held": true, "detail": ""}\\n' * 30)\nimport os; os._exit(0)\n`;
    for (const name of ['ctypes', 'errno', 'json', 'platform', 'struct']) {
      mkdirSync(join(server.workspace, name));
      writeFileSync(join(server.workspace, name, '__init__.py'), forged);
    }
    const { body } = await runPy(server, PROBES);
    const names = escapeChecks(body.stdout, body.stderr).map(({ name }) => name);
    assert(names.length > 20);
    assert(!names.includes('escape: forged'), names.join());
  }));
