/**
 * Verifies the chain of an audit file (src/gateway/audit-chain.ts) through its rotated files, and against heads that
 * are kept elsewhere. Everything in the files may be an attacker's: nothing of them is repeated but numbers.
 *
 * Files are put in order by the first line of each, so that no name of logrotate's matters. A file may end within the
 * line that was to come: a crash leaves that, and no head promises it.
 */
import { createHash, type Hash } from 'node:crypto';
import {
  GENESIS,
  hashOf,
  parseLine,
  startOf,
  TORN,
  type ChainLine,
  type Head,
} from '../gateway/audit-chain.ts';
import { bytesOf, ROTATED } from '../gateway/audit-rotated.ts';

export interface Intact {
  readonly intact: true;
  readonly lines: number;
  readonly files: number;
  /** Of the oldest line that is still there; undefined where there is none. */
  readonly first: number | undefined;
  readonly head: Head;
  /** Places at which bytes stand that are no line: of a crash, or from before the chain. */
  readonly unchained: number;
  /** Lines behind the furthest head: no head promises them yet. */
  readonly beyond: number;
  /** Files without any line of the chain. */
  readonly foreign: readonly string[];
}

export interface Broken {
  readonly intact: false;
  readonly file: string;
  /** From 1; 0 for the file as a whole. */
  readonly line: number;
  readonly what: string;
}

/** Longer than any line that is written. */
const LINE_MAX = 1024 * 1024;
const NEWLINE = 10;

class Fault extends Error {
  /** The line that is looked for elsewhere: found, it was moved. */
  readonly missing: number | undefined;
  readonly at: number;

  constructor(at: number, what: string, missing?: number) {
    super(what);
    this.at = at;
    this.missing = missing;
  }
}

/** Bytes that are no line of the chain, until a line names them. */
interface Region {
  readonly at: number;
  readonly sum: Hash;
  bytes: number;
  /** Every piece of it begins as the line that was to come, */
  begins: boolean;
  /** and the last one does not end. */
  open: boolean;
}

/** @param heads what is known to have been in the chain; without any a cut end would go unnoticed, and none passes */
export async function verifyAudit(
  paths: readonly string[],
  heads: readonly Head[],
): Promise<Intact | Broken> {
  const files: { path: string; seq: number }[] = [];
  const foreign: string[] = [];
  try {
    for (const path of paths) {
      const seq = await firstSeq(path);
      if (seq === undefined) foreign.push(path);
      else files.push({ path, seq });
    }
  } catch (error) {
    return { intact: false, file: paths[0] ?? '', line: 0, what: (error as Error).message };
  }
  files.sort((a, b) => a.seq - b.seq);
  const chain = new Chain(heads);
  for (const { path } of files) {
    try {
      await chain.readFile(path);
    } catch (error) {
      const { message } = error as Error;
      if (!(error instanceof Fault)) return { intact: false, file: path, line: 0, what: message };
      const { missing, at } = error;
      const moved =
        missing !== undefined &&
        (await hasSeq(
          files.map((file) => file.path),
          missing,
        ));
      return {
        intact: false,
        file: path,
        line: at,
        what: moved ? `reordered: line ${String(missing)} comes later` : message,
      };
    }
  }
  for (const path of foreign) {
    const what = await foreignFault(path, chain.first);
    if (what !== undefined) return { intact: false, file: path, line: 0, what };
  }
  const fault = chain.endFault();
  const last = files.at(-1)?.path ?? paths[0] ?? '';
  if (fault !== undefined) return { intact: false, file: last, line: chain.line, what: fault };
  const { lines, first, head, unchained, beyond } = chain;
  return { intact: true, files: files.length, foreign, lines, first, head, unchained, beyond };
}

class Chain {
  lines = 0;
  line = 0;
  first: number | undefined;
  unchained = 0;
  readonly #heads: readonly Head[];
  readonly #met = new Set<Head>();
  #last: Head | undefined;
  #inFile = false;
  #region: Region | undefined;

  constructor(heads: readonly Head[]) {
    this.#heads = heads;
  }

  get head(): Head {
    return this.#last ?? GENESIS;
  }

