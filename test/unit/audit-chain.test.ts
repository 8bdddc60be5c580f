/** The chain of the audit file: every change of a valid one is found, and every valid one passes. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { pino } from 'pino';
import { verifyAudit, type Broken, type Intact } from '../../src/admin/audit-verify.ts';
import { auditCommand } from '../../src/cli/audit.ts';
import { chainLine, GENESIS, type Head, type Unchained } from '../../src/gateway/audit-chain.ts';
import { AuditFile } from '../../src/gateway/audit-file.ts';

const log = pino({ level: 'silent' });
const dirs: string[] = [];
after(async () => {
  for (const dir of dirs) await rm(dir, { recursive: true });
});
async function directory(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'nox-chain-'));
  dirs.push(dir);
  return dir;
}

/** What happens to a chain: a line, a rotation, a crash within a line. */
const happenings = fc
  .array(
    fc.oneof(
      { weight: 6, arbitrary: fc.record({ do: fc.constant('line' as const), text: fc.string() }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('rotate' as const) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('crash' as const), kept: fc.nat() }) },
    ),
    { minLength: 1, maxLength: 14 },
  )
  // The last is a line, so that whatever is taken away has been promised by the head.
  .map((list) => [...list, { do: 'line' as const, text: 'last' }]);
type Happenings = typeof happenings extends fc.Arbitrary<infer T> ? T : never;

interface Chain {
  /** The text of each file, the oldest first. */
  readonly files: string[];
  readonly head: Head;
}

/** Writes as the gateway does, without it. */
function build(list: Happenings, tornEnds = false): Chain {
  const files = [''];
  let head = GENESIS;
  let unchained: Unchained | undefined;
  let first = true;
  for (const [n, each] of list.entries()) {
    const entry = JSON.stringify({ n, text: each.do === 'line' ? each.text : '' });
    if (each.do === 'rotate') {
      // What is torn at the end of a file that was rotated is in no line's hash.
      if (first || (unchained !== undefined && !tornEnds)) continue;
      files.push('');
      first = true;
      unchained = undefined;
      continue;
    }
    const text = files.pop() ?? '';
    const line = chainLine(head, entry, { prev: first ? head.hash : undefined, unchained });
    if (each.do === 'crash') {
      if (unchained === undefined) {
        const torn = Buffer.from(line.text).subarray(0, 1 + (each.kept % (Buffer.byteLength(line.text) - 1)));
        const region = Buffer.concat([torn, Buffer.from('~')]);
        unchained = { bytes: region.length, sha256: createHash('sha256').update(region).digest('hex') };
        files.push(`${text}${torn.toString('latin1')}`);
      } else files.push(text);
      continue;
    }
    files.push(`${text}${unchained === undefined ? '' : '~\n'}${Buffer.from(line.text).toString('latin1')}`);
    ({ head } = line);
    unchained = undefined;
    first = false;
  }
  return { files, head };
}

async function judge(
  dir: string,
  files: readonly string[],
  heads: readonly Head[],
): Promise<Intact | Broken> {
  const paths = files.map((text, index) => {
    const packed = index < files.length - 2;
    const path = join(
      dir,
      `audit.log${index === files.length - 1 ? '' : `.${files.length - 1 - index}${packed ? '.gz' : ''}`}`,
    );
    const data = Buffer.from(text, 'latin1');
    writeFileSync(path, packed ? gzipSync(data) : data);
    return path;
  });
  return verifyAudit(paths, heads);
}

/** One change of one place. `undefined` where there is nothing of the kind to change. */
const MUTATIONS: Readonly<
  Record<string, (chain: readonly string[], pick: (below: number) => number) => string[] | undefined>
> = {
  'a byte': (files, pick) => {
    const at = pick(files.length);
    const text = files[at] ?? '';
    const place = pick(text.length);
    const byte = String.fromCharCode((text.charCodeAt(place) + 1 + pick(255)) % 256);
    return files.with(at, text.slice(0, place) + byte + text.slice(place + 1));
  },
  'a line removed': (files, pick) => onLines(files, pick, (lines, at) => lines.splice(at, 1)),
  'a line duplicated': (files, pick) =>
    onLines(files, pick, (lines, at) => lines.splice(at, 0, lines[at] ?? '')),
  'a line copied elsewhere': (files, pick) =>
    onLines(files, pick, (lines, at) => lines.splice(pick(lines.length + 1), 0, lines[at] ?? '')),
  'a line inserted': (files, pick) =>
    onLines(files, pick, (lines, at) => lines.splice(at + pick(2), 0, '{"time":"2020","who":"nobody"}\n')),
  'two lines swapped': (files, pick) =>
    onLines(files, pick, (lines, at) => {
      const other = pick(lines.length);
      const a = lines[at] ?? '';
      lines[at] = lines[other] ?? '';
      lines[other] = a;
    }),
  'several lines removed': (files, pick) =>
    onLines(files, pick, (lines, at) => lines.splice(at, 1 + pick(lines.length - at))),
  'cut at a byte': (files, pick) => {
    const at = pick(files.length);
    const text = files[at] ?? '';
    return files.with(at, text.slice(0, pick(text.length)));
  },
  'cut at a byte, and all after it': (files, pick) => {
    const at = pick(files.length);
    return [...files.slice(0, at), (files[at] ?? '').slice(0, pick((files[at] ?? '').length))];
  },
  // The oldest go with time: that is no attack, and its first line says so.
  'a file dropped': (files, pick) =>
    files.length < 2 ? undefined : files.toSpliced(1 + pick(files.length - 1), 1),
  'a file twice': (files, pick) => [...files, files[pick(files.length)] ?? ''],
};

