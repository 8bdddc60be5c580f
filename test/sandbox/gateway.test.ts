/** Attacks by somebody who has taken over the gateway: all that it can say to the runner, and all that it must not get. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import type { RunResult } from '../../src/protocol/messages.ts';
import { encodeFrame, FRAME, FrameDecoder, type Frame } from '../../src/transport/frames.ts';
import { startServer, type Server } from '../support/server.ts';
import { assertHealthy, inside, py, read } from './attack.ts';

let server: Server;
before(async () => {
  server = await startServer({
    split: true,
    env: { NOX_MAX_MEMORY: '256M', NOX_TIMEOUT: '5', NOX_MAX_BODY: '1M' },
  });
});
after(() => server.stop());

const socketPath = (): string => join(dirname(server.workspace), 'runner.sock');

/** Sends bytes to the runner, gives the frames of its answer. */
async function say(...bytes: readonly Uint8Array[]): Promise<Frame[]> {
  const socket = connect(socketPath());
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  const decoder = new FrameDecoder(64 * 1024 * 1024);
  const frames: Frame[] = [];
  socket.on('data', (data: Buffer) => {
    decoder.feed(data);
    for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) frames.push(frame);
  });
  for (const each of bytes) socket.write(each);
  const timer = setTimeout(() => socket.destroy(), 10_000);
  await once(socket, 'close');
  clearTimeout(timer);
  return frames;
}

const call = (op: string, request: unknown): Buffer =>
  encodeFrame(FRAME.call, JSON.stringify({ op, request }));

/** The code of the error that the runner answers with. */
async function refusal(...bytes: readonly Uint8Array[]): Promise<string> {
  const [frame] = await say(...bytes);
  assert.equal(frame?.type, FRAME.error, frame?.payload.toString() ?? 'no answer');
  return String((JSON.parse(frame.payload.toString()) as { code: unknown }).code);
}

const command = (...argv: string[]) => ({ id: 'x', program: { kind: 'command', argv } });

test('raises the limits of a run beyond what the administrator set', async () => {
  for (const limits of [
    { memoryBytes: 512 * 1024 * 1024 },
    { wallSeconds: 6 },
    { processes: 4096 },
    { cpuSeconds: 1e9 },
    { wallSeconds: -1 },
    { memoryBytes: null },
    { outputBytes: 2 ** 40 },
  ]) {
    assert.equal(
      await refusal(call('run', { ...command('true'), limits })),
      'invalid_request',
      JSON.stringify(limits),
    );
  }
});

test('names another workspace, another program, another environment', async () => {
  const frames = await say(
    call('run', {
      ...command('bash', '-c', 'pwd; env | sort'),
      cwd: '/',
      argv: ['/bin/evil'],
      uid: 0,
      options: ['--bind', '/', '/'],
    }),
  );
  const printed = frames
    .filter(({ type }) => type === FRAME.stdout)
    .map(({ payload }) => payload.toString())
    .join('');
  assert.match(printed, new RegExp(`^${server.workspace}\n`));
  assert.doesNotMatch(printed, /LD_PRELOAD|NOX_/);
  for (const member of [
    { workspace: '/' },
    { workspace: { id: '../sandbox' } },
    { workspace: { id: '/' } },
    { workspace: { scratch: '../x' } },
    { env: { 'A=B': 'x' } },
    { env: { A: 'x\0B=y' } },
    { files: [{ path: '../planted', data: '' }], workspace: { scratch: 'x' } },
  ])
    assert.match(
      await refusal(call('run', { ...command('true'), ...member })),
      /^(invalid_|workspace_not_found)/,
      py(member),
    );
});

test('has bwrap take words of a program for options of its own', async () => {
  for (const argv of [['--help'], ['--version'], ['--', 'true'], ['--bind', '/', '/', 'true'], ['-c', 'x']]) {
    const result = (await say(call('run', command(...argv)))).at(-1);
    assert.equal(result?.type, FRAME.answer);
    assert.equal((JSON.parse(result.payload.toString()) as RunResult).exitCode, 127, argv.join(' '));
  }
});

