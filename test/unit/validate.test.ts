import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import Type, { type TSchema } from 'typebox';
import { NoxError } from '../../src/protocol/errors.ts';
import { PutRequest, RunRequest } from '../../src/protocol/messages.ts';
import { validator } from '../../src/protocol/validate.ts';

const Body = Type.Object({
  code: Type.String(),
  filename: Type.Optional(Type.String()),
  args: Type.Optional(Type.Array(Type.String())),
  nested: Type.Optional(
    Type.Object({ list: Type.Array(Type.Object({ size: Type.Integer({ minimum: 1 }) })) }),
  ),
});
const Closed = Type.Object(
  { a: Type.Optional(Type.Object({}, { additionalProperties: false })) },
  { additionalProperties: false },
);
const Command = Type.Object({ cmd: Type.Union([Type.String(), Type.Array(Type.String())]) });
const RUN = { id: 'a', program: { kind: 'python', code: '', args: [] } };

function refusal(schema: TSchema, value: unknown): string {
  try {
    validator(schema)(value);
  } catch (error) {
    assert.ok(error instanceof NoxError, String(error));
    assert.equal(error.code, 'invalid_request');
    return error.message;
  }
  return assert.fail(`${JSON.stringify(value)} is refused`);
}

describe('validator', () => {
  test('hands its argument back', () => {
    const value = { code: 'print(1)', args: ['a'], more: 1 };
    assert.equal(validator(Body)(value), value);
  });

  for (const [what, schema, value, message] of [
    ['a wrong type', Body, { code: 5 }, 'code: 5 must be string'],
    ['null for an optional field', Body, { code: '', filename: null }, 'filename: null must be string'],
    ['a missing field', Body, {}, 'code: missing'],
    ['an unknown member', Closed, { b: 1 }, 'b: no such member'],
    ['unknown members', Closed, { b: 1, c: 2 }, 'b, c: no such member'],
    ['an unknown member further down', Closed, { a: { b: 1 } }, 'a.b: no such member'],
    ['a name of the prototype', Closed, JSON.parse('{"__proto__":1}'), '__proto__: no such member'],
    ['another', Closed, { constructor: 1 }, 'constructor: no such member'],
    ['a long name', Closed, { ['x'.repeat(1000)]: 1 }, `${'x'.repeat(100)}…: no such member`],
    ['an element of a list', Body, { code: '', args: ['a', 5] }, 'args.1: 5 must be string'],
    ['a list that is none', Body, { code: '', args: 'a' }, 'args: "a" must be array'],
    [
      'a field of an element of a nested list',
      Body,
      { code: '', nested: { list: [{ size: 1 }, { size: 'x' }] } },
      'nested.list.1.size: "x" must be integer',
    ],
    [
      'a missing field of an element of a nested list',
      Body,
      { code: '', nested: { list: [{}] } },
      'nested.list.0.size: missing',
    ],
    [
      'a number out of its range',
      Body,
      { code: '', nested: { list: [{ size: 0 }] } },
      'nested.list.0.size: 0 must be >= 1',
    ],
    ['null', Body, null, 'body: null must be object'],
    ['nothing', Body, undefined, 'body: nothing must be object'],
    ['a number', Body, 5, 'body: 5 must be object'],
    ['a list', Body, [], 'body: [] must be object'],
    ['a text', Body, 'code', 'body: "code" must be object'],
    [
      'a value that no branch of a union takes',
      Command,
      { cmd: 5 },
      'cmd: 5 must be string or must be array',
    ],
    ['null for a union', Command, { cmd: null }, 'cmd: null must be string or must be array'],
    ['a missing union', Command, {}, 'cmd: missing'],
    ['an element of the list that a union takes', Command, { cmd: ['a', 5] }, 'cmd.1: 5 must be string'],
    [
      'a limit of the wrong size',
      RunRequest,
      { ...RUN, limits: { wallSeconds: 1e9 } },
      'limits.wallSeconds: 1000000000 must be <= 86400',
    ],
    ['a bad id', RunRequest, { ...RUN, id: 'a b' }, 'id: "a b" must match pattern "^[A-Za-z0-9._:-]+$"'],
    [
      'a field of a program',
      RunRequest,
      { ...RUN, program: { ...RUN.program, code: 5 } },
      'program.code: 5 must be string',
    ],
    ['a request without a program', RunRequest, { id: 'a' }, 'program: missing'],
    ['an upload without a path', PutRequest, { id: 'a' }, 'path: missing'],
  ] as const) {
    test(`names field, value and what is wanted: ${what}`, () => {
      assert.equal(refusal(schema, value), message);
    });
  }

  test('a branch of a union that is meant by its kind is the one that is explained', () => {
    assert.match(
      refusal(RunRequest, { ...RUN, program: { kind: 'command', argv: [] } }),
      /^program\.argv: \[\] /,
    );
    assert.match(
      refusal(RunRequest, { ...RUN, program: { kind: 'command', argv: ['a', 5] } }),
      /^program\.argv\.1: 5 /,
    );
  });

  test('what a value must be all at once is not told as a choice', () => {
    assert.doesNotMatch(refusal(RunRequest, { ...RUN, limits: { processes: 1.5 } }), / or /);
  });

  test('a long value is cut', () => {
    const message = refusal(Body, { code: { text: 'x'.repeat(1e6) } });
    assert.match(message, /^code: \{"text":"x{50,}… must be string$/);
    assert.ok(message.length < 150, String(message.length));
  });

  test('property: any JSON value is taken or refused by name, in a short message', () => {
    const fields = [
      'code',
      'filename',
      'args',
      'nested',
      'list',
      'size',
      'cmd',
      'id',
      'program',
      'kind',
      'argv',
      'limits',
    ];
    const { tree } = fc.letrec((tie) => ({
      tree: fc.oneof(
        { depthSize: 'medium', withCrossShrink: true },
        fc.jsonValue({ maxDepth: 1 }),
        fc.string({ minLength: 150, maxLength: 200 }),
        fc.array(tie('tree'), { maxLength: 3 }),
        fc.dictionary(fc.constantFrom(...fields), tie('tree'), { maxKeys: 5 }),
      ),
    }));
    const checks = [Body, Command, RunRequest, PutRequest].map((schema) => validator(schema));
    fc.assert(
      fc.property(tree, (value) => {
        for (const check of checks) {
          try {
            assert.equal(check(value), value);
          } catch (error) {
            assert.ok(error instanceof NoxError, String(error));
            assert.equal(error.code, 'invalid_request');
            assert.match(error.message, /^(?:[a-zA-Z0-9., ]+: |[^]*: no such member$)/);
            assert.ok(error.message.length < 400, error.message);
          }
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('extra keys are ignored, a prototype’s among them', () => {
    const value = JSON.parse('{"code": "", "__proto__": {"args": 5}, "constructor": 1, "x": {}}') as unknown;
    assert.equal(validator(Body)(value), value);
  });
});