function onLines(
  files: readonly string[],
  pick: (below: number) => number,
  change: (lines: string[], at: number) => void,
): string[] | undefined {
  const at = pick(files.length);
  const lines = files[at]?.split(/(?<=\n)/) ?? [];
  if (lines.length === 0) return undefined;
  change(lines, pick(lines.length));
  return files.with(at, lines.join(''));
}

test('a chain passes, through rotations and crashes', async () => {
  const dir = await directory();
  await fc.assert(
    fc.asyncProperty(happenings, async (list) => {
      const { files, head } = build(list, true);
      const found = await judge(dir, files, [head]);
      assert(found.intact, JSON.stringify({ found, files }));
      assert.deepEqual([found.head, found.first, found.beyond], [head, 1, 0]);
    }),
    { numRuns: 150 },
  );
});

for (const [name, mutate] of Object.entries(MUTATIONS))
  test(`found: ${name}`, async () => {
    const dir = await directory();
    let tried = 0;
    await fc.assert(
      fc.asyncProperty(happenings, fc.infiniteStream(fc.nat()), async (list, numbers) => {
        const { files, head } = build(list);
        const changed = mutate(files, (below) => Number(numbers.next().value) % Math.max(1, below));
        if (changed === undefined || changed.join('\0') === files.join('\0')) return;
        tried += 1;
        const found = await judge(dir, changed, [head]);
        assert(!found.intact, JSON.stringify({ files, changed }));
      }),
      { numRuns: 200 },
    );
    assert(tried > 30, `${tried} tries`);
  });

describe('what the verifier says', () => {
  const list = Array.from({ length: 6 }, (_, n) => ({ do: 'line' as const, text: String(n) }));
  const { files, head } = build(list);
  const lines = files[0]?.split(/(?<=\n)/) ?? [];
  const said = async (texts: readonly string[], heads = [head]): Promise<string> => {
    const found = await judge(await directory(), texts, heads);
    return found.intact ? 'PASS' : `${found.line}: ${found.what}`;
  };
  const CASES: Readonly<Record<string, [string[], RegExp]>> = {
    changed: [lines.with(2, (lines[2] ?? '').replace('"2"', '"3"')), /^3: changed: the hash of line 3/],
    removed: [lines.toSpliced(2, 2), /^3: removed: lines 3 to 4 are missing before line 5/],
    'removed at the start': [lines.slice(2), /^1: removed: lines 1 to 2/],
    reordered: [lines.with(1, lines[4] ?? '').with(4, lines[1] ?? ''), /^2: reordered: line 2 comes later/],
    'cut off': [lines.slice(0, 4), /^4: cut off: lines 5 to 6 are missing at the end/],
    duplicated: [lines.toSpliced(3, 0, lines[1] ?? ''), /^4: duplicated: line 2 again/],
    inserted: [lines.toSpliced(3, 0, 'x\n'), /^4: inserted/],
    'no JSON any more': [lines.with(3, 'x\n'), /^4: changed/],
  };
  for (const [name, [changed, message]] of Object.entries(CASES))
    test(name, async () => assert.match(await said([changed.join('')]), message));

  test('without a head nothing passes; with one of yesterday the chain does', async () => {
    assert.match(await said(files, []), /no head to compare/);
    const { seq, hash } = JSON.parse(lines[2] ?? '') as Head;
    assert.equal(await said(files, [{ seq, hash }]), 'PASS');
  });

  test('a chain that was made anew from the first line on: only a head from elsewhere tells', async () => {
    const forged = build(list.with(2, { do: 'line', text: 'forged' }));
    assert.equal(await said(forged.files, [forged.head]), 'PASS');
    const { seq, hash } = JSON.parse(lines[3] ?? '') as Head;
    assert.match(
      await said(forged.files, [forged.head, { seq, hash }]),
      /^4: changed: line 4 has not the hash/,
    );
  });

  test('a hash is what audit-chain.ts says it is', () => {
    const body = (lines[1] ?? '').trimEnd().replace(/,"hash":"([0-9a-f]{64})"\}$/, '}');
    const { hash } = JSON.parse(lines[0] ?? '') as Head;
    assert.equal(
      createHash('sha256').update(`${hash}\n${body}`).digest('hex'),
      (JSON.parse(lines[1] ?? '') as Head).hash,
    );
  });

  test('the oldest files may be gone', async () => {
    const rotated = build([list[0], { do: 'rotate' }, list[1], { do: 'rotate' }, list[2]] as Happenings);
    const found = await judge(await directory(), rotated.files.slice(1), [rotated.head]);
    assert(found.intact && found.first === 2);
  });

  test('what is no regular file, cannot be unpacked, or never ends', async () => {
    const dir = await directory();
    const bad = { 'x.gz': 'no gzip', 'audit.log': 'x'.repeat(3_000_000) };
    for (const [name, text] of Object.entries(bad)) {
      writeFileSync(join(dir, name), text);
      assert.equal((await verifyAudit([join(dir, name)], [head])).intact, false);
    }
    for (const path of [dir, '/dev/zero', '/proc/self/exe', join(dir, 'none')])
      assert.equal((await verifyAudit([path], [head])).intact, false, path);
  });
});

