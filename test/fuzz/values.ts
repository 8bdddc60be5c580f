/** Values for a schema: right ones, and those that servers have broken on. Repeatable: all chance is in the seed. */
import fc from 'fast-check';

export type Json = Readonly<Record<string, unknown>>;

/** Programs that end soon, and those that a limit or the end of their input ends. */
const PROGRAMS = [
  ...[
    'print(1)',
    '',
    'import sys; sys.exit(3)',
    'print("x" * 100000)',
    'import os; os.write(1, b"\\xff\\x00")',
  ],
  ...['import sys; print(sys.stdin.read())', 'raise SystemExit("é")', 'def', 'open("made", "w").write("x")'],
  ...['import os; os.kill(os.getpid(), 9)', 'echo $0', '{ print }', 'import os; os.fork()', '\0', '\ud800'],
];
const COMMANDS = [
  ['true'],
  ['echo', 'x'],
  ['cat'],
  ['bash', '-c', 'exit 7'],
  ['no-such'],
  [''],
  ['true', '\0'],
  ['echo', '\ud800'],
];
const PATHS = [
  ...[
    'main.py',
    'a/b',
    '.',
    '..',
    '../x',
    '/etc/passwd',
    'a\0b',
    'é',
    'a//b/./c',
    '%2e%2e%2f',
    'made',
    'made/x',
  ],
  ...['x'.repeat(256), 'x/'.repeat(3000), '\ud800', '-', '\n', ' '],
];
/** Those under which there soon is something. */
const GOOD_PATHS = ['main.py', 'a/b', 'made', 'd'];
const pathOf = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...GOOD_PATHS) },
  { weight: 2, arbitrary: fc.constantFrom(...PATHS) },
);
const RANGES = [
  ...['bytes=0-0', 'bytes=1-', 'bytes=-1', 'bytes=5-1', 'bytes=-0', 'bytes=0-1,3-4', 'bytes=', 'lines=1-2'],
  ...['bytes=999999999999999-', 'bytes=9999999999999999-', 'bytes=0-999999999999999', 'bytes=\u0661-'],
];
const TAGS = ['*', '"x"', 'W/"x"', 'x', '', '"', '"a", "b"', ',', `"${'x'.repeat(190)}"`, '"x",'.repeat(200)];
/** By the name of a member or parameter: what has a meaning beyond its schema. */
const MEANINGS: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  code: fc.constantFrom(...PROGRAMS),
  cmd: fc.oneof(fc.constantFrom('true', 'echo "a b"', 'cat', ' ', '"', 'rm x'), fc.constantFrom(...COMMANDS)),
  command: fc.constantFrom(...COMMANDS),
  // Those that start quickly.
  runtime: fc.constantFrom('python', 'bash', 'awk', 'perl', 'javascript', 'no-such'),
  workspace: fc.constantFrom('default', 'default', 'no-such'),
  entry: pathOf,
  filename: pathOf,
  path: pathOf,
  from: pathOf,
  to: pathOf,
  range: fc.constantFrom(...RANGES),
  'if-range': fc.constantFrom(...TAGS),
  'if-match': fc.constantFrom(...TAGS),
  'if-none-match': fc.constantFrom(...TAGS),
  // Room for a few files, and none.
  quotaBytes: fc.constantFrom(null, 2 ** 20, 2 ** 22, 2 ** 20, 0, 2 ** 53 - 1),
  signal: fc.constantFrom('SIGTERM', 'SIGKILL', 'SIGSTOP', 'SIGWINCH'),
  wallSeconds: fc.double({ min: 0.1, max: 1, noNaN: true }),
};

let deep: unknown = 1;
for (let each = 0; each < 500; each += 1) deep = [deep];

