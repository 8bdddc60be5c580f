import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { markBytes, newMark, StageSplitter, type Stage, type StreamName } from '../../src/runner/stage.ts';

const MARK = '0123456789abcdef0123456789abcdef';
const BYTES = markBytes(MARK);

type Got = Record<StreamName, Record<Stage, Buffer>>;

/** What comes out, and the most that was held back at any time. */
function split(parts: readonly (readonly [StreamName, Uint8Array])[]): {
  got: Got;
  held: number;
  stage: Stage;
} {
  const got: Got = {
    stdout: { compile: Buffer.alloc(0), run: Buffer.alloc(0) },
    stderr: { compile: Buffer.alloc(0), run: Buffer.alloc(0) },
  };
  let out = 0;
  const splitter = new StageSplitter(MARK, (stage, stream, data) => {
    assert.ok(data.length > 0, 'nothing is handed on as nothing');
    got[stream][stage] = Buffer.concat([got[stream][stage], data]);
    out += data.length;
  });
  let into = 0;
  let held = 0;
  for (const [stream, data] of parts) {
    const copy = Buffer.from(data);
    splitter.push(stream, copy);
    // Whoever reads from a pipe uses its buffer again.
    copy.fill(0x21);
    into += data.length;
    held = Math.max(held, into - out);
  }
  const { stage } = splitter;
  splitter.end();
  return { got, held, stage };
}

/** Cuts a text at the places given, each a share of its length. */
function cut(data: Buffer, places: readonly number[]): Buffer[] {
  const at = [0, ...places.map((place) => place % (data.length + 1)), data.length].sort((a, b) => a - b);
  return at.slice(1).map((end, index) => data.subarray(at[index], end));
}

const near = fc.oneof(
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
  fc.integer({ min: 0, max: BYTES.length - 1 }).map((size) => BYTES.subarray(0, size)),
  fc.integer({ min: 1, max: BYTES.length }).map((from) => BYTES.subarray(from)),
  fc.constant(Buffer.from('\0\0\0')),
);
/** Bytes that are no mark, and much that looks like one. */
const noise = fc
  .array(near, { maxLength: 6 })
  .map((parts) => Buffer.concat(parts))
  .filter((bytes) => !bytes.includes(BYTES));
const anything = fc
  .array(fc.oneof(near, fc.constant(BYTES)), { maxLength: 6 })
  .map((each) => Buffer.concat(each));
const cuts = fc.array(fc.nat(), { maxLength: 12 });

describe('StageSplitter', () => {
  test('a new mark for each run, of which nothing can be guessed from the others', () => {
    const marks = new Set(Array.from({ length: 1000 }, newMark));
    assert.equal(marks.size, 1000);
    for (const mark of marks) assert.match(mark, /^[0-9a-f]{32}$/);
  });

  test('property: what stands before the first mark is the compiler’s, what comes after it the program’s, however it is cut', () => {
    fc.assert(
      fc.property(
        noise,
        anything,
        cuts,
        fc.constantFrom('stdout', 'stderr'),
        (before, after, places, stream) => {
          // The end of the one and the beginning of the mark may be an earlier mark.
          const whole = Buffer.concat([before, BYTES, after]);
          fc.pre(whole.indexOf(BYTES) === before.length);
          const { got, held } = split(cut(whole, places).map((part) => [stream, part] as const));
          assert.deepEqual(got[stream].compile, before);
          assert.deepEqual(got[stream].run, after);
          assert.ok(held <= BYTES.length, `${String(held)} bytes held back`);
        },
      ),
      { numRuns: 2000 },
    );
  });

  test('property: without a mark all of it is the compiler’s, whole, at the latest at the end', () => {
    fc.assert(
      fc.property(noise, cuts, (bytes, places) => {
        const { got, held, stage } = split(cut(bytes, places).map((part) => ['stderr', part] as const));
        assert.deepEqual(got.stderr.compile, bytes);
        assert.equal(got.stderr.run.length, 0);
        assert.equal(stage, 'compile');
        assert.ok(held < BYTES.length);
      }),
      { numRuns: 1000 },
    );
  });

  test('byte by byte', () => {
    const whole = Buffer.concat([Buffer.from('warning: x\n\0'), BYTES, BYTES, Buffer.from('\0')]);
    const { got } = split([...whole].map((byte) => ['stderr', Buffer.of(byte)] as const));
    assert.deepEqual(got.stderr.compile, Buffer.from('warning: x\n\0'));
    assert.deepEqual(got.stderr.run, Buffer.concat([BYTES, Buffer.from('\0')]));
  });

  test('the streams are told apart, and the program begins with the second of both marks', () => {
    assert.equal(split([['stdout', BYTES]]).stage, 'compile');
    assert.equal(split([['stderr', BYTES]]).stage, 'compile');
    const { got, stage } = split([
      ['stderr', Buffer.from('note\n')],
      ['stdout', BYTES],
      ['stdout', Buffer.from('out')],
      ['stderr', BYTES],
      ['stderr', Buffer.from('err')],
    ]);
    assert.equal(stage, 'run');
    const text = (stream: StreamName, of: Stage) => got[stream][of].toString();
    assert.deepEqual(
      [text('stdout', 'compile'), text('stdout', 'run'), text('stderr', 'compile'), text('stderr', 'run')],
      ['', 'out', 'note\n', 'err'],
    );
  });

  test('a program’s output is handed on as it is, not copied', () => {
    const handed: Uint8Array[] = [];
    const splitter = new StageSplitter(MARK, (_stage, _stream, data) => handed.push(data));
    splitter.push('stdout', BYTES);
    const data = Buffer.alloc(65_536);
    splitter.push('stdout', data);
    assert.deepEqual(
      handed.map((each) => each === data),
      [true],
    );
  });

  test('attack: another run’s mark, digits without NULs, one NUL: none begins the program', () => {
    for (const forged of [
      markBytes(newMark()),
      Buffer.from(MARK),
      Buffer.from(`\0${MARK}`),
      Buffer.from(`${MARK}\0`),
    ]) {
      const { got, stage } = split([
        ['stdout', forged],
        ['stderr', forged],
      ]);
      assert.equal(stage, 'compile');
      assert.deepEqual(got.stderr.compile, forged);
    }
  });
});
