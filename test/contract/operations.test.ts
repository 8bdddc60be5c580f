/** What every transport must do alike with files and workspaces: one suite, run over each. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import { parseConfig } from '../../src/config.ts';
import { NoxError, type ErrorCode } from '../../src/protocol/errors.ts';
import type { Executor } from '../../src/protocol/executor.ts';
import type { RunResult } from '../../src/protocol/messages.ts';
import type { LocalExecutor } from '../../src/runner/executor.ts';
import { prepareRunner, startRunner } from '../../src/runner/start.ts';
import { connect as connectInProcess } from '../../src/transport/in-process.ts';
import { connect as connectSocket, serve } from '../../src/transport/unix-socket.ts';
import { makeDirectory } from '../support/server.ts';
import { all, pieces } from '../support/workspace.ts';

const dir = await makeDirectory();
const sandbox = join(dir, 'sandbox');
const config = parseConfig('runner', {
  NOX_SANDBOX: sandbox,
  NOX_WORKSPACES: join(dir, 'workspaces'),
  NOX_SLOTS: '2',
  NOX_MAX_UPLOAD: '64M',
});
prepareRunner(config);

interface Connection {
  readonly executor: Executor;
  readonly close: () => Promise<void>;
}
const TRANSPORTS: Readonly<Record<string, (runner: LocalExecutor) => Promise<Connection>>> = {
  'in-process': (runner) =>
    Promise.resolve({ executor: connectInProcess(runner), close: () => Promise.resolve() }),
  'unix socket': async (runner) => {
    const path = join(dir, 'contract.sock');
    const server = await serve(runner, path, 4 * 2 ** 20);
    return { executor: connectSocket(path), close: () => server.close() };
  },
};

const never = new AbortController().signal;
const workspace = 'default';
const owner = 'admin';
const rejectsWith = (code: ErrorCode) => (error: unknown) => error instanceof NoxError && error.code === code;
/** A body that says nothing more after its first piece, as long as anybody listens. */
function held(first: Uint8Array): AsyncIterable<Uint8Array> & { readonly asked: Promise<undefined> } {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  return {
    asked: promise,
    async *[Symbol.asyncIterator]() {
      yield first;
      resolve(undefined);
      await sleep(60_000, undefined, { ref: false });
    },
  };
}
const openDescriptors = () => readdirSync('/proc/self/fd').length;

