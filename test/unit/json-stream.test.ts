import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { asText, jsonBody, jsonObject } from '../../src/gateway/json-stream.ts';

type Members = readonly (readonly [name: string, value: string | number | readonly Uint8Array[]])[];
const pieces = (members: Members) =>
  jsonObject(
    members.map(([name, value]) => [name, typeof value === 'object' ? asText(value) : value] as const),
  );
const join = (members: Members): string => [...pieces(members)].join('');
/** What one stream reads as when it is there as a whole: the WHATWG decoder, as `TextDecoder` has it. */
const naive = (chunks: readonly Uint8Array[]): string =>
  new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(chunks));

function split(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const sorted = [
    0,
    ...places.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b),
    bytes.length,
  ];
  return sorted.slice(1).map((end, index) => bytes.subarray(sorted[index], end));
}

/** Whole characters, parts of characters, bytes that are never part of one, surrogates and over-long forms. */
const piece = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 4 }).map((text) => Buffer.from(text)),
  fc
    .constantFrom(
      [0xf0],
      [0xf0, 0x9f],
      [0xf0, 0x9f, 0x8e],
      [0xe2, 0x82],
      [0xc3],
      [0x80],
      [0xbf, 0xbf],
      [0xc0, 0x80],
      [0xe0, 0x80, 0x80],
      [0xed, 0xa0, 0x80],
      [0xed, 0xbf, 0xbf],
      [0xf4, 0x90, 0x80, 0x80],
      [0xf5, 0x80],
      [0xfe],
      [0xff],
      [0xef, 0xbb, 0xbf],
    )
    .map((bytes) => Buffer.from(bytes)),
  fc.uint8Array({ maxLength: 6 }).map((bytes) => Buffer.from(bytes)),
);
const bytes = fc.array(piece, { maxLength: 12 }).map((pieces) => Buffer.concat(pieces));
const places = fc.array(fc.nat(), { maxLength: 12 });

test('property: what is small is one string, the same as its pieces', () => {
  fc.assert(
    fc.property(bytes, places, (whole, cuts) => {
      const members = [
        ['outcome', 'ok'],
        ['stdout', asText(split(whole, cuts))],
        ['usage', { stdoutBytes: whole.length, limit: null }],
      ] as const;
      assert.equal(jsonBody(members), [...jsonObject(members)].join(''));
    }),
    { numRuns: 2000 },
  );
});

describe('jsonObject', () => {
  test('property: any bytes, cut anywhere, read as the whole decoded at once', () => {
    fc.assert(
      fc.property(bytes, places, (whole, cuts) => {
        const chunks = split(whole, cuts);
        assert.deepEqual(JSON.parse(join([['stdout', chunks]])), { stdout: naive(chunks) });
      }),
      { numRuns: 5000 },
    );
  });

  test('property: byte by byte', () => {
    fc.assert(
      fc.property(bytes, (whole) => {
        const chunks = [...whole].map((byte) => Uint8Array.of(byte));
        assert.deepEqual(JSON.parse(join([['stdout', chunks]])), { stdout: naive(chunks) });
      }),
      { numRuns: 1000 },
    );
  });

  test('property: names, numbers and texts of any kind, in the order given', () => {
    const value = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.double({ noNaN: true, noDefaultInfinity: true }).filter((number) => !Object.is(number, -0)),
      fc.array(fc.uint8Array({ maxLength: 10 }), { maxLength: 4 }),
    );
    const members = fc.uniqueArray(fc.tuple(fc.string({ unit: 'binary' }), value), {
      selector: ([name]) => name,
      minLength: 1,
    });
    fc.assert(
      fc.property(members, (each) => {
        // Not by way of an object: that would put names that are numbers first.
        const text = (of: (typeof each)[number][1]) =>
          JSON.stringify(typeof of === 'object' ? naive(of) : of);
        const wanted = each.map(([name, of]) => `${JSON.stringify(name)}:${text(of)}`);
        assert.equal(join(each), `{${wanted.join()}}`);
      }),
      {
        examples: [
          [
            [
              ['b', 1],
              ['a', 'x'],
            ],
          ],
          [[['stdout', []]]],
        ],
      },
    );
  });

  test('it is compact, as the contract has it', () => {
    assert.equal(
      join([
        ['returncode', -9],
        ['stdout', [Buffer.from('a\n"\0')]],
        ['stderr', []],
      ]),
      '{"returncode":-9,"stdout":"a\\n\\"\\u0000","stderr":""}',
    );
  });

  test('a character that lies across the cut of a large chunk stays whole', () => {
    const prefix = 'x'.repeat(64 * 1024 - 2);
    for (const tail of ['🎉', '€', 'é', 'xé', '\u{10ffff}'.repeat(40_000)]) {
      const text = prefix + tail;
      assert.deepEqual(JSON.parse(join([['stdout', [Buffer.from(text)]]])), { stdout: text });
    }
  });

  test('no piece is longer than the growth of 64 KiB in JSON, so that a result is never text as a whole', () => {
    const control = Buffer.alloc(4 * 2 ** 20, 1);
    let longest = 0;
    let total = 0;
    for (const text of pieces([['stdout', [control]]])) {
      longest = Math.max(longest, text.length);
      total += text.length;
    }
    assert.ok(longest <= 6 * 64 * 1024 + 2, String(longest));
    assert.equal(total, 6 * control.length + '{"stdout":""}'.length);
  });
});
