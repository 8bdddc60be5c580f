/** The audit file: what it says, and that no rotation, no full disk and no stop loses a line without saying so. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, symlinkSync } from 'node:fs';
import { chmod, mkdtemp, readdir, readFile, rename, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { pino } from 'pino';
import { logrotateText } from '../../src/admin/logs.ts';
import { auditCommand } from '../../src/cli/audit.ts';
import { AuditFile } from '../../src/gateway/audit-file.ts';
import { makeDirectory, put, RUN_UID, runPy, runSh, startServer, type Server } from '../support/server.ts';
import { exec, tool, toolEnvironment, until } from '../support/tools.ts';

type Line = Readonly<Record<string, unknown>>;

const log = pino({ level: 'silent' });
const parse = (text: string) =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);

async function open(path: string): Promise<AuditFile> {
  const file = await AuditFile.open(path, log);
  assert(file !== undefined);
  return file;
}

describe('the writer', () => {
  let dir: string;
  let path: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nox-audit-'));
    path = join(dir, 'audit.log');
  });

  const text = (name = 'audit.log') => readFile(join(dir, name), 'utf8');
  const numbers = async (name?: string) => parse(await text(name)).map(({ n }) => n);

  test('a new file and an existing one are 0640, whatever the umask and the mode before', async () => {
    const umask = process.umask(0o077);
    try {
      const first = await open(path);
      first.write({ n: 1 });
      await first.close();
      assert.equal((await stat(path)).mode & 0o7777, 0o640);
      process.umask(0);
      await chmod(path, 0o666);
      const second = await open(path);
      assert.equal((await stat(path)).mode & 0o7777, 0o640);
      await second.close();
    } finally {
      process.umask(umask);
    }
  });

  test('lines are appended to what is there; a torn last line stays alone', async () => {
    await writeFile(path, '{"n":1}\n{"n":');
    const file = await open(path);
    file.write({ n: 2 });
    await file.close();
    const [before, torn, line = ''] = (await text()).split('\n');
    assert.deepEqual([before, torn], ['{"n":1}', '{"n":~']);
    const { n, seq, unchained } = JSON.parse(line) as Line & { unchained: { bytes: number } };
    assert.deepEqual([n, seq, unchained.bytes], [2, 1, 14]);
  });

  test('what was written before the stop is in the file after it; nothing is taken later', async () => {
    const file = await open(path);
    for (let n = 0; n < 10_000; n += 1) file.write({ n });
    await file.close();
    file.write({ n: -1 });
    assert.deepEqual(
      parse(await text()).map(({ n }) => n),
      Array.from({ length: 10_000 }, (_, n) => n),
    );
  });

  test('renamed, removed, replaced: the next line goes to the file that has the name', async () => {
    const file = await open(path);
    const write = async (n: number, name = 'audit.log') => {
      file.write({ n });
      await until(
        `line ${n}`,
        async () => (await text(name).catch(() => '')).includes(`"n":${n},`) || undefined,
      );
    };
    await write(1);
    await rename(path, `${path}.1`);
    await write(2);
    await unlink(path);
    await write(3);
    await rename(path, `${path}.2`);
    await writeFile(path, 'of another\n', { mode: 0o666 });
    await write(4);
    await file.close();
    assert.deepEqual([await numbers('audit.log.1'), await numbers('audit.log.2')], [[1], [3]]);
    assert.match(await text(), /^of another\n~\n\{"seq":4,"prev":"\w+","unchained":\{"bytes":12,.*"n":4,/);
    assert.equal((await stat(path)).mode & 0o777, 0o640);
  });

  const BAD: Record<string, () => void> = {
    'a symbolic link': () => symlinkSync('/etc/passwd', path),
    'a FIFO': () => void execFileSync('mkfifo', [path]),
    'a directory': () => mkdirSync(path),
    'a device': () => (path = '/dev/null'),
    'a missing directory': () => (path = join(dir, 'no/audit.log')),
  };
  for (const [name, make] of Object.entries(BAD)) {
    test(`${name} in its place is refused at once, by name and with the remedy`, async () => {
      make();
      await assert.rejects(open(path), /NOX_AUDIT_FILE: cannot write .*: make it a regular file/);
    });
  }

  test('a symbolic link that comes later is not followed', async () => {
    const file = await open(path);
    file.write({ n: 1 });
    await until('line', async () => (await text()) !== '' || undefined);
    await rename(path, `${path}.1`);
    await writeFile(join(dir, 'victim'), '');
    symlinkSync(join(dir, 'victim'), path);
    file.write({ n: 2 });
    await sleep(200);
    assert.equal(await text('victim'), '');
    await unlink(path);
    await until('line 2', async () => (await numbers().catch(() => []))[0] === 2 || undefined);
    await file.close();
  });

  test('a full disk: nobody waits, one log line, whole lines only, and the lost ones are counted', async () => {
    chmodSync(dir, 0o777);
    const child = fileURLToPath(new URL('../support/full-disk.ts', import.meta.url));
    const { stdout } = await exec(
      'bwrap',
      ['--bind', '/', '/', '--dev', '/dev', '--size', '262144', '--tmpfs', dir, process.execPath, child, dir],
      { maxBuffer: 1 << 24 },
    );
    const { verified, lines, written, slowest, errors, logged } = JSON.parse(stdout) as {
      verified: { intact: boolean };
      lines: string[];
      written: number;
      slowest: number;
      errors: number;
      logged: string[];
    };
    const entries = lines.map((line) => JSON.parse(line) as { n?: number; lost?: number });
    assert.equal(errors, 1, logged.join(''));
    assert.equal(logged.filter((line) => line.includes('writing again')).length, 1);
    // One that waited for room would wait for the next try, a second later.
    assert(slowest < 500, `a line took ${slowest} ms`);
    let next = 0;
    let lost = 0;
    for (const entry of entries) {
      if (entry.lost !== undefined) {
        lost += entry.lost;
        next += entry.lost;
      } else {
        assert.equal(entry.n, next, 'each line once, in order, or counted where it would stand');
        next += 1;
      }
    }
    assert.equal(next, written);
    assert(lost > 0 && lost < written);
    assert(verified.intact, JSON.stringify(verified));
  });

  test('kill -9 within its writes, again and again, with rotations: every end verifies, and what was anchored stays', async () => {
    const writer = fileURLToPath(new URL('../support/audit-writer.ts', import.meta.url));
    const size = () =>
      stat(path).then(
        (stats) => stats.size,
        () => 0,
      );
    // By more than the writer's own first line: on a busy machine it may be killed before it has written any.
    const grown = (from: number) =>
      until('more is written', async () => (await size()) > from + 10_000 || undefined);
    let anchored = 0;
    for (let round = 0; round < 8; round += 1) {
      const child = spawn(process.execPath, [writer, path, String(round * 1_000_000)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await once(child.stdout, 'data');
      await grown(await size());
      await sleep(20 + 37 * round);
      if (round % 3 === 1) {
        for (const old of [2, 1]) await rename(`${path}.${old}`, `${path}.${old + 1}`).catch(() => undefined);
        await rename(path, `${path}.1`);
        await grown(0);
      }
      await sleep(30);
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
      const said: string[] = [];
      assert.equal(
        await auditCommand(
          ['verify'],
          () => path,
          (line) => said.push(line),
        ),
        0,
        said.join('\n'),
      );
      const seq = Number(/head (\d+):/.exec(said.join(''))?.[1]);
      assert(seq > anchored, said.join('\n'));
      anchored = seq;
    }
  });
});

describe('a real server', () => {
  let dir: string;
  let file: string;
  let server: Server;
  before(async () => {
    dir = await makeDirectory();
    file = join(dir, 'audit.log');
    server = await startServer({
      split: true,
      env: { NOX_AUDIT_FILE: file, NOX_API_UID: String(RUN_UID), NOX_TIMEOUT: '2' },
    });
  });
  after(async () => {
    await server.stop();
    await rm(dir, { recursive: true });
  });

  const entry = (id: string) =>
    until(id, async () =>
      // Just rotated, it is not there.
      parse(await readFile(file, 'utf8').catch(() => '')).find(({ requestId }) => requestId === id),
    );
  const call = (id: string, path: string, init: RequestInit = {}) =>
    fetch(`${server.url}${path}`, {
      method: 'POST',
      ...init,
      headers: {
        authorization: `Bearer ${server.token}`,
        'x-request-id': id,
        ...(init.headers as Record<string, string>),
      },
    });

  test('code by its hash, a command by its first word, a file by its path; and no secret', async () => {
    const code = await runPy(server, 'print("s3cret")', { filename: 'a b.py', stdin: 's3cret' });
    const command = await runSh(server, ['printf', 's3cret']);
    const upload = await put(server, 'dir/f', 's3cret');
    const of = ({ headers }: { headers: Headers }) => entry(headers.get('x-request-id') ?? '');
    const line = await of(code);
    assert.match(JSON.stringify(line['what']), /^\{"code":"sha256:[0-9a-f]{64}","filename":"a b.py"\}$/);
    assert.deepEqual(
      [line['route'], line['who'], line['outcome'], line['status'], line['client'], line['method']],
      ['/run_py', 'admin', 'ok', 200, '127.0.0.1', 'POST'],
    );
    assert.deepEqual((await of(command))['what'], { command: 'printf' });
    assert.deepEqual((await of(upload))['what'], { path: 'dir/f' });
    for (const { ms, bytesIn, bytesOut } of [line, await of(command), await of(upload)])
      for (const value of [ms, bytesIn, bytesOut])
        assert(typeof value === 'number' && value > 0, String(value));
    const { usage, limits } = line as { usage?: { stdoutBytes: number }; limits?: { wallSeconds: number } };
    assert.deepEqual([usage?.stdoutBytes, limits?.wallSeconds], [7, 2]);
    assert.equal((await of(upload))['usage'], undefined);
    const text = await readFile(file, 'utf8');
    assert(!text.includes('s3cret') && !text.includes(server.token));
  });

  test('a refused token, on any path; reads and unknown calls of the token’s holder are not there', async () => {
    await call('bad-1', '/run_py', { headers: { authorization: 'Bearer wr0ng' }, body: '{}' });
    await call('bad-2', '/nothing', { headers: { authorization: 'x' } });
    await call('quiet-1', '/health', { method: 'GET' });
    await call('quiet-2', '/nothing');
    await call('last', '/run_sh', { body: '{"cmd":"rm x"}' });
    const last = await entry('last');
    assert.deepEqual(
      [last['outcome'], last['status'], last['what']],
      ['forbidden_command', 400, { command: 'rm' }],
    );
    const bad = await entry('bad-1');
    assert.deepEqual([bad['who'], bad['outcome'], bad['status']], ['nobody', 'unauthorized', 401]);
    assert.equal((await entry('bad-2'))['route'], 'none');
    const text = await readFile(file, 'utf8');
    assert(!text.includes('quiet') && !text.includes('wr0ng'));
  });

  test('how runs end: failed, timeout, a client that goes away', async () => {
    await call('failed', '/run_sh', { body: '{"cmd":"false"}' });
    await call('late', '/run_sh', { body: '{"cmd":"sleep 60"}' });
    await assert.rejects(
      call('gone', '/run_sh', { body: '{"cmd":"sleep 60"}', signal: AbortSignal.timeout(300) }),
    );
    assert.equal((await entry('failed'))['outcome'], 'failed');
    const late = await entry('late');
    assert.deepEqual([late['outcome'], late['status']], ['timeout', 408]);
    assert.deepEqual(late['limit'], { name: 'wallSeconds', value: 2, unit: 'seconds' });
    const gone = await entry('gone');
    assert.deepEqual(
      [gone['outcome'], gone['delivered'], gone['what']],
      ['cancelled', false, { command: 'sleep' }],
    );
  });

  test('a client’s text cannot forge a line, and is cut', async () => {
    const evil = 'x\n{"requestId":"forged"}\u2028"\\';
    await call('evil', '/run_sh', { body: JSON.stringify({ cmd: [evil] }) });
    await call('long', '/run_sh', { body: JSON.stringify({ cmd: ['y'.repeat(100_000)] }) });
    assert.deepEqual((await entry('evil'))['what'], { command: evil });
    assert.deepEqual((await entry('long'))['what'], { command: `${'y'.repeat(512)}…` });
    assert(!parse(await readFile(file, 'utf8')).some(({ requestId }) => requestId === 'forged'));
  });

  test('hammered by eight writers through eight rotations of logrotate: each line there, once', async () => {
    const config = join(dir, 'logrotate.conf');
    const id = String(RUN_UID);
    // Numbers are not names to logrotate; as root it is started as the file's owner instead.
    const body = logrotateText({ file, user: 'USER', group: 'GROUP' })
      .replace(/^ *su .*$/m, '')
      .replace('rotate 26', 'rotate 99');
    await writeFile(config, body, { mode: 0o644 });
    const asOwner =
      process.getuid?.() === 0 ? ['setpriv', `--reuid=${id}`, `--regid=${id}`, '--clear-groups'] : [];
    const [program, ...args] = [
      ...asOwner,
      tool('usr/sbin/logrotate'),
      '-f',
      '-s',
      join(dir, 'state'),
      config,
    ];
    let stop = false;
    const sent: string[] = [];
    const writer = async (name: number) => {
      for (let n = 0; !stop; n += 1) {
        const requestId = `hammer-${name}-${n}`;
        sent.push(requestId);
        const response = await call(requestId, '/run_sh', { body: '{"cmd":"kill x"}' });
        await response.arrayBuffer();
        assert.equal(response.status, 400);
      }
    };
    const writers = Array.from({ length: 8 }, (_, name) => writer(name));
    for (let rotation = 0; rotation < 8; rotation += 1) {
      await sleep(400);
      await until(
        'a line in the new file',
        async () => ((await stat(file).catch(() => undefined))?.size ?? 0) > 0 || undefined,
      );
      await exec(program, args, { env: toolEnvironment() });
    }
    await until('enough is sent', () => Promise.resolve(sent.length > 200 || undefined));
    stop = true;
    await Promise.all(writers);
    // The end of one request may be noted after that of the next.
    for (const id of sent.slice(-8)) await entry(id);
    const names = (await readdir(dir)).filter((name) => /^audit\.log(?!\.head)/.test(name));
    assert.equal(names.filter((name) => name.endsWith('.gz')).length, 7, names.join(' '));
    const found = new Map<unknown, number>();
    for (const name of names) {
      assert.equal((await stat(join(dir, name))).mode & 0o777, 0o640, name);
      const data = await readFile(join(dir, name));
      for (const { requestId } of parse(String(name.endsWith('.gz') ? gunzipSync(data) : data)))
        found.set(requestId, (found.get(requestId) ?? 0) + 1);
    }
    const said: string[] = [];
    await until('the head', async () => {
      said.length = 0;
      return (
        (await auditCommand(
          ['verify'],
          () => file,
          (line) => said.push(line),
        )) === 0 || undefined
      );
    });
    assert.match(said.join('\n'), /^PASS .* in 9 files/);
    assert.deepEqual(
      sent.filter((requestId) => found.get(requestId) !== 1),
      [],
    );
  });

  test('the stop writes what waits', async () => {
    const answer = await call('the-last', '/run_sh', { body: '{"cmd":"rm x"}' });
    await answer.arrayBuffer();
    const [, gateway] = server.processes;
    gateway?.kill('SIGTERM');
    await until('exit', () => (gateway?.exitCode === null ? undefined : true));
    assert(parse(await readFile(file, 'utf8')).some(({ requestId }) => requestId === 'the-last'));
  });
});

test('a server whose audit file cannot be used does not start, and says why', async () => {
  await assert.rejects(
    startServer({ split: true, env: { NOX_AUDIT_FILE: '/nowhere/audit.log' } }),
    /NOX_AUDIT_FILE: cannot write \/nowhere\/audit\.log .*ENOENT/,
  );
});

test('logrotate itself takes the text that is installed, `su` included', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nox-rotate-'));
  const conf = join(dir, 'nox');
  const [user = '', group = ''] = String(execFileSync('id', ['-un']))
    .concat(' ', String(execFileSync('id', ['-gn'])))
    .split(/\s+/);
  await writeFile(conf, logrotateText({ file: join(dir, 'audit.log'), user, group }), { mode: 0o644 });
  await writeFile(join(dir, 'audit.log'), '{}\n', { mode: 0o640 });
  const run = () =>
    exec(tool('usr/sbin/logrotate'), ['-v', '-f', '-s', join(dir, 'state'), conf], {
      env: toolEnvironment(),
    });
  const { stderr } = await run();
  assert.doesNotMatch(stderr, /error|warning|unknown/i);
  assert.deepEqual((await readdir(dir)).sort(), ['audit.log.1', 'nox', 'state']);
  // Nothing there: nothing to do, no error.
  await run();
});
