import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import pino from 'pino';
import { buildGateway } from '../../src/gateway/app.ts';
import { Store } from '../../src/gateway/store/store.ts';
import type { Executor } from '../../src/protocol/executor.ts';
import type { RunRequest } from '../../src/protocol/messages.ts';
import { NOBODY } from '../support/executor.ts';
import { DEFAULT_LIMITS } from '../../src/protocol/limits.ts';

/** One Python that answers a line of JSON for each line of JSON: the words, or null where it raises ValueError. */
const ORACLE = `
import json, shlex, sys
for line in sys.stdin:
    try:
        answer = shlex.split(json.loads(line))
    except ValueError:
        answer = None
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
`;
const python = spawn('python3', ['-c', ORACLE], { stdio: ['pipe', 'pipe', 'inherit'] });
const answers = createInterface({ input: python.stdout })[Symbol.asyncIterator]();

async function pythonWords(cmd: string): Promise<string[] | null> {
  python.stdin.write(`${JSON.stringify(cmd)}\n`);
  const { value, done } = await answers.next();
  assert.ok(done !== true, 'Python answers');
  return JSON.parse(value) as string[] | null;
}

/** Takes the words that the gateway made of a command, and runs nothing. */
let received: RunRequest | undefined;
const executor: Executor = {
  ...NOBODY,
  // eslint-disable-next-line @typescript-eslint/require-await
  async *run(request) {
    received = request;
    const usage = { wallSeconds: 0, userSeconds: 0, systemSeconds: 0, peakMemoryBytes: 0, peakProcesses: 0 };
    const bytes = { stdinBytes: 0, stdoutBytes: 0, stderrBytes: 0 };
    const omitted = { stdout: 0, stderr: 0 };
    yield {
      type: 'end',
      result: { outcome: 'ok', exitCode: 0, signal: null, omitted, usage: { ...usage, ...bytes } },
    };
  },
};
let app: FastifyInstance;

interface Answer {
  readonly words: readonly string[] | null;
  readonly status: number;
  readonly code: string | undefined;
}

/** What the gateway makes of `cmd`: its words, or null with the refusal. */
async function noxWords(cmd: string): Promise<Answer> {
  received = undefined;
  const headers = { authorization: 'Bearer t', 'content-type': 'application/json' };
  const { statusCode, body } = await app.inject({
    method: 'POST',
    url: '/run_sh',
    headers,
    body: JSON.stringify({ cmd }),
  });
  const { code } = JSON.parse(body) as { code?: string };
  // TypeScript does not see that the executor was called meanwhile.
  const program = (received as RunRequest | undefined)?.program;
  return { words: program?.kind === 'command' ? program.argv : null, status: statusCode, code };
}

async function compare(cmd: string): Promise<void> {
  const expected = await pythonWords(cmd);
  const { words, status, code } = await noxWords(cmd);
  const shown = JSON.stringify(cmd);
  if (expected === null) {
    assert.deepEqual([status, code], [400, 'unbalanced_quote'], shown);
  } else if ((expected[0] ?? '').trim() === '') {
    assert.deepEqual([status, code], [400, 'empty_command'], shown);
  } else {
    assert.deepEqual([status, words], [200, expected], shown);
  }
}

before(async () => {
  const log = pino({ level: 'silent' });
  app = await buildGateway({
    executor,
    token: 't',
    forbidden: [],
    maxBodyBytes: 2 ** 20,
    maxUploadBytes: 1,
    limits: DEFAULT_LIMITS,
    ...{
      state: '/dev/null',
      slots: 1,
      queueWaitSeconds: 1,
      backgroundQueue: 0,
      keep: { outputBytes: 1, allOutputBytes: 1 },
    },
    store: Store.open(':memory:', { runs: 0, days: 0 }, log),
    log,
  });
});
after(async () => {
  await app.close();
  const closed = once(python, 'close');
  python.stdin.end();
  await closed;
});

