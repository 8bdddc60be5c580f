/** Attacks on files: what a run may see of the host, and where it may write. */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { put, runPy, runSh, startServer, TOKEN, type Server } from '../support/server.ts';
import { inside, loot, outside, py, read, uniqueSeconds } from './attack.ts';

let server: Server;
before(async () => {
  server = await startServer();
});
after(() => server.stop());

const EXISTS = (paths: readonly string[]): string =>
  `import os, json; print(json.dumps([p for p in ${py(paths)} if os.path.lexists(p)]))`;

async function assertHidden(paths: readonly string[]): Promise<void> {
  // Looked for by this process itself: a clone in /root is closed to the server's own user.
  assert(
    paths.some((path) => existsSync(path)),
    'nothing of this exists on this host',
  );
  assert.deepEqual(await loot(server, EXISTS(paths)), []);
}

test('reads /etc/shadow and its kin', () =>
  assertHidden(
    ['shadow', 'gshadow', 'sudoers', 'ssh', 'machine-id', 'fstab', 'default', 'systemd', 'resolv.conf'].map(
      (name) => `/etc/${name}`,
    ),
  ));

test('reads the users of the host in /etc/passwd', async () => {
  const hosts = readFileSync('/etc/passwd', 'utf8');
  assert.match(hosts, /^root:/m);
  const users = await inside(server, `print(open('/etc/passwd').read())`);
  assert.deepEqual(
    users.split('\n').map((line) => line.split(':')[0]),
    ['nox', 'nobody'],
  );
});

test('lists the directories of the host: /root, /home, /var, /opt, /srv, /sys, /boot', () =>
  assertHidden(['/root', '/home', '/var', '/opt', '/srv', '/sys', '/boot', '/mnt', '/media', '/lost+found']));

test('finds anything in / that was not put there for it', async () => {
  const own = ['bin', 'dev', 'etc', 'lib', 'lib32', 'lib64', 'libx32', 'proc', 'run', 'sbin', 'tmp', 'usr'];
  const names = (await loot(server, `import os, json; print(json.dumps(os.listdir('/')))`)) as string[];
  const workspaceRoot = server.workspace.split('/')[1] ?? '';
  assert.deepEqual(
    names.filter((name) => !own.includes(name) && name !== workspaceRoot),
    [],
  );
});

test("reads the server's source, its packages and its own Node", () => {
  const root = fileURLToPath(new URL('../../', import.meta.url));
  return assertHidden([
    root,
    ...['dist', 'src', 'node_modules'].map((name) => join(root, name)),
    process.execPath,
  ]);
});

test("reads the token in the server's environment, wherever /proc shows one", async () => {
  const [{ pid } = { pid: 0 }] = server.processes;
  assert.ok(read(`/proc/${String(pid)}/environ`).includes(TOKEN));
  const found = await inside(
    server,
    `
import os
for pid in [p for p in os.listdir('/proc') if p.isdigit()] + ['${String(pid)}', 'self', 'thread-self']:
    for name in ('environ', 'cmdline'):
        try:
            text = open(f'/proc/{pid}/{name}').read()
            if 'test-' + 'token' in text and pid != str(os.getpid()): print(pid, name)
            if 'NOX_' in text and name == 'environ': print(pid, name)
        except OSError: pass
print(sorted(os.environ))`,
  );
  assert.equal(found, "['HOME', 'LANG', 'PATH', 'TMPDIR']");
});

test('sees or signals processes of the host', async () => {
  const [{ pid } = { pid: 0 }] = server.processes;
  const seen = `import os, json; print(json.dumps([p for p in os.listdir('/proc') if p.isdigit()]))`;
  assert.ok((JSON.parse(outside(seen)) as string[]).includes(String(pid)));
  assert.deepEqual(await loot(server, seen), ['1', '2']);
  const signalled = await inside(
    server,
    `
import os
for pid in range(3, 40000):
    try: os.kill(pid, 0); print(pid)
    except ProcessLookupError: pass
    except OSError as e: print(pid, e)`,
  );
  assert.equal(signalled, '');
});

