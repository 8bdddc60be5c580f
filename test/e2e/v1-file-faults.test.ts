/** Files and workspaces over HTTP: 10,000 in a directory, names of every kind, a runner that is killed, a full disk. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import {
  eventually,
  makeDirectory,
  restart,
  RUN_UID,
  runPy,
  withServer,
  type Server,
} from '../support/server.ts';
import { call, type Json } from '../support/v1.ts';

const WS = '/v1/workspaces/default';
const SPLIT = { split: true, env: { NOX_TIMEOUT: '120' } };

/** Percent-encoded, byte by byte. */
const encoded = (name: Buffer): string => name.toString('hex').replace(/../g, '%$&');
/** A path of an answer as bytes: what is no UTF-8 is there as lone surrogates. */
function bytesOf(path: string): Buffer {
  return Buffer.concat(
    Array.from(path, (letter) => {
      const code = letter.codePointAt(0) ?? 0;
      return code >= 0xdc80 && code <= 0xdcff ? Buffer.from([code - 0xdc00]) : Buffer.from(letter);
    }),
  );
}

const download = async (server: Server, path: string): Promise<Buffer> => {
  const response = await fetch(`${server.url}${path}`, {
    headers: { authorization: `Bearer ${server.token}` },
  });
  const body = Buffer.from(await response.arrayBuffer());
  assert.equal(response.status, 200, body.toString());
  return body;
};
const upload = async (server: Server, path: string, body: Buffer): Promise<number> => {
  const response = await fetch(`${server.url}${path}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${server.token}` },
    body: new Uint8Array(body),
  });
  const text = await response.text();
  assert.ok(response.status < 300, text);
  return response.status;
};

/** The paths in a directory, page by page, as they were answered. */
async function list(server: Server, path: string, limit: number): Promise<string[]> {
  const paths: string[] = [];
  for (let after = ''; ;) {
    const { status, body } = await call(
      server,
      'GET',
      `${WS}/files?path=${path}&limit=${String(limit)}${after}`,
    );
    assert.equal(status, 200, JSON.stringify(body));
    const { entries, next } = body as { entries: { path: string }[]; next: string | null };
    assert.ok(entries.length <= limit);
    paths.push(...entries.map((entry) => entry.path));
    if (next === null) return paths;
    after = `&after=${encodeURIComponent(next)}`;
  }
}

const entriesOf = async (server: Server, id = 'default'): Promise<number> => {
  const { body } = await call(server, 'GET', `/v1/workspaces/${id}`);
  return (body as { usage: { entries: number } }).usage.entries;
};
const snapshotsOf = async (server: Server): Promise<Json[]> =>
  (await call(server, 'GET', `${WS}/snapshots`)).body['snapshots'] as Json[];

/** Makes so many files in a directory by a run. */
async function fill(server: Server, dir: string, count: number): Promise<void> {
  const code = `import os
os.makedirs(${JSON.stringify(dir)})
for n in range(${String(count)}):
    with open(f'${dir}/{n:05}', 'w') as f: f.write(str(n))`;
  const { body } = await runPy(server, code);
  assert.equal(body.returncode, 0, JSON.stringify(body));
}

test('10,000 files in one directory: listed, packed, removed, unpacked, kept, restored, cloned', () =>
  withServer(SPLIT, async (server) => {
    await fill(server, 'many', 10_000);
    const names = Array.from({ length: 10_000 }, (_, n) => String(n).padStart(5, '0'));
    const inDirectory = (dir: string) => names.map((name) => `${dir}/${name}`);
    assert.deepEqual(await list(server, 'many', 1000), inDirectory('many'));
    const archive = await download(server, `${WS}/archive?path=many`);
    assert.equal((await call(server, 'DELETE', `${WS}/files?path=many&recursive=true`)).status, 204);
    assert.deepEqual(await list(server, '', 10), []);
    await upload(server, `${WS}/archive?path=again`, archive);
    assert.deepEqual(await list(server, 'again', 1000), inDirectory('again'));
    assert.equal((await download(server, `${WS}/files/content?path=again/09999`)).toString(), '9999');
    const before = await entriesOf(server);
    assert.ok(before >= 10_001, String(before));
    const snapshot = await call(server, 'POST', `${WS}/snapshots`, {});
    assert.equal(snapshot.status, 201, JSON.stringify(snapshot.body));
    assert.equal((await call(server, 'DELETE', `${WS}/files?path=again&recursive=true`)).status, 204);
    assert.equal(await entriesOf(server), before - 10_001);
    const back = await call(server, 'POST', `${WS}/snapshots/${String(snapshot.body['id'])}/restore`);
    assert.equal(back.status, 204);
    assert.deepEqual(await list(server, 'again', 1000), inDirectory('again'));
    assert.equal((await call(server, 'POST', `${WS}/clone`, { id: 'clone' })).status, 201);
    assert.equal(await entriesOf(server, 'clone'), before);
  }));