export const NASTY: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom<unknown[]>(
    ...[
      '',
      '\0',
      '\ud800',
      '\udfff\ud800',
      '../..',
      '%00',
      '%',
      '%zz',
      '__proto__',
      'constructor',
      'toString',
    ],
    ...['a\r\nx-evil: 1', '\u202e\u2028', '{}', '${7*7}', "' OR 1=1 --", 'x'.repeat(9000), '😀'.repeat(300)],
    ...[0, -0, -1, 1.5, 2 ** 31, 2 ** 53, -(2 ** 63), 1e308, 5e-324, true, false, null, [], {}, [null], deep],
  ),
  fc.string({ unit: 'binary', maxLength: 50 }),
  fc.jsonValue({ maxDepth: 3 }),
);

/** @param schema without references */
export function valueOf(schema: Json, name = ''): fc.Arbitrary<unknown> {
  const meaning = Object.hasOwn(MEANINGS, name) ? MEANINGS[name] : undefined;
  if (meaning !== undefined) return meaning;
  const {
    type,
    anyOf,
    allOf,
    items,
    minimum = -1e9,
    maximum = 1e9,
  } = schema as {
    type?: string;
    anyOf?: Json[];
    allOf?: Json[];
    items?: Json;
    minimum?: number;
    maximum?: number;
  };
  const choices = schema['enum'] as unknown[] | undefined;
  if (choices !== undefined) return fc.constantFrom(...choices);
  if ('const' in schema) return fc.constant(schema['const']);
  if (anyOf !== undefined) return fc.oneof(...anyOf.map((each) => valueOf(each)));
  if (allOf?.[0] !== undefined) return valueOf(allOf[0]);
  if (type === 'string') return textOf(schema);
  if (type === 'integer')
    return fc.oneof(
      fc.constantFrom(minimum, maximum),
      fc.integer({ min: Math.max(minimum, -(2 ** 31)), max: Math.min(maximum, 2 ** 31 - 1) }),
    );
  if (type === 'number') return fc.double({ min: minimum, max: maximum, noNaN: true });
  if (type === 'boolean') return fc.boolean();
  if (type === 'null') return fc.constant(null);
  if (type === 'array') return listOf(schema, items ?? {});
  if (type === 'object') return objectOf(schema);
  return NASTY;
}

function textOf(schema: Json): fc.Arbitrary<unknown> {
  const {
    pattern,
    format,
    minLength = 0,
    maxLength = 40,
  } = schema as {
    pattern?: string;
    format?: string;
    minLength?: number;
    maxLength?: number;
  };
  if (format === 'date-time')
    return fc
      .date({ min: new Date('2020-01-01'), max: new Date('2099-01-01'), noInvalidDate: true })
      .map((date) => date.toISOString());
  if (pattern !== undefined) return fc.stringMatching(new RegExp(pattern), { size: 'small' });
  return fc.string({ unit: 'grapheme', minLength, maxLength: Math.min(maxLength, 40) });
}

function listOf({ minItems = 0, uniqueItems }: { minItems?: number; uniqueItems?: boolean }, items: Json) {
  const bounds = { minLength: minItems, maxLength: minItems + 3 };
  return uniqueItems === true ? fc.uniqueArray(valueOf(items), bounds) : fc.array(valueOf(items), bounds);
}

function objectOf(schema: Json): fc.Arbitrary<unknown> {
  const {
    properties,
    patternProperties,
    required = [],
  } = schema as {
    properties?: Readonly<Record<string, Json>>;
    patternProperties?: Readonly<Record<string, Json>>;
    required?: string[];
  };
  if (properties === undefined) {
    const [[pattern, value] = ['.*', {}]] = Object.entries(patternProperties ?? {});
    const names = fc.stringMatching(new RegExp(pattern), { size: 'small' });
    return fc.dictionary(names, valueOf(value), { maxKeys: 3 });
  }
  const members = Object.entries(properties).map(([name, value]) => [name, valueOf(value, name)] as const);
  return fc.record(Object.fromEntries(members), { requiredKeys: required });
}