test('opens what belongs to process 1: environ, mem, maps, fd, root, cwd, exe', async () => {
  const got = await inside(
    server,
    `
import os
for name in ('environ', 'mem', 'maps', 'syscall', 'stack', 'auxv', 'fd/0', 'fd/3', 'root/etc', 'root/proc', 'cwd/.', 'exe', 'task/1/mem'):
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_PATH):
        try:
            file = os.open('/proc/1/' + name, flags)
            if flags == os.O_PATH or flags == os.O_RDWR or os.read(file, 100): print(name, flags)
        except IsADirectoryError: print(name, 'exists')
        except OSError: pass
for name in ('fd', 'fdinfo', 'map_files'):
    try: print(name, os.listdir('/proc/1/' + name)) if os.listdir('/proc/1/' + name) else None
    except OSError: pass
for name in ('root', 'cwd', 'exe', 'ns/mnt', 'ns/user'):
    try: print(name, os.readlink('/proc/1/' + name))
    except OSError: pass`,
  );
  // Opened by O_PATH a file of /proc gives nothing but its name; the links to elsewhere must not open at all.
  assert.deepEqual(
    got
      .split('\n')
      .filter(
        (line) => line !== '' && !/^(environ|mem|maps|syscall|stack|auxv|task\/1\/mem) 2097152$/.test(line),
      ),
    [],
  );
});

test("reads a file of everybody in the host's /tmp", async () => {
  const file = join(tmpdir(), `nox-attack-${uniqueSeconds()}`);
  writeFileSync(file, 'of the host', { mode: 0o644 });
  try {
    const attack = `
import os
try: print(open(${py(file)}).read())
except OSError as e: print(type(e).__name__)`;
    assert.equal(outside(attack), 'of the host');
    assert.equal(await inside(server, attack), 'FileNotFoundError');
  } finally {
    rmSync(file);
  }
});

test("looks for the runner's private directory", async () => {
  const names = readdirSync(tmpdir()).filter((name) => name.startsWith('nox-runner-'));
  assert.notDeepEqual(names, []);
  const attack = `
import os, json
print(json.dumps([p for p in ${py(names.map((name) => join(tmpdir(), name)))} if os.path.exists(p)]
  + [d + '/' + n for d in ('/tmp', '/run', '/dev/shm') for n in os.listdir(d) if 'nox-runner' in n]))`;
  assert.deepEqual(await loot(server, attack), []);
});

test('climbs out of the workspace to its parent directory and writes there', async () => {
  const parent = dirname(server.workspace);
  writeFileSync(join(parent, 'neighbour'), 'of the host', { mode: 0o644 });
  const attack = `
import os, json
print(json.dumps(sorted(os.listdir(${py(parent)}))))
try: open(${py(join(parent, 'planted'))}, 'w').close()
except OSError: pass`;
  assert.ok((JSON.parse(outside(attack)) as string[]).includes('neighbour'));
  assert.ok(existsSync(join(parent, 'planted')), 'outside it can be written');
  rmSync(join(parent, 'planted'));
  assert.deepEqual(await loot(server, attack), ['sandbox']);
  assert.ok(!existsSync(join(parent, 'planted')));
});

test("reads the kernel's log and memory: dmesg, kmsg, kcore, mem", async () => {
  const got = await inside(
    server,
    `
import os
for path in ('/dev/kmsg', '/proc/kmsg', '/proc/kcore', '/dev/core', '/dev/mem', '/dev/kmem', '/dev/port', '/proc/kpagemap', '/proc/kpagecount', '/proc/kpageflags', '/proc/slabinfo', '/proc/vmallocinfo', '/sys/kernel'):
    try: open(path, 'rb').read(8); print(path)
    except OSError: pass`,
  );
  assert.equal(got, '');
  const { body } = await runSh(server, 'dmesg');
  assert.notEqual(body.returncode, 0);
  assert.equal(body.stdout, '');
});

test('learns kernel addresses from /proc/kallsyms', async () => {
  const addresses = await inside(
    server,
    `
try: print({line.split()[0] for line in open('/proc/kallsyms')} or 'none')
except OSError: print('none')`,
  );
  assert.match(addresses, /^(none|\{'0{16}'\})$/);
});

test('writes to the switches of the kernel in /proc', async () => {
  const names = [
    'kernel/hostname',
    'kernel/core_pattern',
    'kernel/shmmax',
    'kernel/sem',
    'fs/mqueue/msg_max',
  ];
  const values = () => names.map((name) => read(`/proc/sys/${name}`));
  const before = values();
  const got = await inside(
    server,
    `
import os
paths = ['/proc/sysrq-trigger', '/proc/1/oom_score_adj', '/proc/acpi/wakeup', '/proc/irq/0/smp_affinity', '/proc/mtrr', '/proc/scsi/scsi', '/proc/bus/pci/00/00.0', '/proc/self/setgroups', '/proc/self/uid_map']
for dir, _, names in os.walk('/proc/sys'): paths += [dir + '/' + name for name in names]
for path in paths:
    try: fd = os.open(path, os.O_WRONLY)
    except OSError: continue
    try: os.write(fd, b'1'); print(path)
    except OSError: pass
    os.close(fd)`,
  );
  assert.deepEqual(values(), before);
  // These belong to the run's own IPC namespace and die with it.
  const own = /^(|\/proc\/sys\/kernel\/(sem|auto_msgmni|shm\w+|msg\w+)|\/proc\/sys\/fs\/mqueue\/\w+)$/;
  assert.deepEqual(
    got.split('\n').filter((path) => !own.test(path)),
    [],
  );
});