test('names of every kind that Linux allows: listed, read, moved, packed, kept, removed, each as it is', () =>
  withServer(SPLIT, async (server) => {
    const names = [
      ...Array.from({ length: 255 }, (_, byte) => Buffer.from([byte + 1])).filter(
        ([byte]) => byte !== 0x2f && byte !== 0x2e,
      ),
      ...[
        '...',
        '..x',
        '-rf',
        '--help',
        '%00',
        '%2f',
        '$(id)',
        '`id`',
        'a\'b"c',
        'a\\b',
        ' x ',
        '\r\n',
        '**',
      ],
      ...[
        '.nox-mine',
        '.nox-0123456789abcdef01234567.tmp',
        'n'.repeat(255),
        'é'.repeat(127),
        '😀',
        '\u202egnp.exe',
      ],
      // The same letter in two ways, one that is invisible, and one that a JSON parser might take away.
      ...['\u00e9', 'e\u0301', '\ufeff', '__proto__', 'constructor', 'CON', 'a:b', 'a\tb'],
      // Surrogates and an overlong slash, none of them UTF-8; a character that is cut off.
      ...['\xed\xa0\x80', '\xed\xb3\xbf', '\xc0\xaf', '\xe2\x82', '\xff'.repeat(255)].map((name) =>
        Buffer.from(name, 'latin1'),
      ),
    ].map((name) => Buffer.from(name as string));
    const sorted = names.toSorted((a, b) => Buffer.compare(a, b));
    const inDirectory = (dir: string) => sorted.map((name) => Buffer.concat([Buffer.from(`${dir}/`), name]));
    const check = async (dir: string, limit: number) => {
      assert.deepEqual((await list(server, dir, limit)).map(bytesOf), inDirectory(dir), dir);
    };
    const code = `import os
os.mkdir('names')
for name in ${JSON.stringify(names.map((name) => name.toString('hex')))}:
    name = bytes.fromhex(name)
    with open(b'names/' + name, 'xb') as f: f.write(name)`;
    const { body: made } = await runPy(server, code);
    assert.equal(made.returncode, 0, made.stderr);

    await check('names', 17);
    const texts = await list(server, 'names', 1000);
    for (const text of texts) {
      const name = bytesOf(text).subarray('names/'.length);
      const content = await download(server, `${WS}/files/content?path=names/${encoded(name)}`);
      assert.deepEqual(content, name);
      const moved = await call(server, 'POST', `${WS}/files/move`, {
        from: text,
        to: text.replace('names', 'moved'),
      });
      assert.equal(moved.status, 200, JSON.stringify(moved.body));
    }
    await check('moved', 1000);
    for (const format of ['tar.gz', 'zip']) {
      const archive = await download(server, `${WS}/archive?path=moved&format=${format}`);
      await upload(server, `${WS}/archive?path=${format}&format=${format}`, archive);
      await check(format, 100);
    }
    const { body: snapshot } = await call(server, 'POST', `${WS}/snapshots`, {});
    for (const text of await list(server, 'tar.gz', 1000)) {
      const path = `tar.gz/${encoded(bytesOf(text).subarray('tar.gz/'.length))}`;
      assert.equal((await call(server, 'DELETE', `${WS}/files?path=${path}`)).status, 204, path);
    }
    assert.deepEqual(await list(server, 'tar.gz', 10), []);
    assert.equal((await call(server, 'DELETE', `${WS}/files?path=zip&recursive=true`)).status, 204);
    assert.equal(
      (await call(server, 'POST', `${WS}/snapshots/${String(snapshot['id'])}/restore`)).status,
      204,
    );
    for (const dir of ['tar.gz', 'zip', 'moved']) await check(dir, 1000);
    const { body: read } = await runPy(
      server,
      `import os; print(sum(open(b'zip/' + name, 'rb').read() == name for name in os.listdir(b'zip')))`,
    );
    assert.equal(read.stdout, `${String(names.length)}\n`);
  }));

