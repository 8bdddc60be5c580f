/** The firewall's text; what it does is in test/sandbox/firewall.test.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { firewallText, firewallUnit, sshPorts, withPort } from '../../src/admin/firewall.ts';

test('a port of sshd’s is refused by name, 22 in any case', () => {
  for (const [port, ssh] of [
    [22, []],
    [2222, [22, 2222]],
  ] as const)
    assert.throws(
      () => firewallText({ port, allowed: [], sshPorts: ssh }),
      /refused: sshd listens on port 22/,
    );
});

test('where sshd listens: by its settings, by what listens, by a socket of systemd’s', () => {
  const settings =
    'port 22\nport 2200\nlistenaddress 0.0.0.0:2201\nlistenaddress [::]:2202\nmaxauthtries 6\n';
  const listening = `LISTEN 0 128 0.0.0.0:2203 0.0.0.0:* users:(("sshd",pid=1,fd=3))
LISTEN 0 4096 *:2204 *:* users:(("systemd",pid=1,fd=50))
LISTEN 0 128 [::]:2205 [::]:* users:(("sshd",pid=1,fd=4))
LISTEN 0 511 127.0.0.1:8080 0.0.0.0:* users:(("node",pid=7,fd=20))
`;
  assert.deepEqual(sshPorts(settings, listening), [22, 2200, 2201, 2202, 2203, 2204, 2205]);
  assert.deepEqual(sshPorts('', ''), [22]);
});

for (const text of [
  '',
  'all',
  '0.0.0.0/0',
  '10.0.0.1 }',
  '10.0.0.0/33',
  '10.0.0.1; flush ruleset',
  '@set',
  '1.2.3.4-1.2.3.9',
  '::1%lo',
]) {
  test(`${JSON.stringify(text)} is no source`, () => {
    assert.throws(
      () => firewallText({ port: 8080, allowed: [text], sshPorts: [] }),
      /is no address or block/,
    );
  });
}

for (const port of [0, -1, 65_536, 1.5, Number.NaN]) {
  test(`${port} is no port`, () => {
    assert.throws(() => firewallText({ port, allowed: [], sshPorts: [] }), /is no port/);
  });
}

test('the unit takes the table away at its stop, also one that is not there', () => {
  assert.match(firewallUnit('/etc/x.nft'), /^ExecStart=\/usr\/sbin\/nft -f \/etc\/x\.nft$/m);
  assert.match(firewallUnit(), /^ExecStop=\/usr\/sbin\/nft "add table inet nox; delete table inet nox"$/m);
});

test('the rules for one port are those for another with its number in its place', () => {
  const rules = (port: number) => firewallText({ port, allowed: ['10.0.0.0/8', '::1'], sshPorts: [22] });
  assert.equal(withPort(rules(8080), 9000), rules(9000));
  assert.equal(withPort('', 9000), '');
});
