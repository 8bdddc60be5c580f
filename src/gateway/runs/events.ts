/**
 * The events of a run as lines of JSON, and back. Bytes that are UTF-8 travel as `text`, others as `base64`, so that
 * nothing is lost and most of it can be read.
 *
 *   {"id":0,"type":"started"}
 *   {"id":26,"type":"output","stream":"stdout|stderr|compile","text":"…"}   or "base64":"…"
 *   {"id":…,"type":"end","run":{…}}
 *
 * An id is the place of the line in the log, in bytes; a `Line` is made when the log knows it.
 */
import { isUtf8 } from 'node:buffer';
import type { StreamName } from '../../protocol/messages.ts';

/** Longer output is cut into several events: a reader of lines needs a bound. */
const PIECE = 64 * 1024;
/** Of output so much at a time becomes a string: short ones die young, and are cheap. A multiple of 3, for base64. */
const SLICE = 8190;
/** Room for the longest line: in JSON a control character takes six bytes. */
const scratch = Buffer.allocUnsafeSlow(6 * PIECE + 256);

/** Makes an event with its id. What it is made of must not change until then. */
export type Line = (id: number) => Buffer;

/** Makes output events; keeps back the start of a character that is not whole yet (at most three bytes a stream). */
export class OutputEncoder {
  readonly #rest = new Map<StreamName, Buffer>();

  *encode(stream: StreamName, data: Uint8Array): Generator<Line> {
    const rest = this.#rest.get(stream);
    const all =
      rest === undefined
        ? Buffer.from(data.buffer, data.byteOffset, data.byteLength)
        : Buffer.concat([rest, data]);
    this.#rest.delete(stream);
    for (let at = 0; at < all.length;) {
      let end = Math.min(at + PIECE, all.length);
      end -= unfinished(all.subarray(at, end));
      if (end === at) {
        this.#rest.set(stream, Buffer.from(all.subarray(at)));
        return;
      }
      yield outputLine(stream, all.subarray(at, end));
      at = end;
    }
  }

  /** What was kept back. */
  *end(): Generator<Line> {
    for (const [stream, rest] of this.#rest) yield outputLine(stream, rest);
    this.#rest.clear();
  }
}

function outputLine(stream: StreamName, data: Buffer): Line {
  return (id) => {
    const text = isUtf8(data);
    const member = text ? 'text' : 'base64';
    let at = scratch.write(`{"id":${String(id)},"type":"output","stream":"${stream}","${member}":"`);
    at = text ? writeText(data, at) : writeBase64(data, at);
    at += scratch.write('"}\n', at);
    return Buffer.from(scratch.subarray(0, at));
  };
}

/** @returns where it ends in the scratch */
function writeText(data: Buffer, from: number): number {
  let at = from;
  for (let start = 0; start < data.length;) {
    let end = Math.min(start + SLICE, data.length);
    end -= unfinished(data.subarray(start, end));
    // Its first quotation mark falls on the byte before, which is put back; the next slice overwrites its last.
    const before = scratch[at - 1] ?? 0;
    const written = scratch.write(JSON.stringify(data.toString('utf8', start, end)), at - 1);
    scratch[at - 1] = before;
    at += written - 2;
    start = end;
  }
  return at;
}

function writeBase64(data: Buffer, from: number): number {
  let at = from;
  for (let start = 0; start < data.length; start += SLICE)
    at += scratch.write(data.toString('base64', start, Math.min(start + SLICE, data.length)), at);
  return at;
}

export function eventLine(event: { readonly type: string } & Record<string, unknown>): Line {
  return (id) => Buffer.from(`{"id":${String(id)},${JSON.stringify(event).slice(1)}\n`);
}

const HEAD = /^\{"id":(\d+),"type":"([a-z]+)"/;
/** Longer than any head. */
const HEAD_BYTES = 64;

/** @throws Error for what is no line with an id */
export function headOf(line: Buffer): { readonly id: number; readonly type: string } {
  const [, id, type] = HEAD.exec(line.toString('latin1', 0, HEAD_BYTES)) ?? [];
  if (id === undefined || type === undefined) throw new Error('not an event');
  return { id: Number(id), type };
}

const NEWLINE = 10;

/** @param lines whole ones */
export function* linesOf(lines: Buffer): Generator<Buffer> {
  for (let at = 0; at < lines.length;) {
    const end = lines.indexOf(NEWLINE, at) + 1;
    yield lines.subarray(at, end);
    at = end;
  }
}

/** @returns the stream and the bytes of an output event; undefined for another one */
export function outputOf(line: Buffer): { stream: StreamName; data: Buffer } | undefined {
  const event = JSON.parse(line.toString('utf8')) as {
    type: string;
    stream: StreamName;
    text?: string;
    base64?: string;
  };
  if (event.type !== 'output') return undefined;
  const data =
    event.text === undefined ? Buffer.from(event.base64 ?? '', 'base64') : Buffer.from(event.text, 'utf8');
  return { stream: event.stream, data };
}

/** The bytes at the end that begin a character of UTF-8 (RFC 3629) and do not finish it: 0 to 3. */
function unfinished(data: Buffer): number {
  for (let back = 1; back <= Math.min(3, data.length); back += 1) {
    const byte = data[data.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue;
    const length = byte >= 0xf0 && byte < 0xf8 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return byte < 0xf8 && length > back ? back : 0;
  }
  return 0;
}
