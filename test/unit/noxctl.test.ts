/** What is typed and cannot be meant: a clear word, exit code 2, and nothing done. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';

const NOXCTL = fileURLToPath(new URL('../../src/cli/noxctl.ts', import.meta.url));

function noxctl(...words: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [NOXCTL, ...words], { encoding: 'utf8' });
}

test('help and version are answers', () => {
  for (const words of [['--help'], ['-h'], ['help'], ['install', '--help']]) {
    const { status, stdout, stderr } = noxctl(...words);
    assert.deepEqual([status, stderr], [0, ''], words.join(' '));
    assert.match(stdout, /^usage: noxctl COMMAND/);
  }
  assert.match(noxctl('--version').stdout, /^\d+\.\d+\.\d+$/m);
});

for (const [words, said] of [
  [[], /name a command/],
  [['instal'], /no such command: instal/],
  [['constructor'], /no such command: constructor/],
  [['install', '--foo'], /install: Unknown option '--foo'\n/],
  [['install', 'dry-run'], /install: dry-run: is no option of it; nothing was done/],
  [['install', '--purge'], /--purge is for uninstall/],
  [['rollback', '--dry-run'], /rollback has no --dry-run; nothing was done/],
  [['restore', '--dry-run', 'file'], /restore has no --dry-run; nothing was done/],
  [['backup', '--dry-run', 'file'], /backup has no --dry-run; nothing was done/],
  [['audit'], /audit: the word verify must follow/],
  [['audit', 'repair'], /audit: no such word: repair/],
  [['audit', 'verify', '--force'], /audit: Unknown option '--force'\n/],
  [['audit', 'verify', '--head', '7', 'x'], /--head "7": give it as the journal does, SEQ:HASH/],
  [['backup'], /name the file of the backup: noxctl backup FILE/],
  [['restore', 'one', 'two'], /name the file of the backup: noxctl restore FILE/],
] as const)
  test(`noxctl ${words.join(' ')}`, () => {
    const { status, stdout, stderr } = noxctl(...words);
    assert.deepEqual([status, stdout], [2, '']);
    assert.match(stderr, said);
    assert.doesNotMatch(stderr, /^ {4}at /m);
  });
