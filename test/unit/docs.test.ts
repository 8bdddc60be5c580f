/** The documents say what the code does: tables in docs/ and in the source are the same, in both directions. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { SETTINGS, type Setting } from '../../src/config.ts';
import { ERRORS } from '../../src/protocol/errors.ts';
import { OUTCOMES } from '../../src/protocol/outcome.ts';
import { parseRuntime } from '../../src/runner/runtime.ts';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

/** The rows of the table whose first header is `header`, cells trimmed. */
function table(text: string, header: string): string[][] {
  const lines = text.split('\n');
  const start = lines.findIndex((line) => line.startsWith('|') && line.split('|')[1]?.trim() === header);
  assert(start >= 0, `no table with the header ${header}`);
  const end = lines.findIndex((line, index) => index > start && !line.startsWith('|'));
  const rows = lines.slice(start + 2, end < 0 ? lines.length : end);
  return rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

test('docs/api.md has every error, as it is', () => {
  const expected = Object.entries(ERRORS).map(([code, row]) => [
    `\`${code}\``,
    String(row.status),
    row.retry ? 'yes' : 'no',
    row.hint,
  ]);
  assert.deepEqual(table(read('docs/api.md'), 'code'), expected);
});

test('docs/api.md has every outcome, in order', () => {
  assert.deepEqual(
    table(read('docs/api.md'), 'outcome').map(([name]) => name),
    OUTCOMES.map((name) => `\`${name}\``),
  );
});

test('docs/configuration.md has every setting, as it is', () => {
  const shape = (setting: Setting) =>
    setting.kind === 'number'
      ? `${setting.minimum} to ${setting.maximum} ${setting.unit}`
      : (setting.shape ?? 'text');
  const rows = Object.entries<Setting>(SETTINGS).map(([name, setting]) => {
    // The number of cores is the machine's.
    const value = name === 'NOX_SLOTS' ? 'cores' : setting.default === '' ? '' : `\`${setting.default}\``;
    return [`\`${name}\``, value, shape(setting), setting.meaning];
  });
  assert.deepEqual(table(read('docs/configuration.md'), 'setting'), rows);
});

test('the files that ARCHITECTURE.md names are there', () => {
  const text = read('ARCHITECTURE.md');
  const paths = [...text.matchAll(/`(src\/[a-z/.-]+\.(?:ts|pl|py))`/g)].map((match) => match[1] ?? '');
  assert(paths.length > 10);
  for (const path of paths) assert(read(path).length > 0, path);
});

test('links between the documents lead somewhere', () => {
  for (const file of [
    'README.md',
    'ARCHITECTURE.md',
    'SECURITY.md',
    'docs/api.md',
    'docs/configuration.md',
  ]) {
    const dir = file.includes('/') ? 'docs/' : '';
    for (const match of read(file).matchAll(/\]\((?!https?:)([^)#]+)\)/g))
      assert(read(`${dir}${match[1] ?? ''}`).length > 0);
  }
});

test('links within docs/api.md lead to a heading', () => {
  const text = read('docs/api.md');
  const anchors = [...text.matchAll(/^##+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^a-z0-9 _-]/g, '')
      .replaceAll(' ', '-'),
  );
  const links = [...text.matchAll(/\]\(#([^)]+)\)/g)].map(([, anchor = '']) => anchor);
  assert(links.length > 10);
  for (const link of links) assert(anchors.includes(link), link);
});

test('every make target that README.md names exists', () => {
  const targets = new Set([...read('Makefile').matchAll(/^([a-z-]+):/gm)].map((match) => match[1]));
  const named = [...read('README.md').matchAll(/(?:`|^|\$ )make ([a-z-]+)/gm)].map((match) => match[1]);
  assert(named.length > 3);
  for (const name of named) assert(targets.has(name), `make ${String(name)}`);
});

test('the number of probes that README.md promises', () => {
  const list = /^PROBES = \[([^\]]+)\]/m.exec(read('src/runner/probes.py'))?.[1] ?? '';
  assert(read('README.md').includes(`in ${list.split(',').length} ways`));
});

test('the runtime that docs/operations.md shows is one', () => {
  const example = /```json\n([^`]*)```/.exec(read('docs/operations.md'))?.[1] ?? '';
  assert.equal(parseRuntime('zig.json', example).title, 'Zig');
});