test('writes to the system: /, /usr, /etc, /bin, /lib, /dev, /run, /proc', async () => {
  const got = await inside(
    server,
    `
import os
for dir in ('/', '/usr', '/usr/bin', '/usr/local/bin', '/usr/lib', '/usr/lib/python3', '/etc', '/etc/ssl/certs', '/bin', '/lib', '/dev', '/dev/pts', '/run', '/proc', '/proc/self', os.path.dirname(os.__file__)):
    for make in (lambda p: open(p, 'w'), os.mkdir, lambda p: os.symlink('/tmp', p), os.mkfifo):
        try: make(dir + '/planted'); print(dir)
        except OSError: pass
for path in ('/etc/passwd', '/etc/hosts', '/etc/ld.so.cache', '/usr/bin/python3', '/usr/bin/env', os.__file__):
    try: open(path, 'r+b'); print(path)
    except OSError: pass
    try: os.rename(path, path + '.old'); print(path, 'renamed')
    except OSError: pass
    try: os.chmod(path, 0o777); print(path, 'chmod')
    except OSError: pass
    try: os.utime(path); print(path, 'utime')
    except OSError: pass`,
  );
  assert.equal(got, '');
});

test('makes files in /dev and /, which would be memory without a limit', async () => {
  const got = await inside(
    server,
    `
import os
for dir in ('/dev', '/'):
    try:
        with open(dir + '/fill', 'wb') as f: f.write(bytes(1 << 20))
        print(dir)
    except OSError as e: print(e.errno)`,
  );
  assert.equal(got, '30\n30');
});

test('finds a device that is more than a bucket of bytes', async () => {
  const devices = await loot(
    server,
    `
import os, json, stat
found = []
for dir, dirs, names in os.walk('/dev'):
    for name in names:
        info = os.lstat(dir + '/' + name)
        if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode): found.append(dir + '/' + name)
print(json.dumps(sorted(found)))`,
  );
  const harmless = ['full', 'null', 'ptmx', 'pts/ptmx', 'random', 'tty', 'urandom', 'zero'].map(
    (name) => `/dev/${name}`,
  );
  assert.deepEqual(
    (devices as string[]).filter((path) => !harmless.includes(path)),
    [],
  );
});

test('finds a mount that allows set-uid programs or devices', async () => {
  const mounts = await inside(server, `print(open('/proc/self/mountinfo').read())`);
  const lines = mounts.split('\n').map((line) => line.split(' '));
  assert.ok(lines.length > 10);
  assert.deepEqual(
    lines.filter(([, , , , , flags]) => !/\bnosuid\b/.test(flags ?? '')),
    [],
  );
  // The device nodes themselves are bound one by one; nothing else may hold any.
  assert.deepEqual(
    lines.filter(([, , , , at, flags]) => !/\bnodev\b/.test(flags ?? '') && !(at ?? '').startsWith('/dev/')),
    [],
  );
});

test('finds a mount that can be written beyond its own places', async () => {
  const mounts = await inside(server, `print(open('/proc/self/mountinfo').read())`);
  const own = ['/proc', '/tmp', '/dev/shm', '/dev/pts', server.workspace, join(server.workspace, 'run.py')];
  const devices = ['/dev/null', '/dev/zero', '/dev/full', '/dev/random', '/dev/urandom', '/dev/tty'];
  const writable = mounts.split('\n').filter((line) => /^\S+ \S+ \S+ \S+ \S+ rw,/.test(line));
  assert.deepEqual(
    writable.map((line) => line.split(' ')[4] ?? '').filter((at) => ![...own, ...devices].includes(at)),
    [],
  );
});

test('becomes root through a set-uid program: su, mount, passwd', async () => {
  const attack = `
import os, subprocess
for program in ('/usr/bin/su', '/usr/bin/mount', '/usr/bin/passwd', '/usr/bin/chsh', '/usr/bin/newgrp'):
    if os.path.exists(program) and os.stat(program).st_uid == 0 and os.stat(program).st_mode & 0o4000: print(program)`;
  assert.notEqual(outside(attack), '', 'this host has no set-uid program');
  assert.equal(await inside(server, attack), '', 'no program belongs to a root that the run could become');
  const { body } = await runSh(server, ['su', '-c', 'id -u', 'root']);
  assert.notEqual(body.returncode, 0);
  assert.doesNotMatch(body.stdout, /^0$/m);
});

