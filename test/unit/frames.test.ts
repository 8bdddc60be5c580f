import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { PassThrough } from 'node:stream';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  encodeFrame,
  FRAME,
  FrameDecoder,
  FrameError,
  type Frame,
  type FrameType,
  PIECE,
  sendData,
} from '../../src/transport/frames.ts';

const TYPES = Object.values(FRAME);
const MAX = 1000;

const frame = fc.record({
  type: fc.constantFrom<FrameType>(...TYPES),
  payload: fc.oneof(fc.uint8Array({ maxLength: 30 }), fc.uint8Array({ minLength: 200, maxLength: MAX })),
});
const frames = fc.array(frame, { maxLength: 12 });

function cut(stream: Buffer, places: readonly number[]): Buffer[] {
  const sorted = [
    0,
    ...places.map((place) => place % (stream.length + 1)).sort((a, b) => a - b),
    stream.length,
  ];
  // Each in memory of its own: a decoder moves what it is given.
  return sorted.slice(1).map((end, index) => Buffer.from(stream.subarray(sorted[index], end)));
}

/** Frames of data are a stream: how it is cut means nothing. */
const DATA: readonly FrameType[] = [FRAME.data, FRAME.stdout, FRAME.stderr, FRAME.compile];

/** Frames, those of data that follow each other joined. Copies: a decoder may hand out views of what it was given. */
function plain(all: readonly { type: FrameType; payload: Uint8Array }[]): [FrameType, Buffer][] {
  const joined: [FrameType, Buffer][] = [];
  for (const { type, payload } of all) {
    const last = joined.at(-1);
    if (last?.[0] === type && DATA.includes(type)) last[1] = Buffer.concat([last[1], payload]);
    else joined.push([type, Buffer.from(payload)]);
  }
  return joined;
}

function decode(decoder: FrameDecoder, chunks: readonly Buffer[]): Frame[] {
  const found: Frame[] = [];
  for (const chunk of chunks) {
    decoder.feed(chunk);
    for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) found.push(frame);
  }
  return found;
}

