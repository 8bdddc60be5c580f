/**
 * The firewall in force: two network namespaces joined by a cable, real nft, real connections.
 *
 * All of it happens in namespaces of its own that end with the test; the machine's rules are never touched.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { firewallText } from '../../src/admin/firewall.ts';

const SCRIPT = fileURLToPath(new URL('../support/firewall.sh', import.meta.url));

describe('the firewall', () => {
  let dir: string;
  let results: Map<string, string>;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nox-firewall-'));
    const write = (name: string, allowed: string[]) =>
      writeFile(join(dir, name), firewallText({ port: 8080, allowed, sshPorts: [22] }));
    await write('none.nft', []);
    await write('some.nft', ['10.9.0.3', 'fd09::3', '10.9.0.0/31', '10.9.0.3/32']);
    await writeFile(
      join(dir, 'bad.nft'),
      'add table inet nox\ndelete table inet nox\ntable inet nox { nonsense }\n',
    );
    const child = spawn('unshare', ['--user', '--map-root-user', '--mount', '--net', 'sh', SCRIPT, dir], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (data: Buffer) => (output += data.toString()));
    child.stderr.on('data', (data: Buffer) => (output += data.toString()));
    await once(child, 'close');
    results = new Map(
      output.split('\n').flatMap((line) => {
        const [, name, value] = /^(.*): (open|closed|ok|failed)$/.exec(line) ?? [];
        return name === undefined || value === undefined ? [] : [[name, value] as const];
      }),
    );
    assert.equal(results.get('end'), 'ok', output);
  });
  after(() => rm(dir, { recursive: true }));

  const expect = (expected: Record<string, string>) => {
    for (const [name, value] of Object.entries(expected)) assert.equal(results.get(name), value, name);
  };

  test('nft accepts the text, with and without sources', () =>
    expect({ 'check none': 'ok', 'check some': 'ok' }));

  test('SSH is reachable before, during and after, and a connection that is open stays', () =>
    expect({
      ...{
        'before ssh': 'open',
        'none ssh': 'open',
        'some ssh': 'open',
        'bad ssh': 'open',
        'after ssh': 'open',
      },
      ...{ 'before ssh6': 'open', 'none ssh6': 'open', 'some ssh6': 'open', 'ssh session': 'open' },
    }));

  test('without sources only the machine itself reaches the port', () =>
    expect({
      ...{ 'before nox': 'open', 'before nox6': 'open', 'none nox': 'closed', 'none nox6': 'closed' },
      ...{ 'none own': 'open', 'none own6': 'open', 'none own address': 'open' },
    }));

  test('a source that was named reaches it, another does not, in IPv4 and IPv6', () =>
    expect({
      ...{ 'some nox': 'closed', 'some nox6': 'closed', 'some friend': 'open', 'some friend6': 'open' },
      ...{ 'some own': 'open', 'some other port': 'open' },
    }));

  test('a ruleset that is bad changes nothing', () =>
    expect({ 'load bad': 'failed', 'bad nox': 'closed', 'bad friend': 'open' }));

  test('loading twice is loading once; stopping twice leaves nothing of it, and other tables as they were', () =>
    expect({
      ...{ 'load again': 'ok', 'one drop': 'ok', stop: 'ok', 'stop again': 'ok', 'table gone': 'ok' },
      ...{ 'after nox': 'open', 'other table': 'ok' },
    }));
});
