/**
 * The chain of the audit file: what ties each line to the one before it.
 *
 *   {"seq":8,"time":…,"hash":"<64 hex>"}
 *
 * `hash` is SHA-256, in lower-case hex, over these bytes: the hash of the line before it as 64 hex digits, a newline,
 * and the line as it stands in the file without its newline and without `,"hash":"…"` (so that it ends in `}` again).
 * `seq` counts from 1 through all files. Before line 1 the hash is 64 zeros. The first line of each file has that
 * hash as `prev` too, because the older files may be gone.
 *
 * Bytes that are no line of the chain (a line that a crash cut in two, lines from before the chain) are never taken
 * away. The next line names them: `"unchained":{"bytes","sha256"}` is what stands between it and the line of the chain
 * before it, or the start of the file, without the newline at the end. The writer has ended it with a `~`.
 */
import { createHash, hash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';

/** A place in the chain: up to and with the line `seq`. */
export interface Head {
  readonly seq: number;
  readonly hash: string;
}

export const GENESIS: Head = { seq: 0, hash: '0'.repeat(64) };

/** Ends what is no line: without it, a line that lacks but its newline would become one. */
export const TORN = '~';

export interface Unchained {
  readonly bytes: number;
  readonly sha256: string;
}

interface LineExtras {
  /** Of the first line of a file. */
  readonly prev?: string | undefined;
  readonly unchained?: Unchained | undefined;
}

export interface ChainLine extends LineExtras {
  readonly seq: number;
  readonly hash: string;
  /** What is hashed after the hash of the line before. */
  readonly body: Buffer;
}

const TAIL = /,"hash":"([0-9a-f]{64})"\}$/;
const TAIL_BYTES = ',"hash":""}'.length + 64;
const HEX = /^[0-9a-f]{64}$/;

export const startOf = (seq: number): string => `{"seq":${String(seq)},`;

/** Continues the chain. `entry` is a JSON object with at least one member. */
export function chainLine(last: Head, entry: string, extras: LineExtras = {}): { text: string; head: Head } {
  const { prev, unchained } = extras;
  const seq = last.seq + 1;
  const first = prev === undefined ? '' : `"prev":"${prev}",`;
  const between = unchained === undefined ? '' : `"unchained":${JSON.stringify(unchained)},`;
  const body = `${startOf(seq)}${first}${between}${entry.slice(1)}`;
  const value = hashOf(last.hash, body);
  return { text: `${body.slice(0, -1)},"hash":"${value}"}\n`, head: { seq, hash: value } };
}

export function hashOf(previous: string, body: string | Buffer): string {
  return hash('sha256', Buffer.concat([Buffer.from(`${previous}\n`), Buffer.from(body)]), 'hex');
}

/** @returns undefined for what has not the shape of a line of the chain; whether it is one, its hash says */
export function parseLine(line: Buffer): ChainLine | undefined {
  if (line.length <= TAIL_BYTES || !line.subarray(0, 7).equals(SEQ)) return undefined;
  const tail = TAIL.exec(line.toString('latin1', line.length - TAIL_BYTES));
  if (tail?.[1] === undefined) return undefined;
  try {
    const { seq, prev, unchained } = JSON.parse(line.toString()) as Record<string, unknown>;
    if (typeof seq !== 'number' || !Number.isSafeInteger(seq) || seq < 1) return undefined;
    if (prev !== undefined && !(typeof prev === 'string' && HEX.test(prev))) return undefined;
    if (unchained !== undefined && !isUnchained(unchained)) return undefined;
    const body = Buffer.concat([line.subarray(0, line.length - TAIL_BYTES), Buffer.from('}')]);
    return { seq, hash: tail[1], prev, unchained, body };
  } catch {
    return undefined;
  }
}

const SEQ = Buffer.from('{"seq":');

function isUnchained(value: unknown): value is Unchained {
  const { bytes, sha256 } = (value ?? {}) as Partial<Unchained>;
  return Number.isSafeInteger(bytes) && typeof sha256 === 'string' && HEX.test(sha256);
}

