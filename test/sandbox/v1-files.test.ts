/**
 * Attacks on the files of `/v1`: a live run swaps names for links out of its workspace, as fast as it can, while each
 * operation goes through them. Nothing outside may change, and nothing of it may be told.
 */
import assert from 'node:assert/strict';
import {
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import { tarHeader, tarPadding, TAR_END } from '../../src/runner/tar.ts';
import { RUN_UID, runPy, startServer, type Server } from '../support/server.ts';
import { outside, py, until } from './attack.ts';

const WS = '/v1/workspaces/default';
const SECRET = 'the secret of another';
/** No file of a run has it. */
const SECRET_SIZE = 4321;
const ROUNDS = 40;
const complaints: string[] = [];

let server: Server;
let victim: string;
before(async () => {
  server = await startServer({
    split: true,
    env: { NOX_TIMEOUT: '120', NOX_SLOTS: '3', NOX_MAX_CPU: '120' },
  });
  victim = mkdtempSync(join(tmpdir(), 'nox-victim-'));
  mkdirSync(join(victim, 'sub'));
  for (const name of ['f', 'only-outside', 'sub/f'])
    writeFileSync(join(victim, name), SECRET.padEnd(SECRET_SIZE));
  if (process.getuid?.() === 0)
    for (const name of ['', 'f', 'sub', 'sub/f', 'only-outside'])
      chownSync(join(victim, name), RUN_UID, RUN_UID);
  outside(`open(${py(join(victim, 'probe'))}, 'w').close()`);
  rmSync(join(victim, 'probe'));
});
after(async () => {
  await server.stop();
  rmSync(victim, { recursive: true });
});

function picture(dir: string): unknown[] {
  return readdirSync(dir, { recursive: true })
    .map(String)
    .sort()
    .map((name) => {
      const stats = lstatSync(join(dir, name));
      const content = stats.isFile() ? readFileSync(join(dir, name), 'utf8') : '';
      return [name, stats.ino, stats.mode, stats.nlink, stats.mtimeMs, content];
    });
}

const call = (method: string, path: string, body?: object | Uint8Array) =>
  fetch(`${server.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${server.token}` },
    signal: AbortSignal.timeout(30_000),
    ...(body === undefined
      ? {}
      : { body: body instanceof Uint8Array ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body) }),
  });

/** Swaps `d`, a directory, and `x`, a file, with links out and with what cannot be read. */
const swapper = () => `
import ctypes, os, shutil
libc = ctypes.CDLL(None)
victim = ${py(victim)}
def fill():
    os.makedirs('d/sub', exist_ok=True)
    for name in ('d/f', 'd/sub/f'):
        with open(name, 'w') as file: file.write('inside')
fill()
with open('x', 'w') as file: file.write('inside')
ups = '../' * 9 + victim[1:]
for n, target in enumerate((victim, ups, '/proc/self/root' + victim, '/proc/1/cwd/' + ups)):
    os.symlink(target, f'dirlink{n}')
    os.symlink(target + '/f', f'filelink{n}')
os.mkfifo('fifo')
open('swapping', 'w').close()
n = 0
while os.path.exists('swapping') or n < 100:
    # RENAME_EXCHANGE: at every moment something has the name.
    for a, b in ((b'd', f'dirlink{n % 4}'.encode()), (b'x', f'filelink{n % 4}'.encode()), (b'x', b'fifo')):
        libc.renameat2(-100, a, -100, b, 2); libc.renameat2(-100, a, -100, b, 2)
    if n % 50 == 0:
        try: fill()
        except OSError: pass
    n += 1
print(n)`;

/** @param operate makes one call; what comes back is looked through for what is not the workspace's */
async function attack(operate: (n: number) => Promise<Response>): Promise<void> {
  const before = picture(victim);
  const beside = readdirSync(join(server.workspace, '..')).sort();
  const swapping = runPy(server, swapper());
  await until('it swaps', async () => (await call('GET', `${WS}/files/stat?path=swapping`)).status === 200);
  const statuses = new Map<number, number>();
  try {
    await roundsOf(operate, statuses);
  } finally {
    await call('DELETE', `${WS}/files?path=swapping`);
    const { body } = await swapping;
    assert.ok(Number(body.stdout) >= 100, JSON.stringify(body));
    for (const name of readdirSync(server.workspace)) {
      const gone = await call('DELETE', `${WS}/files?path=${encodeURIComponent(name)}&recursive=true`);
      assert.ok([204, 404].includes(gone.status), `${name}: ${await gone.text()}`);
    }
  }
  assert.deepEqual(readdirSync(server.workspace), []);
  assert.deepEqual(picture(victim), before);
  assert.deepEqual(readdirSync(join(server.workspace, '..')).sort(), beside);
  assert.ok(![...statuses.keys()].some((status) => status >= 500), [...complaints, faults()].join('\n'));
}

