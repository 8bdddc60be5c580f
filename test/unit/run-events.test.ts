/** Events of runs as lines, and the logs that hold them. */
import assert from 'node:assert/strict';
import {
  mkdirSync,
  appendFileSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, describe, test } from 'node:test';
import fc from 'fast-check';
import {
  eventLine,
  headOf,
  linesOf,
  OutputEncoder,
  outputOf,
  type Line,
} from '../../src/gateway/runs/events.ts';
import { FileLog, MemoryLog, PlaceError, type EventLog } from '../../src/gateway/runs/log.ts';
import { Spool } from '../../src/gateway/runs/spool.ts';
import { STREAMS, type StreamName } from '../../src/protocol/messages.ts';

const dir = mkdtempSync(join(tmpdir(), 'nox-events-'));
after(() => {
  rmSync(dir, { recursive: true });
});
const never = new AbortController().signal;
let serial = 0;
const made: FileLog[] = [];
/** Let go after its test. */
function newFileLog(path: string, limit: number): FileLog {
  const log = FileLog.create(path, limit);
  made.push(log);
  return log;
}
afterEach(async () => {
  for (const log of made.splice(0)) await log.letGo();
});
const newPath = () => join(dir, String((serial += 1)));

describe('output as events', () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.string({ unit: 'binary', maxLength: 200 }).map((text) => new Uint8Array(Buffer.from(text))),
  );

  test('any bytes, cut anywhere, come back exactly, each stream in its order', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...STREAMS), bytes), { maxLength: 20 }), (writes) => {
        const encoder = new OutputEncoder();
        const lines = [
          ...writes.flatMap(([name, data]) => [...encoder.encode(name, data)]),
          ...encoder.end(),
        ];
        const back: Record<StreamName, Buffer[]> = { stdout: [], stderr: [], compile: [] };
        for (const line of lines) {
          const whole = line(7);
          assert.equal(whole.indexOf(10), whole.length - 1);
          const output = outputOf(whole);
          assert.ok(output !== undefined);
          back[output.stream].push(output.data);
        }
        for (const name of STREAMS) {
          const sent = Buffer.concat(writes.filter(([each]) => each === name).map(([, data]) => data));
          assert.deepEqual(Buffer.concat(back[name]), sent);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('text that is cut between its bytes stays text', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', maxLength: 50 }),
        fc.integer({ min: 1, max: 5 }),
        (text, step) => {
          const encoder = new OutputEncoder();
          const data = Buffer.from(text);
          const lines: Line[] = [];
          for (let at = 0; at < data.length; at += step)
            lines.push(...encoder.encode('stdout', data.subarray(at, at + step)));
          lines.push(...encoder.end());
          for (const line of lines) assert.match(line(0).toString(), /"text":/);
        },
      ),
    );
  });

  test('long text of every kind of character is what JSON says it is', () => {
    const unit = fc.constantFrom(
      'a',
      '"',
      '\\',
      '\n',
      '\u0000',
      '\u007f',
      'é',
      '\u2028',
      '\ufeff',
      '好',
      '🎉',
    );
    fc.assert(
      fc.property(fc.array(unit, { minLength: 1, maxLength: 9 }), fc.nat(40_000), (units, length) => {
        const text = units.join('').repeat(1 + length / units.length);
        const lines = [...new OutputEncoder().encode('stderr', Buffer.from(text))].map((make) =>
          make(3).toString(),
        );
        const events = lines.map((each) => JSON.parse(each) as { id: number; stream: string; text: string });
        assert.equal(events.map((each) => each.text).join(''), text);
        for (const [index, { id, stream, text: part }] of events.entries()) {
          assert.deepEqual([id, stream], [3, 'stderr']);
          assert.equal(lines[index], `${JSON.stringify({ id, type: 'output', stream, text: part })}\n`);
        }
      }),
    );
  });

  test('a long piece becomes several events of at most 64 KiB', () => {
    const lines = [...new OutputEncoder().encode('stdout', Buffer.alloc(200_000, 'é'))];
    assert.equal(lines.length, 4);
    for (const line of lines) assert.ok((outputOf(line(0))?.data.length ?? Infinity) <= 65_536);
  });

  test('id and type of a line are read back; what is none is refused', () => {
    assert.deepEqual(headOf(eventLine({ type: 'end', run: {} })(12)), { id: 12, type: 'end' });
    assert.throws(() => headOf(Buffer.from('{"type":"end"}\n')), /not an event/);
  });
});