/** The text of the file beside the audit file that says how far the chain goes. */
export const encodeHead = ({ seq, hash: value }: Head): string => `${JSON.stringify({ seq, hash: value })}\n`;

export function parseHead(text: string): Head | undefined {
  try {
    const { seq, hash: value } = JSON.parse(text) as Partial<Head>;
    const good = Number.isSafeInteger(seq) && Number(seq) >= 0 && HEX.test(String(value));
    return good ? { seq: Number(seq), hash: String(value) } : undefined;
  } catch {
    return undefined;
  }
}

export interface FileEnd {
  /** The last whole line of the chain, if the file has one. */
  readonly last: Head | undefined;
  /** Where it ends. */
  readonly at: number;
  /** Whether the file has the line that a head promises; `older`: it begins behind it. */
  readonly keeps: 'yes' | 'no' | 'older';
}

/** What a crash can leave after the last line is a batch or two, and a head is but a second behind. */
export const END_BYTES = 8 * 1024 * 1024;
const WINDOWS = [64 * 1024, END_BYTES];
const NEWLINE = 10;

/** A text that need not be in memory. */
export interface Source {
  readonly size: number;
  /** The bytes from a place to another, of the last `END_BYTES`. */
  readonly read: (from: number, to: number) => Promise<Buffer>;
}

export const sourceOf = (handle: FileHandle, size: number): Source => ({
  size,
  read: (from, to) => readRange(handle, from, to),
});

/** Looks for the end of the chain, and for a head in it. */
export async function findEnd({ size, read }: Source, head = GENESIS): Promise<FileEnd> {
  for (const window of WINDOWS) {
    const from = Math.max(0, size - window);
    const text = await read(from, size);
    let found: Head | undefined;
    let at = 0;
    for (const { line, end } of linesBackwards(text, from === 0)) {
      found ??= { seq: line.seq, hash: line.hash };
      if (at === 0) at = from + end;
      if (line.seq === head.seq + 1 && line.prev !== undefined)
        return { last: found, at, keeps: line.prev === head.hash ? 'yes' : 'no' };
      if (line.seq <= head.seq) {
        const same = line.seq === head.seq && line.hash === head.hash;
        return { last: found, at, keeps: same ? 'yes' : 'no' };
      }
    }
    if (from === 0) return { last: found, at, keeps: 'older' };
    // So much is written within a second only by a machine whose disk is beyond doubt.
    if (found !== undefined && window === END_BYTES) return { last: found, at, keeps: 'yes' };
  }
  return { last: undefined, at: 0, keeps: 'no' };
}

/** The lines of the chain in a text, and where each ends. */
function* linesBackwards(text: Buffer, whole: boolean): Generator<{ line: ChainLine; end: number }> {
  for (let end = text.lastIndexOf(NEWLINE); end >= 0;) {
    const before = end === 0 ? -1 : text.lastIndexOf(NEWLINE, end - 1);
    const line = before < 0 && !whole ? undefined : parseLine(text.subarray(before + 1, end));
    if (line !== undefined) yield { line, end: end + 1 };
    end = before;
  }
}

async function readRange(handle: FileHandle, from: number, to: number): Promise<Buffer> {
  const data = Buffer.alloc(to - from);
  let read = 0;
  while (read < data.length) {
    const { bytesRead } = await handle.read(data, read, data.length - read, from + read);
    if (bytesRead === 0) break;
    read += bytesRead;
  }
  return data.subarray(0, read);
}

/** Describes the bytes of a file from a place to its end, and those that will be written behind them. */
export async function describeRest(
  handle: FileHandle,
  from: number,
  to: number,
  more: string,
): Promise<Unchained> {
  const sum = createHash('sha256');
  for (let at = from; at < to; at += PIECE) sum.update(await readRange(handle, at, Math.min(to, at + PIECE)));
  return { bytes: to - from + more.length, sha256: sum.update(more).digest('hex') };
}

const PIECE = 1024 * 1024;