describe('the writer', () => {
  const open = async (path: string) => {
    const file = await AuditFile.open(path, log);
    assert(file !== undefined);
    return file;
  };
  const verify = async (path: string, ...words: string[]) => {
    const said: string[] = [];
    const code = await auditCommand(
      ['verify', ...words],
      () => path,
      (line) => said.push(line),
    );
    return { code, said: said.join('\n') };
  };
  /** As logrotate does: compressed one rotation later. */
  const rotate = async (path: string) => {
    for (const name of (await readdir(join(path, '..'))).sort().reverse()) {
      const number = Number(/^audit\.log\.(\d+)/.exec(name)?.[1]);
      if (number > 0)
        await rename(
          `${path}.${number}${number > 1 ? '.gz' : ''}`,
          `${path}.${number + 1}${number > 1 ? '.gz' : ''}`,
        );
    }
    const second = await readFile(`${path}.2`).catch(() => undefined);
    if (second !== undefined) {
      writeFileSync(`${path}.2.gz`, gzipSync(second));
      await rm(`${path}.2`);
    }
    await rename(path, `${path}.1`);
  };

  test('rotations, restarts and torn ends at random places: it always verifies, every entry is there', async () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant('write' as const), count: fc.integer({ min: 1, max: 30 }) }),
      fc.record({ do: fc.constantFrom('rotate' as const, 'restart' as const) }),
      fc.record({ do: fc.constant('tear' as const), bytes: fc.nat() }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        const dir = await directory();
        const path = join(dir, 'audit.log');
        let file = await open(path);
        let written = 0;
        for (const each of steps) {
          if (each.do === 'write') for (let n = 0; n < each.count; n += 1) file.write({ n: (written += 1) });
          else {
            await file.close();
            // As logrotate's notifempty.
            if (each.do === 'rotate' && readFileSync(path).length > 0) await rotate(path);
            if (each.do === 'tear') {
              const { seq, hash } = JSON.parse(readFileSync(`${path}.head`, 'utf8')) as Head;
              const { text } = chainLine({ seq, hash }, JSON.stringify({ torn: true }));
              const before = readFileSync(path, 'utf8');
              const mark = before === '' || before.endsWith('\n') ? '' : '~\n';
              appendFileSync(path, mark + text.slice(0, 1 + (each.bytes % (text.length - 1))));
            }
            const { code, said } = await verify(path);
            assert.equal(code, 0, `${each.do}: ${said}`);
            file = await open(path);
          }
        }
        await file.close();
        const { code, said } = await verify(path);
        assert.equal(code, 0, said);
        assert.match(said, new RegExp(`^PASS {2}${written} lines`));
        const names = (await readdir(dir)).filter((name) => !name.endsWith('.head'));
        const texts = names.map((name) => {
          const data = readFileSync(join(dir, name));
          return String(name.endsWith('.gz') ? gunzipSync(data) : data);
        });
        const found = [...texts.join('').matchAll(/"n":(\d+),"hash"/g)].map((match) => Number(match[1]));
        assert.equal(new Set(found).size, written);
      }),
      { numRuns: 25 },
    );
  });

  test('files are rotated of which a crash left only the beginning of a line', async () => {
    for (const torn of [1, 2, 3]) {
      const path = join(await directory(), 'audit.log');
      const first = await open(path);
      first.write({ n: 1 });
      await first.close();
      await rotate(path);
      for (let n = 0; n < torn; n += 1) {
        writeFileSync(path, '{');
        await rotate(path);
      }
      const errors: string[] = [];
      const loud = pino({ level: 'error' }, { write: (line: string) => void errors.push(line) });
      const next = await AuditFile.open(path, loud);
      next?.write({ n: 2 });
      await next?.close();
      assert.deepEqual(errors, [], `${torn} torn`);
      assert.match((await verify(path)).said, /^PASS {2}2 lines/, `${torn} torn`);
    }
  });

  test('dated names: the newest that has a line', async () => {
    const path = join(await directory(), 'audit.log');
    for (const [date, text] of [
      ['20261128', undefined],
      ['20261129', undefined],
      ['20261130', '{'],
      ['20261130-1764500000', ''],
    ]) {
      const file = await open(path);
      if (text === undefined) file.write({ date });
      await file.close();
      if (text !== undefined) writeFileSync(path, text);
      await rename(path, `${path}-${date}`);
    }
    writeFileSync(`${path}-20261129.gz`, gzipSync(readFileSync(`${path}-20261129`)));
    await rm(`${path}-20261129`);
    const file = await open(path);
    file.write({ n: 3 });
    await file.close();
    assert.match((await verify(path)).said, /^PASS {2}3 lines/);
  });

  test('a rotated file that cannot be unpacked does not have the line: said, and not healed', async () => {
    const path = join(await directory(), 'audit.log');
    const file = await open(path);
    file.write({ n: 1 });
    await file.close();
    const text = gzipSync(readFileSync(path));
    await rm(path);
    writeFileSync(`${path}.1`, '{');
    writeFileSync(`${path}.2.gz`, text.subarray(0, 30));
    const errors: string[] = [];
    const loud = pino({ level: 'error' }, { write: (line: string) => void errors.push(line) });
    const next = await AuditFile.open(path, loud);
    next?.write({ n: 2 });
    await next?.close();
    assert.match(errors.join(''), /does not have the line/);
    assert.equal((await verify(path)).code, 1);
  });

  test('lines from before the chain stay, and are part of it by their hash', async () => {
    const path = join(await directory(), 'audit.log');
    writeFileSync(path, '{"time":1}\n{"time":2}\n');
    const file = await open(path);
    file.write({ n: 1 });
    await file.close();
    assert.match((await verify(path)).said, /^PASS {2}1 lines.*\n.*at 1 places/);
    writeFileSync(path, readFileSync(path, 'utf8').replace('"time":1', '"time":3'));
    assert.match((await verify(path)).said, /^FAIL .*:1: changed: not the 23 bytes/);
  });

  test('cut off while no server ran: said at the start, and not healed by it', async () => {
    const path = join(await directory(), 'audit.log');
    const file = await open(path);
    for (let n = 0; n < 5; n += 1) file.write({ n });
    await file.close();
    const text = readFileSync(path, 'utf8');
    const changes: Record<string, string> = {
      'its last line': text.slice(0, text.lastIndexOf('{')),
      'all of it': '',
      'another last line': text.replace('"n":4', '"n":5'),
    };
    for (const [name, changed] of Object.entries(changes)) {
      writeFileSync(path, changed);
      const errors: string[] = [];
      const loud = pino({ level: 'error' }, { write: (line: string) => void errors.push(line) });
      const again = await AuditFile.open(path, loud);
      again?.write({ n: 6 });
      await again?.close();
      assert.equal((await verify(path)).code, 1, name);
      assert.match(errors.join(''), name === 'another last line' ? /^/ : /does not have the line/, name);
      writeFileSync(path, text);
      writeFileSync(
        `${path}.head`,
        JSON.stringify({ seq: 5, hash: (JSON.parse(text.split('\n')[4] ?? '') as Head).hash }),
      );
    }
    assert.equal((await verify(path)).code, 0);
  });

  test('a head that was replaced, emptied or taken away does not pass', async () => {
    const path = join(await directory(), 'audit.log');
    const file = await open(path);
    file.write({ n: 1 });
    await file.close();
    const good = readFileSync(`${path}.head`, 'utf8');
    writeFileSync(`${path}.head`, good.replace(/[0-9a-f]"/, 'g"'));
    await assert.rejects(verify(path), /is no head of a chain/);
    truncateSync(`${path}.head`);
    await assert.rejects(verify(path), /is no head of a chain/);
    await rm(`${path}.head`);
    assert.match((await verify(path)).said, /no head to compare/);
    const { seq, hash } = JSON.parse(good) as Head;
    assert.match((await verify(path, '--head', `${seq}:${hash}`)).said, /^PASS/);
  });

  test('a second writer is refused by name; one that is dead is not in the way', async () => {
    const path = join(await directory(), 'audit.log');
    const file = await open(path);
    await assert.rejects(open(path), new RegExp(`process ${process.pid} writes to it`));
    file.write({ n: 1 });
    await file.close();
    const again = await open(path);
    await again.close();
    assert.equal((await verify(path)).code, 0);
  });
});