for (const [name, open] of Object.entries(TRANSPORTS))
  describe(name, () => {
    let runner: LocalExecutor;
    let connection: Connection;
    let executor: Executor;
    before(async () => {
      runner = (await startRunner(config, pino({ level: 'silent' }))).executor;
      connection = await open(runner);
      ({ executor } = connection);
    });
    after(async () => {
      await connection.close();
      await runner.close();
    });

    const run = async (script: string, id: string, signal = never): Promise<[string, RunResult]> => {
      let stdout = '';
      const program = { kind: 'command' as const, argv: ['bash', '-c', script] };
      for await (const event of executor.run({ id: 'contract', program, workspace: { id } }, signal)) {
        if (event.type === 'output') stdout += Buffer.from(event.data).toString();
        else if (event.type === 'end') return [stdout, event.result];
      }
      assert.fail('no end');
    };

    test('a name that is no UTF-8 passes both ways', async () => {
      const path = 'd/a\udcff\u{1f600}';
      await executor.send('write', { workspace, path }, pieces('text'), never);
      const { entries } = await executor.ask('list', { workspace, path: 'd' }, never);
      assert.deepEqual(
        entries.map((entry) => entry.path),
        [path],
      );
      const { answer, body } = await executor.fetch('read', { workspace, path }, never);
      assert.deepEqual([answer.file.path, (await all(body)).toString()], [path, 'text']);
      await executor.ask('remove', { workspace, path: 'd', recursive: true }, never);
    });

    test('a large file comes whole, in both directions', async () => {
      const piece = Buffer.alloc(2 ** 20, 'abcdefg');
      const sent = Array.from({ length: 40 }, () => piece);
      const { size } = await executor.send('write', { workspace, path: 'big' }, pieces(...sent), never);
      assert.equal(size, 40 * 2 ** 20);
      const { body } = await executor.fetch('read', { workspace, path: 'big' }, never);
      assert.ok((await all(body)).equals(Buffer.concat(sent)));
    });

    test('ranges of a large file, several at once', async () => {
      const whole = readFileSync(join(sandbox, 'big'));
      const ranges = Array.from({ length: 6 }, (_, n) => ({
        start: n * 1_000_003,
        end: whole.length - 7 * n,
      }));
      await Promise.all(
        ranges.map(async ({ start, end }) => {
          const range = { first: start, to: end - 1 };
          const { answer, body } = await executor.fetch('read', { workspace, path: 'big', range }, never);
          assert.deepEqual([answer.start, answer.end], [start, end]);
          assert.ok((await all(body)).equals(whole.subarray(start, end)), String(start));
        }),
      );
    });

    test('a large file that a run cuts while it is read breaks off', async () => {
      const path = 'cut';
      await executor.ask('copy', { workspace, from: 'big', to: path }, never);
      const { body } = await executor.fetch('read', { workspace, path }, never);
      let read = 0;
      const reading = async () => {
        for await (const piece of body) {
          if (read === 0) truncateSync(join(sandbox, path), 0);
          read += piece.length;
        }
      };
      await assert.rejects(reading, (error) => error instanceof NoxError);
      assert.ok(read > 0 && read < 40 * 2 ** 20, String(read));
      await executor.ask('remove', { workspace, path }, never);
      assert.equal((await executor.health()).ok, true);
    });

    test('a reader that leaves early, or is aborted, leaves nothing open', async () => {
      await sleep(50);
      const before = openDescriptors();
      for (let time = 0; time < 5; time += 1) {
        const { body } = await executor.fetch('read', { workspace, path: 'big' }, never);
        for await (const piece of body) if (piece.length > 0) break;
        const unread = await executor.fetch('read', { workspace, path: 'big' }, never);
        await unread.body[Symbol.asyncIterator]().return?.();
        const stop = new AbortController();
        const aborted = await executor.fetch('watch', { workspace, path: '' }, stop.signal);
        setTimeout(() => {
          stop.abort();
        }, 20);
        await all(aborted.body).catch(() => undefined);
      }
      for (const deadline = Date.now() + 10_000; openDescriptors() > before + 2;) {
        assert.ok(
          Date.now() < deadline,
          `${String(openDescriptors())} descriptors, ${String(before)} before`,
        );
        await sleep(20);
      }
    });

    test('an error is the same on every transport', async () => {
      const cases: [ErrorCode, () => Promise<unknown>][] = [
        ['invalid_path', () => executor.ask('stat', { workspace, path: '../x' }, never)],
        ['file_not_found', () => executor.fetch('read', { workspace, path: 'none' }, never)],
        ['workspace_not_found', () => executor.ask('list', { workspace: 'none', path: '' }, never)],
        ['invalid_request', () => executor.ask('list', { workspace: '../x', path: '' }, never)],
        ['invalid_request', () => executor.ask('list', { workspace, path: 1 as unknown as string }, never)],
        [
          'hostile_archive',
          () => executor.send('unpack', { workspace, path: 'x', format: 'zip' }, pieces('no'), never),
        ],
        [
          'payload_too_large',
          () =>
            executor.send(
              'write',
              { workspace, path: 'f' },
              pieces(...Array.from({ length: 65 }, () => Buffer.alloc(2 ** 20))),
              never,
            ),
        ],
        ['not_found', () => executor.ask('none' as 'stat', { workspace, path: '' }, never)],
      ];
      for (const [code, call] of cases) await assert.rejects(call, rejectsWith(code), code);
    });

    test('a body that breaks off, and an aborted signal, change nothing', async () => {
      await executor.send('write', { workspace, path: 'f' }, pieces('old'), never);
      await assert.rejects(() =>
        executor.send('write', { workspace, path: 'f' }, pieces('new', new Error('gone')), never),
      );
      const stop = new AbortController();
      async function* silent(): AsyncGenerator<Uint8Array> {
        yield Buffer.from('new');
        stop.abort();
        await new Promise((resolve) => setTimeout(resolve, 60_000).unref());
      }
      await assert.rejects(
        () => executor.send('write', { workspace, path: 'f' }, silent(), stop.signal),
        rejectsWith('cancelled'),
      );
      assert.equal(readFileSync(join(sandbox, 'f'), 'utf8'), 'old');
      for (
        const deadline = Date.now() + 10_000;
        readdirSync(sandbox).some((each) => each.startsWith('.nox-'));
      ) {
        assert.ok(Date.now() < deadline);
        await sleep(20);
      }
    });

    test('every workspace appears to its runs at one path, with its own files', async () => {
      for (const id of ['one', 'two']) {
        await executor.ask('workspaceCreate', { id, owner }, never);
        await executor.send('write', { workspace: id, path: 'own' }, pieces(id), never);
        const [stdout] = await run('pwd; cat own; echo more >> own; ls', id);
        assert.equal(stdout, `${sandbox}\n${id}own\n`);
        const { body } = await executor.fetch('read', { workspace: id, path: 'own' }, never);
        assert.equal((await all(body)).toString(), `${id}more\n`);
      }
      await assert.rejects(() => run('true', 'three'), rejectsWith('workspace_not_found'));
    });

    test('a quota ends the run that passes it, and the result says which', async () => {
      await executor.ask('workspaceCreate', { id: 'small', owner, quotaBytes: 2 ** 20 }, never);
      const [, result] = await run('dd if=/dev/zero of=f bs=1M count=64; sleep 60', 'small');
      assert.deepEqual([result.outcome, result.limit?.value], ['disk_limit', 2 ** 20]);
      await executor.ask('workspaceRemove', { workspace: 'small' }, never);
    });

    for (const what of ['write', 'append', 'tar.gz', 'zip'] as const)
      test(`a workspace with an upload under way (${what}): not deleted, unless that may be ended`, async () => {
        await executor.ask('workspaceCreate', { id: 'up', owner }, never);
        const body = held(what === 'tar.gz' ? gzipSync('begun').subarray(0, 12) : Buffer.from('begun'));
        const target = { workspace: 'up', path: 'made/file' };
        const upload =
          what === 'write' || what === 'append'
            ? executor.send('write', { ...target, append: what === 'append' }, body, never)
            : executor.send('unpack', { ...target, format: what }, body, never);
        const ended = assert.rejects(upload, rejectsWith('workspace_conflict'));
        await body.asked;
        await assert.rejects(
          () => executor.ask('workspaceRemove', { workspace: 'up' }, never),
          rejectsWith('workspace_conflict'),
        );
        await executor.ask('workspaceRemove', { workspace: 'up', force: true }, never);
        await ended;
        assert.deepEqual(
          readdirSync(join(dir, 'workspaces')).filter(
            (id) => id !== 'default' && id !== 'one' && id !== 'two',
          ),
          [],
        );
        // Its id is free again.
        await executor.ask('workspaceCreate', { id: 'up', owner }, never);
        const { entries } = await executor.ask('list', { workspace: 'up', path: '' }, never);
        assert.deepEqual(entries, []);
        await executor.ask('workspaceRemove', { workspace: 'up' }, never);
      });

    test('an upload of the four calls that is under way while all files are replaced', async () => {
      const { id } = await executor.ask('snapshotCreate', { workspace }, never);
      const body = held(Buffer.from('begun'));
      const upload = executor.put({ id: 'contract', path: 'late' }, body, never);
      const ended = assert.rejects(upload, rejectsWith('workspace_conflict'));
      await body.asked;
      const restore = (force: boolean) =>
        executor.ask('snapshotRestore', { workspace, snapshot: id, force }, never);
      await assert.rejects(() => restore(false), rejectsWith('workspace_conflict'));
      await restore(true);
      await ended;
      assert.deepEqual(
        readdirSync(sandbox).filter((name) => name === 'late' || name.startsWith('.nox-')),
        [],
      );
      await executor.ask('snapshotRemove', { workspace, snapshot: id }, never);
    });

    test('a workspace with a live run: not deleted, unless the run may be ended', async () => {
      const running = run('echo up > up; sleep 60', 'one');
      for (const deadline = Date.now() + 10_000; Date.now() < deadline;) {
        if ((await executor.ask('workspaceInfo', { workspace: 'one' }, never)).runs === 1) break;
        await sleep(20);
      }
      await assert.rejects(
        () => executor.ask('workspaceRemove', { workspace: 'one' }, never),
        rejectsWith('workspace_conflict'),
      );
      await executor.ask('workspaceRemove', { workspace: 'one', force: true }, never);
      assert.equal((await running)[1].outcome, 'cancelled');
      await executor.ask('workspaceRemove', { workspace: 'two' }, never);
      assert.deepEqual(readdirSync(join(dir, 'workspaces')), ['default']);
    });
  });
