/** What holds the examples of a document to what they print can fail: for each promise something that breaks it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { difference, examplesOf, execute, faultsOf } from '../support/examples.ts';

const fenced = (language: string, ...lines: string[]) => ['```' + language, ...lines, '```', ''].join('\n');
const page = (...blocks: string[]) => `# Title\n\n## One\n\nWords.\n\n${blocks.join('\n')}`;
const answer = (language: 'json' | 'text', text: string) => ({ line: 1, language, text });

async function faults(...blocks: string[]): Promise<string[]> {
  const examples = examplesOf(page(...blocks));
  return faultsOf(examples, await execute(examples, { WORD: 'word' }));
}

describe('the document', () => {
  test('each command with its place, its section and the answer beneath it', () => {
    const text = `${page(fenced('sh', 'a', 'b'), fenced('json', '1'), fenced('sh', 'c'))}\n## Two\n\n${fenced('sh', 'd')}\nWords.\n`;
    assert.deepEqual(
      examplesOf(text).map((each) => [each.section, each.line, each.command, each.answer?.text]),
      [
        ['One', 8, 'a\nb', '1'],
        ['One', 17, 'c', undefined],
        ['Two', 23, 'd', undefined],
      ],
    );
  });

  test('a block that is neither, an answer to nothing, a block without an end', () => {
    assert.throws(() => examplesOf(page(fenced('', 'curl'))), /line 7: a block is sh, json or text, not ""/);
    assert.throws(() => examplesOf(page(fenced('bash', 'curl'))), /not "bash"/);
    assert.throws(() => examplesOf(page(fenced('json', '1'))), /line 7: an answer with no command/);
    assert.throws(
      () => examplesOf(page(fenced('sh', 'a'), 'Words.\n', fenced('text', 'a'))),
      /an answer with no command/,
    );
    assert.throws(() => examplesOf(page('```sh\na')), /line 7: the block has no end/);
  });
});

describe('answers', () => {
  const cases: [language: 'json' | 'text', text: string, same: string[], other: string[]][] = [
    ['text', 'a.c', ['a.c', 'a.c\n'], ['abc', 'a.c\nd', 'xa.c', '', '\na.c']],
    ['text', 'a\n\nb', ['a\n\nb\n\n'], ['a\nb', 'a\n\n\nb']],
    ['text', 'HTTP 200\n…', ['HTTP 200\r\nx: y\r\n'], ['HTTP 404\r\n']],
    ['text', 'id: … (of …)', ['id: 12 (of 3)', 'id:  (of )'], ['id: 12', 'id: 1\n2 (of 3)']],
    ['text', 'a\n…\nb', ['a\nb', 'a\n1\n2\nb'], ['a', 'a b', 'b', 'a\nb\nc']],
    ['json', '1', ['1', ' 1\n'], ['2', '"1"', 'null', '', '1 2']],
    ['json', '"…"', ['1', 'null', '{"a": [1]}', '"x"'], ['x', '']],
    ['json', '"run_…"', ['"run_1"', '"run_a\\nb"'], ['"ran_1"', '1', 'null']],
    ['json', 'null', ['null'], ['{}', '0', '""']],
    ['json', '{"a": 1, "b": 2}', ['{"b": 2, "a": 1}'], ['{"a": 1}', '{"a": 1, "b": 3}', '[1, 2]', 'null']],
    ['json', '{"a": 1}', ['{"a":1}'], ['{"a": 1, "b": 2}']],
    ['json', '{"a": 1, "…": "…"}', ['{"a": 1}', '{"a": 1, "b": 2}'], ['{"b": 2}', '{"a": 2, "b": 1}']],
    ['json', '[1, "…"]', ['[1, 2]'], ['[1]', '[2, 1]', '[1, 2, 3]', '{"0": 1, "1": 2}']],
    ['json', '{"a": {"b": "…"}}', ['{"a": {"b": 0}}'], ['{"a": {}}', '{"a": null}', '{"a": []}']],
    ['json', '{}', ['{}'], ['[]', '{"toString": 1}']],
    ['json', '{"toString": "…"}', ['{"toString": 1}'], ['{}']],
  ];
  for (const [language, text, same, other] of cases)
    test(`${language}: ${JSON.stringify(text)}`, () => {
      for (const printed of same)
        assert.equal(difference(printed, answer(language, text)), undefined, printed);
      for (const printed of other)
        assert.notEqual(difference(printed, answer(language, text)), undefined, printed);
    });

  test('without a block nothing may be printed', () => {
    assert.equal(difference('', undefined), undefined);
    assert.equal(difference('x', undefined), 'it prints something');
  });

  test('what differs is named by its place', () => {
    assert.equal(
      difference('{"runs": [{"outcome": "failed"}]}', answer('json', '{"runs": [{"outcome": "ok"}]}')),
      'the answer.runs.0.outcome is "failed", not "ok"',
    );
  });
});

describe('execution', () => {
  test('one shell for all of them, with the environment', async () => {
    assert.deepEqual(
      await faults(
        fenced('sh', 'X=$WORD; f() {', '  echo "$X" "$1"', '}'),
        fenced('sh', 'f one; echo two >file; cat >&2 file'),
        fenced('text', 'word one', 'two'),
        fenced('sh', 'printf \'{"a": %s}\' 1'),
        fenced('json', '{ "a": 1 }'),
      ),
      [],
    );
  });

  test('another answer: the place and both texts', async () => {
    assert.deepEqual(await faults(fenced('sh', 'echo one'), fenced('text', 'two'), fenced('sh', ':')), [
      'line 8: it prints other text\necho one\n--- prints\none\n\n--- in the document\ntwo',
    ]);
  });

  test('a command that fails, even in the middle of a block; what comes after it is not run', async () => {
    const found = await faults(
      fenced('sh', ':'),
      fenced('sh', 'false; echo on'),
      fenced('text', 'on'),
      fenced('sh', 'echo never'),
    );
    assert.equal(found.length, 1);
    assert.match(found[0] ?? '', /^line 12: it ends with 1\n/);
  });

  test('a variable that is not set, a word that is no program, what is no shell', async () => {
    assert.match((await faults(fenced('sh', 'echo "$NONE"')))[0] ?? '', /^line 8: it ends with \d+\n/);
    assert.match((await faults(fenced('sh', 'no-such-program')))[0] ?? '', /it ends with 127\n/);
    assert.match((await faults(fenced('sh', 'echo "'), fenced('sh', ':')))[0] ?? '', /it ends with \d+\n/);
  });

  test('one that does not end', async () => {
    const examples = examplesOf(page(fenced('sh', 'sleep 600 & wait')));
    const found = faultsOf(examples, await execute(examples, {}, 1));
    assert.match(found[0] ?? '', /^line 8: it ends with SIGKILL\n/);
  });

  test('a shell that ends early, as if all were well', async () => {
    const found = await faults(fenced('sh', 'exit 0'), fenced('sh', 'echo x'), fenced('text', 'x'));
    assert.equal(found.length, 1);
    assert.match(found[0] ?? '', /^line 12: it was not reached\n/);
  });
});