describe('FrameDecoder', () => {
  test('property: any sequence of frames, cut anywhere, comes out as it went in', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(), { maxLength: 40 }), (sent, places) => {
        const stream = Buffer.concat(sent.map(({ type, payload }) => encodeFrame(type, payload)));
        const chunks = cut(stream, places).filter((chunk) => chunk.length > 0);
        const decoder = new FrameDecoder(MAX);
        assert.deepEqual(plain(decode(decoder, chunks)), plain(sent));
        assert.ok(decoder.empty);
      }),
      { numRuns: 1000 },
    );
  });

  test('property: byte by byte', () => {
    fc.assert(
      fc.property(frames, (sent) => {
        const stream = Buffer.concat(sent.map(({ type, payload }) => encodeFrame(type, payload)));
        const decoder = new FrameDecoder(MAX);
        const got = decode(
          decoder,
          [...stream].map((byte) => Buffer.of(byte)),
        );
        assert.deepEqual(plain(got), plain(sent));
      }),
      { numRuns: 100 },
    );
  });

  test('property: empty chunks between the others change nothing', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(), { maxLength: 40 }), fc.nat(8), (sent, places, blanks) => {
        const stream = Buffer.concat(sent.map(({ type, payload }) => encodeFrame(type, payload)));
        const chunks = cut(stream, places).flatMap((chunk) => [
          ...Array.from({ length: blanks }, () => Buffer.alloc(0)),
          chunk,
        ]);
        assert.deepEqual(plain(decode(new FrameDecoder(MAX), chunks)), plain(sent));
      }),
    );
  });

  test('property: it is empty exactly between frames', () => {
    fc.assert(
      fc.property(frames, (sent) => {
        const decoder = new FrameDecoder(MAX);
        for (const { type, payload } of sent) {
          const bytes = encodeFrame(type, payload);
          decode(decoder, [bytes.subarray(0, -1)]);
          assert.ok(!decoder.empty);
          decode(decoder, [bytes.subarray(-1)]);
          assert.ok(decoder.empty);
        }
      }),
    );
  });

  test('data is handed on as it comes, another frame only whole', () => {
    for (const type of DATA) {
      const stream = Buffer.concat([encodeFrame(type, 'abc'), encodeFrame(FRAME.answer, '{}')]);
      const decoder = new FrameDecoder(MAX);
      const steps = [
        stream.subarray(0, 6),
        stream.subarray(6, 9),
        stream.subarray(9, 14),
        stream.subarray(14),
      ];
      const got = steps.map((chunk) => decode(decoder, [chunk]).map(({ payload }) => payload.toString()));
      assert.deepEqual(got, [['a'], ['bc'], [], ['{}']]);
    }
  });

  test('data that is written comes out as it went in, of any length', async () => {
    for (const length of [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7]) {
      const data = randomBytes(length);
      const pipe = new PassThrough({ highWaterMark: 2 ** 24 });
      await sendData(pipe, FRAME.stderr, data);
      pipe.end();
      const decoder = new FrameDecoder(PIECE);
      const got = decode(decoder, (await pipe.toArray()) as Buffer[]);
      assert.ok(got.every(({ type }) => type === FRAME.stderr));
      assert.deepEqual(Buffer.concat(got.map(({ payload }) => payload)), data);
      assert.ok(decoder.empty);
    }
  });

  test('a payload of the greatest length is taken, one byte more is not', () => {
    const just = encodeFrame(FRAME.data, Buffer.alloc(MAX));
    assert.equal(decode(new FrameDecoder(MAX), [just])[0]?.payload.length, MAX);
    const over = encodeFrame(FRAME.data, Buffer.alloc(MAX + 1));
    assert.throws(() => decode(new FrameDecoder(MAX), [over]), FrameError);
  });

  test('a payload that is too long is refused when its header is there, before any of it has come', () => {
    for (const length of [MAX + 1, 2 ** 31, 2 ** 32 - 1]) {
      const header = Buffer.alloc(5);
      header.writeUInt32BE(length);
      header[4] = FRAME.call;
      const decoder = new FrameDecoder(MAX);
      assert.deepEqual(decode(decoder, [header.subarray(0, 4)]), []);
      assert.throws(() => decode(decoder, [header.subarray(4)]), FrameError);
    }
  });

  test('property: an unknown type is refused when its header is there', () => {
    const unknown = fc.integer({ min: 0, max: 255 }).filter((type) => !TYPES.includes(type as FrameType));
    fc.assert(
      fc.property(unknown, fc.nat(MAX), (type, length) => {
        const header = Buffer.alloc(5);
        header.writeUInt32BE(length);
        header[4] = type;
        assert.throws(() => decode(new FrameDecoder(MAX), [header]), FrameError);
      }),
    );
  });

  test('frames before a bad one are still handed on', () => {
    const stream = Buffer.concat([encodeFrame(FRAME.stdout, 'a'), encodeFrame(99 as FrameType, 'b')]);
    const got: string[] = [];
    const decoder = new FrameDecoder(MAX);
    decoder.feed(stream);
    assert.throws(() => {
      for (;;) got.push(String(decoder.next()?.payload));
    }, FrameError);
    assert.deepEqual(got, ['a']);
  });

  test('text is sent as UTF-8, its length counted in bytes', () => {
    const [got] = decode(new FrameDecoder(MAX), [encodeFrame(FRAME.call, 'é🎉')]);
    assert.equal(got?.payload.toString(), 'é🎉');
    assert.equal(got.payload.length, 6);
  });

  test('property: it does not matter when they are asked for', () => {
    fc.assert(
      fc.property(
        frames,
        fc.array(fc.nat(), { maxLength: 40 }),
        fc.infiniteStream(fc.boolean()),
        (sent, places, asked) => {
          const stream = Buffer.concat(sent.map(({ type, payload }) => encodeFrame(type, payload)));
          const decoder = new FrameDecoder(MAX);
          const got: Frame[] = [];
          const take = () => {
            for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) got.push(frame);
          };
          for (const chunk of cut(stream, places)) {
            decoder.feed(chunk);
            if (asked.next().value) take();
          }
          take();
          assert.deepEqual(plain(got), plain(sent));
        },
      ),
      { numRuns: 1000 },
    );
  });

  test('data of several frames in one chunk is handed on in one piece', () => {
    const sent = ['abc', 'd', 'efghij', 'k'].map((text) => encodeFrame(FRAME.stdout, text));
    const decoder = new FrameDecoder(MAX);
    const got = decode(decoder, [
      Buffer.concat([
        ...sent,
        encodeFrame(FRAME.stderr, 'x'),
        encodeFrame(FRAME.stdout, 'yz').subarray(0, 6),
      ]),
    ]);
    assert.deepEqual(
      got.map(({ payload }) => payload.toString()),
      ['abcdefghijk', 'x', 'y'],
    );
  });

  test('property: all chunks may come in the same memory, where what waits is owned', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(), { maxLength: 40 }), (sent, places) => {
        const stream = Buffer.concat(sent.map(({ type, payload }) => encodeFrame(type, payload)));
        const memory = Buffer.alloc(stream.length);
        const decoder = new FrameDecoder(MAX);
        const got: Frame[] = [];
        for (const chunk of cut(stream, places)) {
          chunk.copy(memory);
          decoder.feed(memory.subarray(0, chunk.length));
          for (let frame = decoder.next(); frame !== undefined; frame = decoder.next())
            got.push({ ...frame, payload: Buffer.from(frame.payload) });
          decoder.own();
          memory.fill(0xff);
        }
        assert.deepEqual(plain(got), plain(sent));
      }),
      { numRuns: 1000 },
    );
  });

  test('a long frame in many chunks is copied about once, not once a chunk', () => {
    const payload = Buffer.alloc(32 * 2 ** 20, 'x');
    const stream = encodeFrame(FRAME.call, payload);
    const decoder = new FrameDecoder(payload.length);
    const before = process.memoryUsage().arrayBuffers;
    const chunks = Array.from({ length: Math.ceil(stream.length / 65_536) }, (_, index) =>
      stream.subarray(index * 65_536, (index + 1) * 65_536),
    );
    const got = decode(decoder, chunks);
    const grown = process.memoryUsage().arrayBuffers - before;
    assert.equal(got[0]?.payload.length, payload.length);
    assert.ok(grown < 2 * payload.length, `${String(grown)} bytes for a frame of ${String(payload.length)}`);
  });
});
