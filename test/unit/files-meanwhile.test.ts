/** What a run does to the way of an upload while its body comes: each call ends, and leaves nothing of its own. */
import assert from 'node:assert/strict';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { NoxError } from '../../src/protocol/errors.ts';
import { TAR_END, tarHeader, tarPadding } from '../../src/runner/tar.ts';
import { makeWorkspace, type Bench } from '../support/workspace.ts';

const workspace = 'default';
const ARCHIVE = gzipSync(
  Buffer.concat([
    tarHeader({ name: 'f', mode: 0o644, mtime: 0, type: 'file', size: 3 }),
    Buffer.from('new'),
    tarPadding(3),
    TAR_END,
  ]),
);

let bench: Bench;
beforeEach(() => {
  bench = makeWorkspace();
  mkdirSync(join(bench.path, 'd'));
  writeFileSync(join(bench.path, 'd', 'f'), 'old');
});
afterEach(() => {
  bench.close();
});
const on = (path: string) => join(bench.path, path);

const calls: Record<string, (body: AsyncIterable<Uint8Array>) => Promise<unknown>> = {
  write: (body) => bench.files.write({ workspace, path: 'd/f' }, body),
  append: (body) => bench.files.write({ workspace, path: 'd/f', append: true }, body),
  unpack: (body) => bench.files.unpack({ workspace, path: 'd', format: 'tar.gz' }, body),
};
const changes: Record<string, () => void> = {
  'the directory is gone': () => {
    rmSync(on('d'), { recursive: true });
  },
  'a file has its place': () => {
    rmSync(on('d'), { recursive: true });
    writeFileSync(on('d'), 'file');
  },
  'a link to nothing has its place': () => {
    rmSync(on('d'), { recursive: true });
    symlinkSync('nowhere', on('d'));
  },
  'a link to itself has its place': () => {
    rmSync(on('d'), { recursive: true });
    symlinkSync('d', on('d'));
  },
  'a link out of the workspace has its place': () => {
    rmSync(on('d'), { recursive: true });
    symlinkSync(bench.outside, on('d'));
  },
  'it was moved': () => {
    renameSync(on('d'), on('e'));
  },
  'a directory has the place of the file': () => {
    rmSync(on('d/f'));
    mkdirSync(on('d/f'));
  },
};

/** Of write, append and unpack: what is missing is made, as ever. */
const ENDS: Readonly<Record<string, readonly string[]>> = {
  'the directory is gone': ['done', 'done', 'done'],
  'a file has its place': ['invalid_path', 'invalid_path', 'already_exists'],
  'a link to nothing has its place': ['done', 'done', 'done'],
  'a link to itself has its place': ['invalid_path', 'invalid_path', 'invalid_path'],
  'a link out of the workspace has its place': ['invalid_path', 'invalid_path', 'invalid_path'],
  'it was moved': ['done', 'done', 'done'],
  'a directory has the place of the file': ['invalid_path', 'workspace_conflict', 'already_exists'],
};

for (const [name, call] of Object.entries(calls))
  describe(name, () => {
    for (const [what, change] of Object.entries(changes))
      test(what, async () => {
        const before = readdirSync(bench.outside);
        async function* body(): AsyncGenerator<Uint8Array> {
          const data = name === 'unpack' ? ARCHIVE : Buffer.from('new');
          yield data.subarray(0, 2);
          await Promise.resolve();
          change();
          yield data.subarray(2);
        }
        const code = await call(body()).then(
          () => 'done',
          (error: unknown) => (error instanceof NoxError ? error.code : String(error)),
        );
        assert.equal(code, ENDS[what]?.[Object.keys(calls).indexOf(name)]);
        if (code === 'done') assert.match(readFileSync(on('d/f'), 'utf8'), /new$/);
        assert.deepEqual(readdirSync(bench.outside), before);
        assert.deepEqual(
          readdirSync(bench.path).filter((each) => each.startsWith('.nox')),
          [],
        );
      });
  });