test('writes outside of the workspace by names that the gateway would have refused', async () => {
  const python = (filename: string) => ({
    id: 'x',
    program: { kind: 'python', code: 'pass', args: [], filename },
  });
  for (const path of [
    '../planted',
    'a/../../planted',
    '/../planted',
    'a\0b',
    '',
    '.',
    '/',
    'x/',
    `${'../'.repeat(20)}tmp/planted`,
    'n'.repeat(256),
    'd/'.repeat(3000),
  ]) {
    assert.match(
      await refusal(
        call('put', { id: 'x', path }),
        encodeFrame(FRAME.data, 'x'),
        encodeFrame(FRAME.dataEnd, ''),
      ),
      /^invalid_/,
      py(path),
    );
    assert.match(await refusal(call('run', python(path))), /^invalid_/, py(path));
  }
  assert.deepEqual(readdirSync(dirname(server.workspace)).sort(), [
    'runner.sock',
    basename(server.workspace),
    // The gateway's own (NOX_STATE), and the other workspaces.
    'state',
    'workspaces',
  ]);
});

test('sends what is no request: wrong types, NUL, huge arguments, no JSON, unknown frames', async () => {
  const many = Array.from({ length: 10 }, () => 'x'.repeat(120_000));
  for (const request of [
    null,
    1,
    [],
    {},
    { id: 'x' },
    { id: 'x\n{"forged":1}', ...{ program: command('true').program } },
    command(),
    command('a\0b'),
    command('x'.repeat(131_072)),
    command(...many),
    { id: 'x', program: { kind: 'root', argv: ['id'] } },
    { ...command('true'), stdin: 1 },
    { ...command('true'), __proto__: { limits: {} }, limits: [] },
  ]) {
    assert.match(
      await refusal(call('run', request)),
      /^(invalid_request|internal)$/,
      JSON.stringify(request).slice(0, 80),
    );
  }
  for (const bytes of [
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
    Buffer.from([0xff, 0xff, 0xff, 0xff, 1]),
    Buffer.from([0, 0, 0, 1, 99, 0]),
    encodeFrame(FRAME.call, '{'),
    encodeFrame(FRAME.call, 'null'),
    encodeFrame(FRAME.data, 'x'),
    call('close', {}),
    call('constructor', {}),
    call('__proto__', {}),
  ]) {
    const [frame] = await say(bytes);
    assert.ok(frame === undefined || frame.type === FRAME.error);
  }
  await assertHealthy(server);
});

test('holds connections open without a word, and half a frame in each', async () => {
  const sockets = Array.from({ length: 300 }, () => connect(socketPath()).on('error', () => undefined));
  for (const socket of sockets) socket.write(Buffer.from([0, 15, 0, 0, 1, 0x7b]));
  await assertHealthy(server);
  for (const socket of sockets) socket.destroy();
  await assertHealthy(server);
});

test('breaks off in the middle of an upload', async () => {
  const socket = connect(socketPath());
  await once(socket, 'connect');
  socket.write(
    Buffer.concat([call('put', { id: 'x', path: 'half' }), encodeFrame(FRAME.data, 'x'.repeat(1000))]),
  );
  socket.end();
  await once(socket.resume(), 'close');
  await assertHealthy(server);
  assert.equal(await inside(server, `import os; print([n for n in os.listdir('.') if n != 'run.py'])`), '[]');
});

test("reaches the runner's socket from a run", async () => {
  const got = await inside(
    server,
    `
import os, socket
print(os.path.exists(${py(socketPath())}))
try: socket.socket(socket.AF_UNIX).connect(${py(socketPath())}); print('connected')
except OSError as e: print(e.errno)`,
  );
  assert.equal(got, 'False\n2');
});

test(
  'has the same user as the runner, so that it could signal or trace it',
  { skip: process.getuid?.() !== 0 && 'needs two users' },
  () => {
    const uids = server.processes.map(
      ({ pid }) => /^Uid:\s+(\d+)/m.exec(read(`/proc/${String(pid)}/status`))?.[1],
    );
    assert.equal(new Set(uids).size, 2, uids.join(' '));
    assert.ok(!uids.includes('0'));
  },
);