const line = (text: string): Line => eventLine({ type: 'output', stream: 'stdout', text });
const idsIn = (pieces: readonly Buffer[]): number[] =>
  pieces.flatMap((piece) => [...linesOf(piece)].map((each) => headOf(each).id));

async function readAll(log: EventLog, from?: number, signal = never): Promise<Buffer[]> {
  const pieces: Buffer[] = [];
  for await (const piece of await log.read(from, signal)) pieces.push(Buffer.from(piece));
  return pieces;
}

const LOGS: Readonly<Record<string, () => EventLog>> = {
  MemoryLog: () => new MemoryLog(),
  FileLog: () => newFileLog(newPath(), 1024 * 1024),
};
for (const [name, make] of Object.entries(LOGS)) {
  describe(name, () => {
    test('a reader has all, whenever it comes; ids are the places of the lines', async () => {
      const log = make();
      const early = readAll(log);
      for (let each = 0; each < 20; each += 1) log.append(line(`${String(each)} ü`));
      const late = readAll(log);
      log.append(eventLine({ type: 'end' }));
      log.close();
      const [first, second] = await Promise.all([early, late]);
      assert.deepEqual(Buffer.concat(first), Buffer.concat(second));
      const all = Buffer.concat(first);
      let at = 0;
      for (const each of linesOf(all)) {
        assert.equal(headOf(each).id, at);
        at += each.length;
      }
      assert.equal(idsIn(first).length, 21);
    });

    test('a reader goes on after any event: nothing twice, nothing lost', async () => {
      const log = make();
      for (let each = 0; each < 12; each += 1) log.append(line('x'.repeat(each * 7)));
      log.append(eventLine({ type: 'end' }));
      log.close();
      const ids = idsIn(await readAll(log));
      for (const [index, id] of ids.entries())
        assert.deepEqual(idsIn(await readAll(log, id)), ids.slice(index + 1));
    });

    test('what is the id of no event is refused before anything is read', async () => {
      const log = make();
      await assert.rejects(log.read(0, never), PlaceError);
      log.append(line('one'));
      log.append(line('two'));
      await log.room(never);
      const end = idsIn([await firstPiece(log)]).length;
      assert.ok(end > 0);
      const whole = (await firstPiece(log)).length;
      for (const place of [1, whole, whole + 1, 999_999_999_999_999])
        await assert.rejects(log.read(place, never), PlaceError, String(place));
    });

    test('a reader that goes leaves the others', async () => {
      const log = make();
      log.append(line('one'));
      const gone = new AbortController();
      const stays = readAll(log);
      const goes = readAll(log, undefined, gone.signal);
      await log.room(never);
      gone.abort();
      await goes;
      log.append(eventLine({ type: 'end' }));
      log.close();
      assert.equal(idsIn(await stays).length, 2);
    });
  });
}

async function firstPiece(log: EventLog): Promise<Buffer> {
  for await (const piece of await log.read(undefined, never)) return piece;
  assert.fail('nothing to read');
}

describe('MemoryLog', () => {
  const MIB = 1024 * 1024;
  const part = line('x'.repeat(60_000));

  test('holds up the run while nobody reads, and holds little of what was read', async () => {
    const log = new MemoryLog();
    let waited = false;
    for (let each = 0; each < 30 && !waited; each += 1) {
      log.append(part);
      waited = await Promise.race([log.room(never).then(() => false), tick().then(() => true)]);
    }
    assert.ok(waited);
    assert.ok(log.held < 1.2 * MIB, String(log.held));
    const reading = readAll(log);
    for (let each = 0; each < 200; each += 1) {
      await log.room(never);
      log.append(part);
      assert.ok(log.held < 3 * MIB, String(log.held));
    }
    log.close();
    assert.ok(Buffer.concat(await reading).length > 200 * 60_000);
    // A newcomer cannot have the beginning, and one who was there not long ago can go on.
    await assert.rejects(log.read(undefined, never), PlaceError);
    await assert.rejects(log.read(0, never), PlaceError);
  });

  test('whoever waits for room is let go by its signal', async () => {
    const log = new MemoryLog();
    const abort = new AbortController();
    for (let each = 0; each < 30; each += 1) log.append(part);
    const waiting = log.room(abort.signal);
    abort.abort();
    await waiting;
  });
});