test('leaves a set-uid program in the workspace for an accomplice on the host', async () => {
  const attack = `
import os, shutil
shutil.copy('/usr/bin/id', 'climb')
for mode in (0o4755, 0o2755, 0o6755):
    for change in (lambda: os.chmod('climb', mode), lambda: os.fchmod(os.open('climb', os.O_RDONLY), mode), lambda: os.close(os.open('climb%o' % mode, os.O_CREAT, mode)), lambda: os.mknod('node%o' % mode, mode)):
        try: change()
        except OSError: pass
`;
  try {
    await inside(server, attack);
    // A command finds no file of ours: the one on which code was mounted is gone before it starts.
    await runSh(server, ['true']);
    const modes = readdirSync(server.workspace).map((name) =>
      outside(`import os; print(oct(os.lstat(${py(join(server.workspace, name))}).st_mode & 0o6000))`),
    );
    assert.deepEqual(
      modes,
      modes.map(() => '0o0'),
    );
  } finally {
    await inside(server, `import os, glob\nfor n in glob.glob('climb*') + glob.glob('node*'): os.unlink(n)`);
  }
});

test('hard-links files of the host into the workspace', async () => {
  const got = await inside(
    server,
    `
import os
for path in ('/usr/bin/su', '/etc/passwd', '/etc/hosts', '/usr/bin/env', '/proc/self/exe', '/dev/null'):
    for follow in (True, False):
        try: os.link(path, 'linked', follow_symlinks=follow); print(path)
        except OSError: pass`,
  );
  assert.equal(got, '');
});

test('reads what the run before it left in /tmp, /dev/shm and shared memory', async () => {
  const leave = `
import os, ctypes
open('/tmp/left', 'w').close(); open('/dev/shm/left', 'w').close()
ctypes.CDLL(None).shmget(4711, 4096, 0o1666)
os.makedirs(os.environ['HOME'] + '/.config', exist_ok=True)`;
  await inside(server, leave);
  const got = await inside(
    server,
    `
import os, ctypes
workspace_top = ${py(server.workspace.split('/')[2] ?? '')}
print([n for n in os.listdir('/tmp') + os.listdir('/dev/shm') if n != workspace_top], ctypes.CDLL(None).shmget(4711, 4096, 0))`,
  );
  assert.equal(got, '[] -1');
});

test('reads through a link that it left in the workspace, with the rights of the upload', async () => {
  const parent = dirname(server.workspace);
  mkdirSync(join(parent, 'victim'), { recursive: true });
  chmodSync(join(parent, 'victim'), 0o777);
  await inside(
    server,
    `
import os
os.symlink(${py(join(parent, 'victim'))}, 'out'); os.symlink('../victim', 'out2'); os.symlink('/proc/self/root/tmp', 'out3'); os.symlink('/proc/self/cwd', 'out4')`,
  );
  for (const link of ['out', 'out2', 'out3', 'out4']) {
    const answer = await put(server, `${link}/planted`, 'x');
    assert.equal(answer.status, 400, JSON.stringify(answer.body));
    const { status } = await runPy(server, 'print(1)', { filename: `${link}/planted.py` });
    assert.equal(status, 400);
  }
  assert.deepEqual(readdirSync(join(parent, 'victim')), []);
  assert.ok(!existsSync('/tmp/planted'));
  for (const path of ['../planted', 'a/../../planted', '/../planted', 'out/../../planted']) {
    assert.equal((await put(server, path, 'x')).status, 400);
    assert.equal((await runPy(server, 'print(1)', { filename: path })).status, 400);
  }
  assert.ok(!existsSync(join(parent, 'planted')));
});

test('changes the Python that the next run gets: site-packages, .pth, sitecustomize, user site', async () => {
  const got = await inside(
    server,
    `
import os, site, sys
for dir in site.getsitepackages() + sys.path[1:] + [os.path.dirname(os.__file__)]:
    try: open(dir + '/sitecustomize.py', 'w').close(); print(dir)
    except OSError: pass
os.makedirs(site.getusersitepackages(), exist_ok=True)
open(site.getusersitepackages() + '/evil.pth', 'w').write('import os; os.environ["EVIL"] = "1"\\n')`,
  );
  assert.equal(got, '');
  assert.equal(await inside(server, `import os; print('EVIL' in os.environ)`), 'False');
});
