import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { bearerCheck } from '../../src/gateway/auth.ts';

/** What NOX_API_TOKEN may hold. */
const token = fc
  .array(fc.integer({ min: 0x21, max: 0x7e }), { minLength: 1, maxLength: 512 })
  .map((codes) => String.fromCharCode(...codes));

describe('bearerCheck', () => {
  const check = bearerCheck('s3cret');

  for (const header of [
    'Bearer s3cret',
    'bearer s3cret',
    'BEARER s3cret',
    'bEaReR s3cret',
    'Bearer   s3cret',
    'Bearer s3cret  ',
  ]) {
    test(`lets ${JSON.stringify(header)} in`, () => {
      assert.equal(check(header), true);
    });
  }

  for (const header of [
    undefined,
    '',
    'Bearer',
    'Bearer ',
    's3cret',
    'Bearers3cret',
    'Bearer\ts3cret',
    'Basic s3cret',
    'Bearer s3cre',
    'Bearer s3cret1',
    'Bearer S3cret',
    'Bearer s3cret s3cret',
    'Bearer s3cret, Bearer other',
    'Bearer "s3cret"',
    'Bearer s3cret\0',
    ' Bearer s3cret',
    'xBearer s3cret',
    'Bearer undefined',
    'Bearer null',
  ]) {
    test(`keeps ${JSON.stringify(header)} out`, () => {
      assert.equal(check(header), false);
    });
  }

  test('property: every token that may be set opens the door, with any case of the scheme', () => {
    fc.assert(
      fc.property(token, fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }), (each, upper) => {
        const scheme = Array.from('bearer').map((letter, index) =>
          upper[index] === true ? letter.toUpperCase() : letter,
        );
        return bearerCheck(each)(`${scheme.join('')} ${each}`);
      }),
    );
  });

  test('property: no other token does', () => {
    fc.assert(
      fc.property(token, token, (right, wrong) => right === wrong || !bearerCheck(right)(`Bearer ${wrong}`)),
    );
    const edit = fc.record({ at: fc.nat(), to: fc.integer({ min: 0x21, max: 0x7e }) });
    fc.assert(
      fc.property(token, edit, (right, { at, to }) => {
        const place = at % right.length;
        const wrong = right.slice(0, place) + String.fromCharCode(to) + right.slice(place + 1);
        return wrong === right || !bearerCheck(right)(`Bearer ${wrong}`);
      }),
    );
  });

  test('property: no header makes it throw, whatever bytes are in it', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), (header) => !check(header)));
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary' }),
        (rest) => check(`Bearer ${rest}`) === (rest.trim() === 's3cret'),
      ),
    );
  });

  test('a header of the greatest size is judged at once, however many spaces are in it', () => {
    const before = process.cpuUsage();
    for (const header of [
      `Bearer${' '.repeat(16_384)}`,
      `Bearer ${'a '.repeat(8192)}`,
      `Bearer ${' '.repeat(8192)}a b`,
    ]) {
      assert.equal(check(header), false);
    }
    const { user, system } = process.cpuUsage(before);
    assert.ok(user + system < 2_000_000, `${String(user + system)} µs`);
  });
});