describe('FileLog', () => {
  test('output beyond the bound is left out, its end is told', async () => {
    const log = newFileLog(newPath(), 500);
    for (let each = 0; each < 50; each += 1) log.append(line(`${String(each)} of them`));
    log.append(eventLine({ type: 'end' }));
    log.close();
    const lines = (await readAll(log)).flatMap((piece) => [...linesOf(piece)].map(String));
    assert.ok(log.truncated);
    assert.match(lines.at(-1) ?? '', /"type":"end"/);
    // Those from the beginning, without a gap.
    assert.deepEqual(
      lines.slice(0, -1).map((each) => /"text":"(\d+) /.exec(each)?.[1]),
      Array.from({ length: lines.length - 1 }, (_, index) => String(index)),
    );
    assert.ok(lines.length > 3 && lines.length < 20);
  });

  test('a file that cannot be written: the run is not held up, the end is told to who reads it now', async () => {
    const log = newFileLog(join(dir, 'no', 'such', 'directory'), 1000);
    log.append(eventLine({ type: 'started' }));
    log.append(line('lost'));
    await log.room();
    log.append(eventLine({ type: 'end' }));
    log.close();
    const lines = (await readAll(log)).map(String);
    assert.deepEqual([lines.length, log.truncated], [1, true]);
    assert.match(lines[0] ?? '', /^\{"id":0,"type":"end"\}/);
  });

  test('makes no file before there is an event, and closes it after its last reader', async () => {
    const path = newPath();
    const before = descriptors();
    const log = FileLog.create(path, 1000);
    await log.room();
    assert.throws(() => readFileSync(path));
    log.append(line('x'));
    log.close();
    const reading = await log.read(undefined, never);
    await log.letGo();
    let pieces = 0;
    for await (const piece of reading) pieces += piece.length > 0 ? 1 : 0;
    assert.deepEqual([pieces, descriptors()], [1, before]);
  });

  test('a line that a crash has cut is none: reading ends before it', async () => {
    for (const garbage of ['{"id":', `{"id":30,"type":"output","text":"${'x'.repeat(600_000)}`]) {
      const path = newPath();
      writeFileSync(path, line('whole')(0));
      appendFileSync(path, garbage);
      const log = await FileLog.open(path);
      assert.deepEqual(idsIn(await readAll(log)), [0]);
      await log.letGo();
    }
  });

  test('a line longer than a piece that is read', async () => {
    const log = newFileLog(newPath(), 10 * 1024 * 1024);
    for (let each = 0; each < 3; each += 1) log.append(line('\u0001'.repeat(65_536)));
    log.close();
    assert.equal(idsIn(await readAll(log)).length, 3);
  });
});

describe('Spool', () => {
  const limits = { outputBytes: 10_000, allOutputBytes: 1500 };

  test('events that were cut off get their end, once, where the last whole line ends', async () => {
    const state = newPath();
    const spool = new Spool(state, limits);
    mkdirSync(join(state, 'runs'), { recursive: true });
    const path = join(state, 'runs', 'run_a.ndjson');
    const first = line('x')(0);
    writeFileSync(path, Buffer.concat([first, Buffer.from('{"id":')]));
    await spool.complete('run_a', { id: 'run_a' });
    await spool.complete('run_a', { id: 'again' });
    const log = await spool.open('run_a');
    const lines = (await readAll(log)).flatMap((piece) => [...linesOf(piece)].map(String));
    await log.letGo();
    assert.equal(lines[1], `{"id":${String(first.length)},"type":"end","run":{"id":"run_a"}}\n`);
    assert.equal(lines.length, 2);
    await spool.complete('run_none', {});
  });

  test('tidies: what belongs to nobody, then the oldest that has ended', async () => {
    const state = newPath();
    const spool = new Spool(state, limits);
    mkdirSync(join(state, 'runs'), { recursive: true });
    for (const name of ['run_1', 'run_2', 'run_3', 'run_4', 'run_unknown'])
      writeFileSync(join(state, 'runs', `${name}.ndjson`), Buffer.alloc(600));
    writeFileSync(join(state, 'runs', 'not-ours'), '');
    await spool.tidy(
      (id) => id !== 'run_unknown',
      (id) => id === 'run_1',
    );
    const left = readdirSync(join(state, 'runs'));
    assert.ok(left.includes('run_1.ndjson') && left.includes('not-ours'));
    assert.equal(left.length, 3);
  });

  test('output that is not kept is not found by name', async () => {
    await assert.rejects(new Spool(newPath(), limits).open('run_none'), { code: 'run_not_found' });
  });
});

const tick = () => new Promise((resolve) => setImmediate(resolve));
const descriptors = (): number => readdirSync('/proc/self/fd').length;