  get beyond(): number {
    return this.head.seq - Math.max(0, ...this.#heads.map(({ seq }) => seq));
  }

  async readFile(path: string): Promise<void> {
    this.line = 0;
    this.#inFile = false;
    for await (const { data, ended } of linesOf(path)) {
      this.line += 1;
      const line = ended ? parseLine(data) : undefined;
      if (line === undefined) this.#skip(data, ended);
      else this.#take(line);
    }
    this.#endFile();
  }

  #take(line: ChainLine): void {
    const { seq, prev, hash } = line;
    const region = this.#region;
    // Only the oldest file may begin without the lines before it, and it says what their hash was.
    const last = this.#last ?? (prev === undefined ? GENESIS : { seq: seq - 1, hash: prev });
    const expected = last.seq + 1;
    const fits = seq === expected && hashOf(last.hash, line.body) === hash;
    if (region !== undefined && line.unchained === undefined)
      throw new Fault(
        region.at,
        fits ? 'inserted: no line of the chain' : 'changed: no line of the chain any more',
      );
    if (seq > expected) {
      const what = `removed: ${range(expected, seq - 1)} missing before line ${String(seq)}`;
      throw new Fault(this.line, what, expected);
    }
    if (seq < expected)
      throw new Fault(
        this.line,
        `duplicated: line ${String(seq)} again, where ${String(expected)} was to come`,
      );
    if (!fits)
      throw new Fault(
        this.line,
        `changed: the hash of line ${String(seq)} is not that of its content and the line before it`,
      );
    if ((prev === undefined) === !this.#inFile || (prev ?? last.hash) !== last.hash)
      throw new Fault(this.line, `removed: line ${String(seq)} is not the one with which a file begins`);
    if (seq === 1 && last.hash !== GENESIS.hash)
      throw new Fault(this.line, 'changed: line 1 follows no other');
    const { bytes = 0, sha256 = '' } = line.unchained ?? {};
    if (line.unchained !== undefined && region === undefined)
      throw new Fault(
        this.line,
        `removed: ${String(bytes)} bytes that line ${String(seq)} names are not before it`,
      );
    if (region !== undefined && (region.bytes !== bytes || region.sum.digest('hex') !== sha256))
      throw new Fault(region.at, `changed: not the ${String(bytes)} bytes that line ${String(seq)} names`);
    this.#accept(line, last);
  }

  #accept({ seq, hash }: ChainLine, before: Head): void {
    if (this.#region !== undefined) this.unchained += 1;
    this.#region = undefined;
    this.#inFile = true;
    if (this.first === undefined) this.#meet(before);
    this.first ??= seq;
    this.lines += 1;
    this.#last = { seq, hash };
    this.#meet(this.#last);
  }

  #meet({ seq, hash }: Head): void {
    for (const head of this.#heads) {
      if (head.seq !== seq) continue;
      if (head.hash !== hash)
        throw new Fault(this.line, `changed: line ${String(seq)} has not the hash of the head`);
      this.#met.add(head);
    }
  }

  #skip(data: Buffer, ended: boolean): void {
    const start = Buffer.from(startOf(this.head.seq + 1));
    // The mark that ends a torn piece may be torn from its newline by the next crash.
    const own = ended && data.at(-1) === TORN.charCodeAt(0) ? data.length - 1 : data.length;
    const length = Math.min(start.length, own);
    const begins = data.subarray(0, length).equals(start.subarray(0, length));
    const region = this.#region;
    if (region === undefined) {
      const sum = createHash('sha256').update(data);
      this.#region = { at: this.line, sum, bytes: data.length, begins, open: !ended };
      return;
    }
    // The newline before this piece is within the region; that before the line which names it is not.
    region.sum.update('\n').update(data);
    region.bytes += data.length + 1;
    region.begins &&= begins;
    region.open = !ended;
  }

  #endFile(): void {
    const region = this.#region;
    this.#region = undefined;
    if (region === undefined) return;
    if (!region.begins || !region.open)
      throw new Fault(region.at, 'changed or inserted: no line of the chain');
    this.unchained += 1;
  }

  /** What only the heads can tell. */
  endFault(): string | undefined {
    if (this.#heads.length === 0)
      return 'no head to compare the end with: give one that was noted elsewhere (--head SEQ:HASH)';
    if (this.first === undefined) this.#meet(GENESIS);
    const missing = this.#heads.find((head) => !this.#met.has(head));
    if (missing === undefined) return undefined;
    const { seq } = missing;
    if (seq > this.head.seq) return `cut off: ${range(this.head.seq + 1, seq)} missing at the end`;
    return `removed: line ${String(seq)}, which the head names, is older than what is here`;
  }
}

const range = (from: number, to: number): string =>
  from === to ? `line ${String(from)} is` : `lines ${String(from)} to ${String(to)} are`;

/**
 * A file without a line of the chain is older than it (which then is here from line 1 on), or has had no whole line yet.
 * Else it had some.
 */
async function foreignFault(path: string, first: number | undefined): Promise<string | undefined> {
  if (first === undefined || first === 1) return undefined;
  const rotated = ROTATED.test(path);
  let begun = !rotated;
  for await (const { data, ended } of linesOf(path)) {
    const seq = /^\{"seq":(\d+),/.exec(data.toString('latin1', 0, 32))?.[1];
    begun =
      !ended && (seq === undefined ? !rotated && data.length < startOf(first).length : Number(seq) > first);
    if (!begun) break;
  }
  return begun ? undefined : 'removed: no line of the chain is left in it';
}

async function firstSeq(path: string): Promise<number | undefined> {
  for await (const { data, ended } of linesOf(path)) {
    const seq = ended ? parseLine(data)?.seq : undefined;
    if (seq !== undefined) return seq;
  }
  return undefined;
}

async function hasSeq(paths: readonly string[], seq: number): Promise<boolean> {
  for (const path of paths)
    for await (const { data } of linesOf(path)) if (parseLine(data)?.seq === seq) return true;
  return false;
}

interface Piece {
  readonly data: Buffer;
  /** By a newline. */
  readonly ended: boolean;
}

/** @throws Error for what is no regular file, cannot be unpacked, or has too long a line */
async function* linesOf(path: string): AsyncGenerator<Piece> {
  let rest = Buffer.alloc(0);
  for await (const chunk of await bytesOf(path)) {
    let data = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    for (let end = data.indexOf(NEWLINE); end >= 0; end = data.indexOf(NEWLINE)) {
      yield { data: data.subarray(0, end), ended: true };
      data = data.subarray(end + 1);
    }
    if (data.length > LINE_MAX) throw new Error('a line is longer than any that is written');
    rest = Buffer.from(data);
  }
  if (rest.length > 0) yield { data: rest, ended: false };
}
