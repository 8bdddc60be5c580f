/**
 * The events of a run as lines of JSON, and back. Bytes that are UTF-8 travel as `text`, others as `base64`, so that
 * nothing is lost and most of it can be read.
 *
 *   {"id":0,"type":"started"}
 *   {"id":26,"type":"output","stream":"stdout|stderr|compile","text":"…"}   or "base64":"…"
 *   {"id":…,"type":"end","run":{…}}
 *
 * An id is the place of the line in the log, in bytes. Here lines are made without: the log puts it in.
 */
import { isUtf8 } from 'node:buffer';
import type { StreamName } from '../../protocol/messages.ts';

/** Longer output is cut into several events: a reader of lines needs a bound. */
const PIECE = 64 * 1024;

/** Makes output events; keeps back the start of a character that is not whole yet (at most three bytes a stream). */
export class OutputEncoder {
  readonly #rest = new Map<StreamName, Buffer>();

  *encode(stream: StreamName, data: Uint8Array): Generator<Buffer> {
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
  *end(): Generator<Buffer> {
    for (const [stream, rest] of this.#rest) yield outputLine(stream, rest);
    this.#rest.clear();
  }
}

function outputLine(stream: StreamName, data: Buffer): Buffer {
  const member = isUtf8(data)
    ? `"text":${JSON.stringify(data.toString('utf8'))}`
    : `"base64":"${data.toString('base64')}"`;
  return Buffer.from(`{"type":"output","stream":"${stream}",${member}}\n`);
}

export function eventLine(event: { readonly type: string } & Record<string, unknown>): Buffer {
  return Buffer.from(`${JSON.stringify(event)}\n`);
}

/** @param line without an id */
export function withId(line: Buffer, id: number): Buffer {
  return Buffer.concat([Buffer.from(`{"id":${String(id)},`), line.subarray(1)]);
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