/** What the server says of its own failures. */
const faults = (): string =>
  server
    .log()
    .split('\n')
    .filter((line) => line.includes('"level":50'))
    .slice(-3)
    .join('\n');

async function roundsOf(
  operate: (n: number) => Promise<Response>,
  statuses: Map<number, number>,
): Promise<void> {
  for (let n = 0; n < ROUNDS; n += 1) {
    const response = await operate(n);
    let data = Buffer.from(await response.arrayBuffer());
    if (data[0] === 0x1f && data[1] === 0x8b) data = gunzipSync(data);
    const text = data.toString('latin1');
    // A refusal repeats the path that was asked for.
    const own = response.ok ? ['only-outside'] : [];
    for (const word of [SECRET, ...own, `"size":${String(SECRET_SIZE)}`])
      assert.ok(!text.includes(word), `${String(response.status)} ${text.slice(0, 500)}`);
    if (response.status >= 500) complaints.push(text);
    statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
  }
}

const archive = (): Uint8Array => {
  const data = Buffer.from('unpacked');
  const facts = { type: 'file' as const, size: data.length, mode: 0o644, mtime: 0 };
  const entry = (name: string) =>
    Buffer.concat([tarHeader({ name, ...facts }), data, tarPadding(data.length)]);
  return gzipSync(Buffer.concat([entry('f'), entry('sub/f'), entry('planted'), TAR_END]));
};

const THROUGH: Readonly<Record<string, (n: number) => Promise<Response>>> = {
  'a read in a directory': () => call('GET', `${WS}/files/content?path=d/f`),
  'a read of a file': () => call('GET', `${WS}/files/content?path=x`),
  'a look': (n) => call('GET', `${WS}/files/stat?path=${n % 2 === 0 ? 'd/f' : 'd/only-outside'}`),
  'a list': (n) => call('GET', `${WS}/files?path=${n % 2 === 0 ? 'd' : 'd/sub'}`),
  'a list of everything': () => call('GET', `${WS}/files?recursive=true&limit=1000`),
  'a write in a directory': (n) =>
    call('PUT', `${WS}/files/content?path=d/planted-${String(n)}`, Buffer.from('planted')),
  'a write below it': (n) =>
    call('PUT', `${WS}/files/content?path=d/new-${String(n)}/sub/f`, Buffer.from('planted')),
  'a write over a file': () => call('PUT', `${WS}/files/content?path=x`, Buffer.from('inside')),
  'an append': (n) =>
    call('POST', `${WS}/files/append?path=${n % 2 === 0 ? 'd/f' : 'x'}`, Buffer.from('planted')),
  'a removal of a file': () => call('DELETE', `${WS}/files?path=d/f`),
  'a removal of a tree': () => call('DELETE', `${WS}/files?path=d/sub&recursive=true`),
  'a removal of what is swapped': () => call('DELETE', `${WS}/files?path=d&recursive=true`),
  'a move out of a directory': (n) =>
    call('POST', `${WS}/files/move`, { from: n % 2 === 0 ? 'd/f' : 'd/sub', to: `moved-${String(n)}` }),
  'a move into a directory': (n) =>
    call('POST', `${WS}/files/move`, { from: 'x', to: `d/planted-${String(n)}` }),
  'a copy of a file': (n) => call('POST', `${WS}/files/copy`, { from: 'x', to: `copy-${String(n)}` }),
  'a copy of a tree': (n) => call('POST', `${WS}/files/copy`, { from: 'd', to: `copy-${String(n)}` }),
  'a copy into a directory': (n) =>
    call('POST', `${WS}/files/copy`, { from: 'swapping', to: `d/planted-${String(n)}` }),
  'a new directory': (n) =>
    call('POST', `${WS}/files/mkdir`, { path: `d/planted-${String(n)}/deep`, parents: true }),
  'an archive of everything': (n) => call('GET', `${WS}/archive?format=${n % 2 === 0 ? 'tar.gz' : 'zip'}`),
  'an archive of a directory': () => call('GET', `${WS}/archive?path=d`),
  'an archive unpacked into a directory': () => call('PUT', `${WS}/archive?path=d`, archive()),
};

