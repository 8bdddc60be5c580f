import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { BoundedOutput } from '../../src/protocol/output.ts';

interface Kept {
  readonly text: Buffer;
  readonly pieces: readonly Buffer[];
  readonly total: number;
  readonly omitted: number;
}

function pass(limit: number, chunks: readonly Uint8Array[]): Kept {
  const pieces: Buffer[] = [];
  const output = new BoundedOutput(limit, (data) => {
    // A copy: what is handed on must not change afterwards, and must not be kept alive by the test.
    pieces.push(Buffer.from(data));
  });
  for (const chunk of chunks) output.write(chunk);
  output.end();
  return { text: Buffer.concat(pieces), pieces, total: output.total, omitted: output.omitted };
}

const isContinuation = (byte: number | undefined) => byte !== undefined && byte >= 0x80 && byte < 0xc0;

/** What the class promises, said of the whole stream at once. */
function checkAgainstModel(limit: number, chunks: readonly Uint8Array[]): void {
  const all = Buffer.concat(chunks);
  const { text, total, omitted } = pass(limit, chunks);
  assert.equal(total, all.length, 'every byte is counted');
  if (all.length <= limit) {
    assert.ok(text.equals(all), 'what fits comes through unchanged, with no marker');
    assert.equal(omitted, 0);
    return;
  }
  const headSize = Math.ceil(limit / 2);
  const tailSize = limit - headSize;
  assert.ok(text.subarray(0, headSize).equals(all.subarray(0, headSize)), 'the head is exact');
  const marker = /^\n\[nox: (\d+) bytes left out\]\n/.exec(text.subarray(headSize).toString('latin1'));
  assert.ok(marker !== null, `a marker follows the head: ${JSON.stringify(text.toString('latin1'))}`);
  const tail = text.subarray(headSize + marker[0].length);
  assert.equal(Number(marker[1]), all.length - headSize - tail.length, 'the marker tells the bytes left out');
  assert.equal(omitted, Number(marker[1]));
  assert.ok(tail.equals(all.subarray(all.length - tail.length)), 'the tail is exact');
  const cut = all.subarray(all.length - tailSize, all.length - tail.length);
  assert.ok(tail.length <= tailSize && cut.length <= 3, 'at most three bytes of the tail are trimmed');
  assert.ok(cut.every(isContinuation), 'only the rest of a character is trimmed');
  assert.ok(cut.length === 3 || !isContinuation(tail[0]), 'no part of a character is left to trim');
}

const bytes = fc.uint8Array({ maxLength: 40 });
const text = fc.string({ unit: 'binary', maxLength: 20 }).map((each) => new TextEncoder().encode(each));
const continuations = fc.nat(12).map((length) => new Uint8Array(length).fill(0xbf));
const chunks = fc.array(fc.oneof(bytes, text, continuations), { maxLength: 30 });
const limit = fc.oneof(fc.constantFrom(1, 2, 3, 4, 5, 7, 8), fc.integer({ min: 1, max: 300 }));

describe('BoundedOutput', () => {
  test('property: head, marker and tail are those of the whole stream, however it is cut', () => {
    fc.assert(fc.property(limit, chunks, checkAgainstModel), { numRuns: 3000 });
  });

  test('property: streams far longer than the limit, in chunks smaller and larger than it', () => {
    const sizes = fc.array(fc.integer({ min: 0, max: 30_000 }), { maxLength: 12 });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20_000 }), sizes, (max, lengths) => {
        let at = 0;
        const stream = lengths.map((length) => Uint8Array.from({ length }, () => (at++ * 31) % 251));
        checkAgainstModel(max, stream);
      }),
      { numRuns: 300 },
    );
  });

  for (const max of [1, 2, 3, 7, 8192, 8193, 16_385]) {
    test(`limit ${String(max)}: one byte less, the limit, one byte more, written byte by byte and at once`, () => {
      for (const length of [max - 1, max, max + 1, max * 2 + 1]) {
        const whole = Uint8Array.from({ length }, (_, index) => 0x20 + (index % 90));
        checkAgainstModel(max, [whole]);
        checkAgainstModel(
          max,
          [...whole].map((byte) => Uint8Array.of(byte)),
        );
      }
    });
  }

  test('property: the tail of a text begins with a whole character', () => {
    const utf8 = fc.string({ unit: 'binary', minLength: 100, maxLength: 300 });
    fc.assert(
      fc.property(utf8, fc.integer({ min: 8, max: 90 }), (string, max) => {
        const whole = Buffer.from(string);
        fc.pre(whole.length > max);
        const { text: kept } = pass(max, [whole]);
        const tail = kept.subarray(kept.indexOf(']\n', Math.ceil(max / 2)) + 2);
        assert.doesNotThrow(() => new TextDecoder('utf-8', { fatal: true }).decode(tail));
      }),
    );
  });

  test('nothing written, nothing handed on', () => {
    const { pieces, total, omitted } = pass(10, []);
    assert.deepEqual({ pieces, total, omitted }, { pieces: [], total: 0, omitted: 0 });
  });

  test('the head is handed on while the run is alive, the tail waits for its end', () => {
    const seen: string[] = [];
    const output = new BoundedOutput(8, (data) => seen.push(Buffer.from(data).toString()));
    output.write(Buffer.from('abc'));
    assert.deepEqual(seen, ['abc']);
    output.write(Buffer.from('defgh'));
    assert.deepEqual(seen, ['abc', 'd']);
    output.end();
    assert.deepEqual(seen, ['abc', 'd', 'efgh']);
  });

  test('a writer may reuse its buffer for the tail', () => {
    const seen: Buffer[] = [];
    const output = new BoundedOutput(4, (data) => seen.push(Buffer.from(data)));
    const buffer = Buffer.from('ab');
    for (const each of ['ab', 'cd', 'ef']) {
      buffer.write(each);
      output.write(buffer);
    }
    output.end();
    assert.equal(Buffer.concat(seen).toString(), 'ab\n[nox: 2 bytes left out]\nef');
  });

  test('memory: 128 times the limit leaves no more than the ring and what it grew out of', () => {
    const max = 8 * 2 ** 20;
    const tail = max / 2;
    const chunk = Buffer.alloc(64 * 1024, 'x');
    let handedOn = 0;
    const output = new BoundedOutput(max, (data) => {
      handedOn += data.length;
    });
    const before = process.memoryUsage().arrayBuffers;
    for (let written = 0; written < 128 * max; written += chunk.length) output.write(chunk);
    const grown = process.memoryUsage().arrayBuffers - before;
    // Doubling: all the smaller rings together are no larger than the last, should none have been collected.
    assert.ok(grown <= 2 * tail + 2 ** 20, `${String(grown)} bytes for a tail of ${String(tail)}`);
    assert.equal(handedOn, max - tail);
    output.end();
    assert.equal(output.total, 128 * max);
    assert.equal(output.omitted, 127 * max);
  });

  test('memory: what fits into the head costs no ring', () => {
    const chunk = Buffer.alloc(1024, 'x');
    const output = new BoundedOutput(2 ** 28, () => undefined);
    const before = process.memoryUsage().arrayBuffers;
    for (let count = 0; count < 1000; count += 1) output.write(chunk);
    assert.ok(process.memoryUsage().arrayBuffers - before < 2 ** 20);
    assert.equal(output.total, 1_024_000);
  });
});
