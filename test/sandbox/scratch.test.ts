/** Attacks from one scratch run on the next of the same token, on those of another, and with what a request may carry. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { startServer, type Server } from '../support/server.ts';

let server: Server;
before(async () => {
  server = await startServer({ env: { NOX_SLOTS: '2' } });
});
after(() => server.stop());

type Json = Record<string, unknown>;
async function run(body: Json): Promise<{ status: number; body: Json }> {
  const response = await fetch(`${server.url}/v1/runs`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}` },
    body: JSON.stringify(body),
  });
  return { status: response.status, body: (await response.json()) as Json };
}
const stdoutOf = async (body: Json): Promise<string> => {
  const answer = await run(body);
  assert.equal(answer.body['outcome'], 'ok', JSON.stringify(answer.body));
  return String(answer.body['stdout']);
};

/** Leaves something in each place that it can write to. */
const LEAVE = `
import os, socket, subprocess
for place in ('.', '/tmp', '/dev/shm'):
    open(place + '/left-behind', 'w').write('x')
os.mkfifo('left-fifo')
os.symlink('/etc/passwd', 'left-link')
s = socket.socket(socket.AF_UNIX); s.bind('/tmp/left-socket'); s.listen()
a = socket.socket(socket.AF_UNIX); a.bind('\\0left-abstract'); a.listen()
t = socket.socket(); t.bind(('127.0.0.1', 47113)); t.listen()
try: m = os.memfd_create('left-memfd'); os.write(m, b'left in memory')
except OSError: pass  # without a cgroup there is none
subprocess.Popen(['sleep', '61.4711'], start_new_session=True)
print('left', flush=True)
`;
const LOOK = `
import os, socket, json, glob
found = [p + '/' + n for p in ('.', '/tmp', '/dev/shm') for n in os.listdir(p) if n.startswith('left')]
for family, address in ((socket.AF_UNIX, '\\0left-abstract'), (socket.AF_INET, ('127.0.0.1', 47113))):
    try:
        socket.socket(family).connect(address); found.append(str(address))
    except OSError: pass
for fd in glob.glob('/proc/[0-9]*/fd/*'):
    try:
        if 'left' in os.readlink(fd): found.append(fd)
    except OSError: pass
for c in glob.glob('/proc/[0-9]*/cmdline'):
    try:
        if '61.4711' in open(c).read(): found.append(c)
    except OSError: pass
found += [l for l in open('/proc/self/mountinfo') if 'left' in l]
print(json.dumps(found))
`;

test('leaves files, sockets, memory and processes for the next run: it finds none, nor does the host', async () => {
  for (let round = 0; round < 3; round += 1) {
    assert.equal(await stdoutOf({ code: LEAVE }), 'left\n');
    assert.equal(await stdoutOf({ code: LOOK }), '[]\n');
  }
  assert.ok(!readdirSync(server.workspace).some((name) => name.startsWith('left')));
});

test('reaches a run of the same token that is alive beside it', async () => {
  const leaving = run({ code: `${LEAVE}\nimport time; time.sleep(1.5)` });
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.equal(await stdoutOf({ code: LOOK }), '[]\n');
  assert.equal((await leaving).body['outcome'], 'ok');
});

test('hears by inotify of what another does in its workspace', async () => {
  const watch = `
import ctypes, os, select, sys
libc = ctypes.CDLL(None)
fd = libc.inotify_init()
if fd < 0: print('[]'); sys.exit()
for p in ('.', '/tmp', '/dev/shm'): libc.inotify_add_watch(fd, p.encode(), 0xfff)
open('own', 'w').close()
assert select.select([fd], [], [], 1)[0], 'own changes are heard'
while select.select([fd], [], [], 0.1)[0]: os.read(fd, 65536)
print('heard' if select.select([fd], [], [], 1.5)[0] else '[]')
`;
  const watching = stdoutOf({ code: watch });
  await new Promise((resolve) => setTimeout(resolve, 700));
  await run({ code: LEAVE });
  assert.equal(await watching, '[]\n');
});

test('writes files by names that leave the workspace', async () => {
  const secret = { text: 'escaped' };
  for (const path of [
    '../out',
    'a/../../out',
    '..',
    '.',
    '/',
    '',
    'a\0b',
    'x'.repeat(256),
    'a/'.repeat(3000),
  ]) {
    const { status, body } = await run({ command: ['true'], files: [{ path, ...secret }] });
    assert.ok(status >= 400 && status < 500, `${JSON.stringify(path.slice(0, 40))}: ${JSON.stringify(body)}`);
  }
  // A leading slash is the workspace's, as in an upload.
  for (const path of ['/etc/nox-escaped', '/tmp/nox-escaped', 'proc/self/mem'])
    await run({ command: ['true'], files: [{ path, ...secret }] });
  assert.ok(!existsSync('/etc/nox-escaped') && !existsSync('/tmp/nox-escaped'));
  for (const body of [
    { code: '', entry: '../x.py' },
    { runtime: 'bash', code: 'true', entry: '../../x' },
  ])
    assert.equal((await run(body)).body['code'], 'invalid_path');
});

test('names that are both file and directory, names by the hundred: a clean answer, and the next run works', async () => {
  const both = [
    { path: 'a', text: '' },
    { path: 'a/b', text: '' },
  ];
  for (const body of [
    { code: '', files: both },
    { command: ['true'], files: both },
  ])
    assert.deepEqual((await run(body)).body['code'], 'invalid_path');
  assert.equal(
    (await run({ code: '', entry: 'a/b.py', files: [{ path: 'a', text: '' }] })).body['code'],
    'invalid_path',
  );
  const files = Array.from({ length: 700 }, (_, index) => ({
    path: `f${String(index)}`,
    text: String(index),
  }));
  for (const body of [
    { code: 'import os; print(len(os.listdir()))', files },
    { command: ['bash', '-c', 'ls | wc -l'], files },
  ])
    assert.match(await stdoutOf(body), /^70[01]\n$/);
  assert.equal((await fetch(`${server.url}/health`)).status, 200);
});

test('an environment that would turn a program round harms nobody but the run', async () => {
  const env = {
    PYTHONPATH: '.',
    PYTHONSTARTUP: 'evil.py',
    LD_PRELOAD: './evil.so',
    PATH: '.:/usr/bin',
    BASH_ENV: './evil.sh',
    HOME: '/proc/1',
  };
  const files = [
    { path: 'sitecustomize.py', text: 'print("evil")' },
    { path: 'evil.sh', text: 'echo evil' },
    { path: 'evil.so', text: 'no library' },
  ];
  await run({ code: 'print(1)', env, files });
  await run({ command: ['bash', '-c', 'true'], env, files });
  for (const body of [
    { code: 'import os; print("clean", os.environ.get("PYTHONPATH"))' },
    { command: ['bash', '-c', 'echo clean None'] },
  ])
    assert.equal(await stdoutOf(body), 'clean None\n');
  for (const bad of [{ 'A=B': 'x' }, { 'A\0B': 'x' }, { A: 'x\0LD_PRELOAD=y' }, { '': 'x' }])
    assert.equal((await run({ code: '', env: bad })).body['code'], 'invalid_request', JSON.stringify(bad));
});
