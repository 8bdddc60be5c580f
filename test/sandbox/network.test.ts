/** Attacks over sockets: the network, the host's own services, sockets in files and without one. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync } from 'node:fs';
import { createServer, type Server as NetServer } from 'node:net';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { startServer, type Server } from '../support/server.ts';
import { inside, loot, outside, py, SYSCALL, uniqueSeconds } from './attack.ts';

let server: Server;
before(async () => {
  server = await startServer();
});
after(() => server.stop());

/** A service of the host. */
async function listenAt(listen: { port: number; host: string } | { path: string }): Promise<NetServer> {
  const service = createServer((socket) => socket.on('error', () => undefined).end());
  service.listen(listen);
  await once(service, 'listening');
  return service;
}

const CONNECT = (family: string, address: string): string => `
import socket
s = socket.socket(socket.${family}, socket.SOCK_STREAM)
s.settimeout(3)
try:
    s.connect(${address})
    print('connected')
except OSError as e: print(type(e).__name__, e.errno)`;

test('has an interface beyond its own loopback', async () => {
  const attack = `import socket, json; print(json.dumps([name for _, name in socket.if_nameindex()]))`;
  assert.ok((JSON.parse(outside(attack)) as string[]).length >= 1);
  assert.deepEqual(await loot(server, attack), ['lo']);
  const routes = await inside(
    server,
    `print(open('/proc/net/route').read().count('\\n'), open('/proc/net/arp').read().count('\\n'))`,
  );
  assert.equal(routes, '1 1');
});

test('connects to the internet, by IPv4, IPv6 and UDP, and asks a name server', async () => {
  const got = await inside(
    server,
    `
import socket
for family, kind, address in ((socket.AF_INET, socket.SOCK_STREAM, '1.1.1.1'), (socket.AF_INET, socket.SOCK_STREAM, '169.254.169.254'), (socket.AF_INET6, socket.SOCK_STREAM, '2606:4700:4700::1111'), (socket.AF_INET, socket.SOCK_DGRAM, '8.8.8.8')):
    s = socket.socket(family, kind)
    s.settimeout(3)
    try:
        s.connect((address, 53))
        if kind == socket.SOCK_DGRAM: s.send(b'x')
        print('connected', address)
    except OSError as e: print(e.errno)
try: print(socket.gethostbyname('example.com'))
except OSError as e: print('no name')`,
  );
  // ENETUNREACH; EADDRNOTAVAIL is another way to say it for IPv6.
  assert.match(got, /^101\n101\n(101|99)\n101\nno name$/);
});

test("connects to the server's own port on loopback", async () => {
  const port = Number(new URL(server.url).port);
  const attack = CONNECT('AF_INET', `('127.0.0.1', ${String(port)})`);
  assert.equal(outside(attack), 'connected');
  assert.equal(await inside(server, attack), 'ConnectionRefusedError 111');
});

test('connects to a service of the host on any local address', async () => {
  const service = await listenAt({ port: 0, host: '0.0.0.0' });
  try {
    const { port } = service.address() as { port: number };
    const attack = (host: string) => CONNECT('AF_INET', `('${host}', ${String(port)})`);
    assert.equal(outside(attack('127.0.0.1')), 'connected');
    for (const host of ['127.0.0.1', '127.0.0.2', '0.0.0.0', 'localhost']) {
      assert.equal(await inside(server, attack(host)), 'ConnectionRefusedError 111', host);
    }
  } finally {
    service.close();
  }
});

test('connects to an abstract socket of the host', async () => {
  const name = `nox-attack-${uniqueSeconds()}`;
  const service = await listenAt({ path: `\0${name}` });
  try {
    const attack = CONNECT('AF_UNIX', py(`@${name}`).replace('@', '\\0'));
    assert.equal(outside(attack), 'connected');
    assert.equal(await inside(server, attack), 'ConnectionRefusedError 111');
    assert.equal(await inside(server, `print(open('/proc/net/unix').read().count('\\n'))`), '1');
  } finally {
    service.close();
  }
});

test("connects to a socket in the workspace's parent directory, and through a link to it", async () => {
  const path = join(dirname(server.workspace), 'service.sock');
  const service = await listenAt({ path });
  try {
    chmodSync(path, 0o777);
    assert.equal(outside(CONNECT('AF_UNIX', py(path))), 'connected');
    assert.equal(await inside(server, CONNECT('AF_UNIX', py(path))), 'FileNotFoundError 2');
    assert.equal(
      await inside(
        server,
        `import os; os.symlink('../service.sock', 'way')\n${CONNECT('AF_UNIX', py('way'))}`,
      ),
      'FileNotFoundError 2',
    );
  } finally {
    service.close();
  }
});