const shelfOf = (server: Server): string => join(dirname(server.workspace), 'workspaces');
const namesIn = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir) : []);
const halves = (dir: string): string[] => namesIn(dir).filter((name) => /^\.(half|nox)-/.test(name));

/** Kills the runner as soon as something half made is there. @returns whether it was killed before that was whole */
async function killMidway(
  server: Server,
  half: () => boolean,
  begin: () => Promise<unknown>,
): Promise<boolean> {
  const runner = server.processes.findLast(({ spawnargs }) =>
    spawnargs.some((each) => each.endsWith('/runner/main.js')),
  );
  assert.ok(runner !== undefined);
  const request = { over: false };
  const begun = begin()
    .catch(() => undefined)
    .finally(() => (request.over = true));
  while (!half() && !request.over) await new Promise(setImmediate);
  const exited = once(runner, 'exit');
  runner.kill('SIGKILL');
  await exited;
  await begun;
  return half();
}

describe('the runner killed -9', () => {
  test('in the middle of a snapshot and of a clone: none that is half is there, the next start sweeps', () =>
    withServer(SPLIT, async (first) => {
      let server = first;
      await fill(server, 'tree', 10_000);
      const before = await entriesOf(server);
      const cases = [
        {
          dir: join(shelfOf(server), 'default/snapshots'),
          begin: () => call(server, 'POST', `${WS}/snapshots`, {}),
          made: async () => (await snapshotsOf(server)).length,
        },
        {
          dir: shelfOf(server),
          begin: () => call(server, 'POST', `${WS}/clone`, { id: 'half' }),
          made: async () => ((await call(server, 'GET', '/v1/workspaces/half')).status === 200 ? 1 : 0),
        },
      ];
      for (const { dir, begin, made } of cases) {
        assert.ok(await killMidway(server, () => halves(dir).length > 0, begin), `${dir}: it was half made`);
        server = await restart(server, 'runner');
        await eventually('swept', () => halves(dir).length === 0);
        assert.equal(await made(), 0);
        assert.equal(await entriesOf(server), before);
        assert.equal((await begin()).status, 201);
        assert.equal(await made(), 1);
      }
      assert.equal(await entriesOf(server, 'half'), before);
    }));

  test('in the middle of a restore: all of the old files or all of the new, and nothing else', () =>
    withServer(SPLIT, async (first) => {
      let server = first;
      await fill(server, 'tree', 2000);
      const { body: snapshot } = await call(server, 'POST', `${WS}/snapshots`, {});
      const before = await entriesOf(server);
      const note = join(shelfOf(server), 'default/restore');
      // Copying, and with the first files in their places.
      for (const half of [() => halves(server.workspace).length > 0, () => existsSync(note)]) {
        await upload(server, `${WS}/files/content?path=later`, Buffer.from('x'));
        await killMidway(server, half, () =>
          call(server, 'POST', `${WS}/snapshots/${String(snapshot['id'])}/restore`),
        );
        server = await restart(server, 'runner');
        await eventually('finished', () => halves(server.workspace).length === 0 && !existsSync(note));
        const old = existsSync(join(server.workspace, 'later'));
        assert.equal(await entriesOf(server), old ? before + 1 : before);
        assert.equal(readFileSync(join(server.workspace, 'tree/01999'), 'utf8'), '1999');
      }
      assert.equal((await snapshotsOf(server)).length, 1);
    }));
});