for (const [name, operate] of Object.entries(THROUGH))
  test(`swaps directories and files for links outside under ${name}`, () => attack(operate));

test('swaps them under copies of the whole workspace: what is in the copies is the workspace’s own', async () => {
  const made: string[] = [];
  await attack(async (n) => {
    // Some of them only: each is a copy of everything.
    if (n % 8 !== 0) return call('GET', `${WS}/files/stat?path=swapping`);
    const response = await call('POST', n % 16 === 0 ? `${WS}/clone` : `${WS}/snapshots`, {});
    const text = await response.clone().text();
    if (n % 16 === 0 && response.status === 201) made.push((JSON.parse(text) as { id: string }).id);
    return response;
  });
  const shelf = join(server.workspace, '..', 'workspaces');
  const grep = outside(`
import os
for top, dirs, files in os.walk(${py(shelf)}):
    for name in files:
        path = os.path.join(top, name)
        if not os.path.islink(path) and os.path.isfile(path) and ${py(SECRET)} in open(path, errors='replace').read(): print(path)`);
  assert.equal(grep, '');
  assert.ok(made.length > 0);
  for (const id of made) assert.equal((await call('DELETE', `/v1/workspaces/${id}`)).status, 204);
});

test('swaps what is being unpacked and what is being removed: only its own is touched', async () => {
  const code = `
import os
victim = ${py(victim)}
open('swapping', 'w').close()
n = 0
while os.path.exists('swapping'):
    for name in os.listdir('.'):
        if not name.startswith('.nox-'): continue
        try:
            os.rename(name, f'taken-{n}')
            os.symlink(victim, name)
            n += 1
        except OSError: pass
print(n + 1000)`;
  const before = picture(victim);
  const swapping = runPy(server, code);
  await until('it swaps', async () => (await call('GET', `${WS}/files/stat?path=swapping`)).status === 200);
  const statuses: number[] = [];
  for (let n = 0; n < ROUNDS; n += 1) {
    statuses.push((await call('PUT', `${WS}/archive?path=to-${String(n)}`, archive())).status);
    statuses.push(
      (await call('PUT', `${WS}/files/content?path=dir-${String(n)}/f`, Buffer.from('x'))).status,
    );
    statuses.push((await call('POST', `${WS}/files/append?path=log-${String(n)}`, Buffer.from('x'))).status);
    statuses.push(
      (await call('POST', `${WS}/files/copy`, { from: `dir-${String(n)}`, to: `copy-${String(n)}` })).status,
    );
    statuses.push((await call('DELETE', `${WS}/files?path=dir-${String(n)}&recursive=true`)).status);
  }
  await call('DELETE', `${WS}/files?path=swapping`);
  const { body } = await swapping;
  assert.ok(Number(body.stdout) > 1000, JSON.stringify(body));
  assert.deepEqual(picture(victim), before);
  assert.deepEqual(
    [...new Set(statuses)].filter((status) => status >= 500),
    [],
    faults(),
  );
});

test('a run cannot reach what is kept of workspaces, their snapshots, or another workspace', async () => {
  await call('POST', '/v1/workspaces', { id: 'other' });
  await call('PUT', '/v1/workspaces/other/files/content?path=f', Buffer.from(SECRET));
  await call('POST', `${WS}/snapshots`, {});
  const { body } = await runPy(
    server,
    `
import os
found = []
for top, dirs, files in os.walk('/', onerror=None):
    if top.startswith(('/proc', '/usr', '/dev')): dirs[:] = []; continue
    found += [os.path.join(top, name) for name in files + dirs if name in ('workspace.json', 'snapshot.json', 'snapshots', 'workspaces', 'other')]
print(found, os.path.exists(${py(join(server.workspace, '..', 'workspaces'))}))`,
  );
  assert.equal(body.stdout, '[] False\n');
});