test("finds a socket of the host: D-Bus, systemd, Docker, the runner's, the log's", async () => {
  const got = await inside(
    server,
    `
import os, stat
for top in ('/run', '/dev', '/tmp', '/etc', '/usr/local'):
    for dir, dirs, names in os.walk(top):
        for name in names:
            try:
                if stat.S_ISSOCK(os.lstat(dir + '/' + name).st_mode): print(dir + '/' + name)
            except OSError: pass`,
  );
  assert.equal(got, '');
});

test('opens sockets that see or forge packets: raw, packet, ping', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
print(*[call('socket', *a) for a in ((2, 3, 1), (2, 3, 255), (10, 3, 58), (2, 10, 0x300), (2, 2, 1), (10, 2, 58), (17, 3, 0x300), (17, 2, 0x300), (1 << 32 | 17, 3, 0x300), (2, 1 << 32 | 3, 255))])`,
  );
  assert.deepEqual(
    got.split(' ').filter((each) => !['EPERM', 'EPROTONOSUPPORT', 'EAFNOSUPPORT'].includes(each)),
    [],
  );
});

test('opens sockets of every other family: AF_VSOCK to the hypervisor, AF_ALG, AF_TIPC, AF_BLUETOOTH, AF_XDP', async () => {
  const attack = `${SYSCALL}
print(*sorted({str(call('socket', family, kind, 0)) for family in range(3, 64) if family not in (10, 16) for kind in range(1, 11)}))`;
  assert.match(outside(attack), /ok/);
  assert.equal(await inside(server, attack), 'EAFNOSUPPORT');
});

test('opens protocols that load kernel modules: SCTP, DCCP, UDP-Lite, MPTCP, L2TP', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
print(*sorted({str(call('socket', family, kind, protocol)) for family in (2, 10) for kind in (1, 2, 5, 6) for protocol in list(range(1, 263)) if (kind, protocol) not in ((1, 6), (2, 17))}))`,
  );
  assert.equal(got, 'EPROTONOSUPPORT');
});

test('talks netlink to anything but the routing table: audit, uevents, netfilter, crypto, sock_diag', async () => {
  const attack = `${SYSCALL}
print(*sorted({str(call('socket', 16, kind, protocol)) for kind in (2, 3) for protocol in range(1, 32)}))`;
  assert.match(outside(attack), /ok/);
  assert.equal(await inside(server, attack), 'EPROTONOSUPPORT');
});

test('changes the network by netlink: an address, an interface', async () => {
  const got = await inside(
    server,
    `
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
def ask(kind, body):
    s.send(struct.pack('<IHHII', 16 + len(body), kind, 0x605, 1, 0) + body)
    data = s.recv(4096)
    return struct.unpack('<i', data[16:20])[0]
link = struct.pack('<BxHiII', 0, 0, 0, 0, 0) + struct.pack('<HH8s', 12, 3, b'evil0') + struct.pack('<HH', 16, 18) + struct.pack('<HH8s', 12, 1, b'dummy')
address = struct.pack('<BBBBI', 2, 8, 0, 0, 1) + struct.pack('<HH4s', 8, 2, bytes([10, 0, 0, 1]))
print(ask(16, link), ask(20, address))`,
  );
  assert.equal(got, '-1 -1');
});

test('reaches another run over its loopback', async () => {
  const port = 47_113;
  const listening = inside(
    server,
    `
import socket, os, time
s = socket.create_server(('0.0.0.0', ${String(port)}))
a = socket.socket(socket.AF_UNIX); a.bind('\\0nox-run'); a.listen()
open('listening', 'w').close()
while not os.path.exists('enough'): time.sleep(0.02)
print('nobody came' if not __import__('select').select([s, a], [], [], 0)[0] else 'somebody came')`,
  );
  const got = await inside(
    server,
    `
import os, time
while not os.path.exists('listening'): time.sleep(0.02)
${CONNECT('AF_INET', `('127.0.0.1', ${String(port)})`)}
${CONNECT('AF_UNIX', `'\\0nox-run'`)}
open('enough', 'w').close()`,
  );
  assert.equal(got, 'ConnectionRefusedError 111\nConnectionRefusedError 111');
  assert.equal(await listening, 'nobody came');
});