/** Commands that people send, and those that parsers get wrong; the answer is Python's in each case. */
const LISTED: readonly string[] = [
  'echo a b',
  '  echo\ta \n b\r',
  '',
  ' ',
  "''",
  '""',
  "echo ''",
  'echo "" x',
  "echo 'a b' c",
  'echo "a b" c',
  `echo 'it'"'"'s'`,
  `bash -c "echo \\"a b\\""`,
  `bash -c 'echo "$HOME" | wc -c'`,
  `python3 -c "print('a')"`,
  'echo a\\ b',
  'echo \\"a',
  "echo \\'a",
  'echo \\\\',
  'echo "\\\\"',
  'echo "\\a"',
  'echo "\\$x"',
  'echo "\\`x"',
  'echo "a\\"b"',
  "echo 'a\\'",
  "echo 'a\\\\b'",
  'a"b"c',
  `a'b'"c"d`,
  'echo $HOME `id` $(id) ${x}',
  'echo a;b&c|d>e<f(g)',
  'echo *.py ~ {a,b}',
  'echo # not a comment',
  '#echo a',
  'a#b',
  'echo é 日本語 🎉 \u00a0x\u2028y',
  'echo "é 🎉"',
  'echo \\é\\🎉',
  'echo \ud800 a',
  'echo "a\nb" c',
  "echo 'a\nb'",
  'echo a\nb',
  'echo\va\fb',
  'echo a\0b',
  'unbalanced "',
  "unbalanced '",
  'unbalanced \\',
  `mixed "'`,
  '"a',
  'a"',
  '\\',
  "'\\",
  '"\\',
  '"\\"',
];

/** Where a word was begun before a double quote, its backslashes have been dealt with already. */
const BEFORE_QUOTE: readonly string[] = [
  `echo 'a\\\\b'"c"`,
  `echo '\\\\'""`,
  `echo \\\\\\\\"a"`,
  `echo "\\\\\\\\""a"`,
  `grep '\\\\n'"$x"`,
];

/** Words of bash that neither Python nor POSIX has. */
const DOLLAR: readonly string[] = [
  "echo $'a'",
  "echo $'a\\nb'",
  "echo $'it\\'s'",
  "echo $'\\x41'",
  'echo $"a"',
  'echo $""',
  "echo a$'b'",
  `grep "foo"$'x'`,
  "grep '^a'$'|b$'",
  `sed -n '/a$/p'`,
  `grep -E ^a$"b"`,
];

/** A shell takes away a backslash with the newline that follows it; Python keeps the newline. */
const CONTINUED: readonly string[] = ['echo a\\\nb', 'echo "a\\\nb"', 'echo \\\n b', "echo 'a\\\nb'"];

describe('the words of a command are those of Python’s shlex.split', () => {
  for (const [group, list] of Object.entries({ LISTED, BEFORE_QUOTE, DOLLAR, CONTINUED })) {
    for (const cmd of list) test(`${group.toLowerCase()}: ${JSON.stringify(cmd)}`, () => compare(cmd));
  }

  const letters = (...units: string[]) => fc.string({ unit: fc.constantFrom(...units), maxLength: 14 });

  test('property: words, spaces and single quotes', () =>
    fc.assert(fc.asyncProperty(letters('a', 'b', ' ', "'", '#', 'é', '🎉', '\t', '\n', '$x'), compare), {
      numRuns: 500,
    }));

  test('property: quotes of both kinds', () =>
    fc.assert(fc.asyncProperty(letters('a', ' ', "'", '"', ';', '日'), compare), { numRuns: 500 }));

  test('property: backslashes and double quotes', () =>
    fc.assert(fc.asyncProperty(letters('a', ' ', '"', '\\', '\\"'), compare), { numRuns: 500 }));

  test('property: everything that has a meaning to a shell', () =>
    fc.assert(
      fc.asyncProperty(
        letters('a', 'n', ' ', "'", '"', '\\', '$', '\n', '\r', '#', '`', '*', '\0', '\u00a0'),
        compare,
      ),
      { numRuns: 1000 },
    ));

  test('property: any text at all', () =>
    fc.assert(fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 30 }), compare), { numRuns: 500 }));

  test('property: what Python’s shlex.join quotes comes back as it was', () => {
    const quote = (word: string) => `'${word.replaceAll("'", `'"'"'`)}'`;
    const word = fc.string({ unit: 'binary', maxLength: 12 });
    return fc.assert(
      fc.asyncProperty(fc.array(word, { maxLength: 5 }), async (words) => {
        const { words: got } = await noxWords(['run', ...words].map(quote).join(' '));
        // A lone surrogate cannot cross UTF-8; it arrives as U+FFFD.
        assert.deepEqual(
          got,
          ['run', ...words].map((each) => each.toWellFormed()),
        );
      }),
      { numRuns: 500 },
    );
  });
});