/** Begins to send a body of a megabyte, and does not go on. */
async function beginUpload(server: Server, method: string, path: string): Promise<Socket> {
  const { port, hostname } = new URL(server.url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  socket.write(
    `${method} ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token}\r\nContent-Length: 1000000\r\n\r\n`,
  );
  socket.write(Buffer.alloc(300_000, 'x'));
  await eventually('the upload has begun', () => halves(server.workspace).length > 0);
  return socket;
}

for (const half of ['gateway', 'runner'] as const)
  test(`${half} killed -9 in the middle of an upload of each kind: the old file, and nothing else`, () =>
    withServer(SPLIT, async (first) => {
      let server = first;
      await upload(server, `${WS}/files/content?path=f`, Buffer.from('old'));
      for (const [method, path] of [
        ['PUT', `${WS}/files/content?path=f`],
        ['POST', `${WS}/files/append?path=f`],
        ['PUT', `${WS}/archive?path=u&format=zip`],
      ] as const) {
        const socket = await beginUpload(server, method, path);
        server = await restart(server, half, 'SIGKILL');
        await eventually('swept', () => halves(server.workspace).length === 0);
        socket.destroy();
        assert.deepEqual(readdirSync(server.workspace), ['f'], path);
        assert.equal(readFileSync(join(server.workspace, 'f'), 'utf8'), 'old');
        await eventually('it is healthy', async () => (await fetch(`${server.url}/health`)).status === 200);
        assert.equal(await upload(server, `${WS}/files/content?path=f`, Buffer.from('old')), 200);
      }
    }));

test('clients that go in mid-download, or stop reading and go, leave nothing open', () =>
  withServer(SPLIT, async (server) => {
    await upload(server, `${WS}/files/content?path=big`, Buffer.from(''));
    truncateSync(join(server.workspace, 'big'), 2 ** 30);
    const { port, hostname } = new URL(server.url);
    const big = join(server.workspace, 'big');
    const opened = () =>
      server.processes
        .flatMap(({ pid }) =>
          readdirSync(`/proc/${String(pid)}/fd`).map((fd) => `/proc/${String(pid)}/fd/${fd}`),
        )
        .filter((fd) => {
          try {
            return readlinkSync(fd) === big;
          } catch {
            return false;
          }
        }).length;
    for (const path of [`${WS}/files/content?path=big`, `${WS}/archive`, `${WS}/archive?format=zip`])
      for (const stopsReading of [false, true]) {
        const socket = connect(Number(port), hostname);
        socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${server.token}\r\n\r\n`);
        await once(socket, 'data');
        if (stopsReading) {
          socket.pause();
          await eventually('the file is being read', () => opened() > 0);
        }
        socket.destroy();
        await eventually('it is closed', () => opened() === 0);
      }
    assert.equal((await runPy(server, 'print(1)')).body.stdout, '1\n');
  }));

test(
  'the disk of the workspaces full: a snapshot, a clone, a new workspace are refused by name, nothing half is left',
  { skip: process.getuid?.() !== 0 && 'a disk of its own needs root' },
  async () => {
    const dir = await makeDirectory();
    const disk = join(dir, 'disk');
    execFileSync('mkdir', [disk]);
    const owner = `uid=${String(RUN_UID)},gid=${String(RUN_UID)}`;
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=4m,${owner}`, 'tmpfs', disk]);
    try {
      await withServer({ ...SPLIT, env: { NOX_WORKSPACES: join(disk, 'w') } }, async (server) => {
        await upload(server, `${WS}/files/content?path=f`, Buffer.alloc(3 * 2 ** 20, 'x'));
        const shot = () => call(server, 'POST', `${WS}/snapshots`, {});
        assert.equal((await shot()).status, 201);
        const clone = () => call(server, 'POST', `${WS}/clone`, { id: 'copy' });
        for (const begin of [shot, clone]) {
          const { status, body } = await begin();
          assert.deepEqual([status, body['code']], [500, 'sandbox_error'], JSON.stringify(body));
        }
        const [kept, ...others] = await snapshotsOf(server);
        assert.deepEqual(others, []);
        assert.deepEqual([halves(join(disk, 'w')), halves(join(disk, 'w/default/snapshots'))], [[], []]);
        assert.equal((await call(server, 'GET', '/v1/workspaces/copy')).status, 404);
        assert.equal((await call(server, 'DELETE', `${WS}/snapshots/${String(kept?.['id'])}`)).status, 204);
        assert.equal((await clone()).status, 201);
        // Not a byte is left.
        assert.throws(() => {
          for (;;) writeFileSync(join(disk, 'filler'), Buffer.alloc(4096), { flag: 'a' });
        });
        const { status, body } = await call(server, 'POST', '/v1/workspaces', { id: 'new' });
        assert.deepEqual([status, body['code']], [500, 'sandbox_error'], JSON.stringify(body));
        assert.equal((await runPy(server, 'print(1)')).body.stdout, '1\n');
        await rm(join(disk, 'filler'));
        assert.equal((await call(server, 'POST', '/v1/workspaces', { id: 'new' })).status, 201);
      });
    } finally {
      execFileSync('umount', [disk]);
      await rm(dir, { recursive: true });
    }
  },
);
