/**
 * A large result as JSON, piece by piece: control characters grow sixfold in JSON, so that the text of a result is
 * never held as a whole.
 */
import { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';

const PIECE = 64 * 1024;
/** Small results go out as one string: a stream costs more than it saves. */
const STREAM_FROM = 64 * 1024;

/** The bytes of an output stream, to become a JSON string. */
class Text {
  readonly chunks: readonly Uint8Array[];

  constructor(chunks: readonly Uint8Array[]) {
    this.chunks = chunks;
  }

  toString(): string {
    return Buffer.concat(this.chunks).toString();
  }
}

export function asText(chunks: readonly Uint8Array[]): Text {
  return new Text(chunks);
}

/** A JSON object whose values are JSON values or texts, in the order given, as Fastify takes it. */
export function jsonBody(members: readonly (readonly [name: string, value: unknown])[]): string | Readable {
  const bytes = members
    .flatMap(([, value]) => (value instanceof Text ? value.chunks : []))
    .reduce((sum, chunk) => sum + chunk.length, 0);
  if (bytes >= STREAM_FROM) return Readable.from(jsonObject(members), { objectMode: false });
  const whole = members.map(([name, value]) => [name, value instanceof Text ? value.toString() : value]);
  return JSON.stringify(Object.fromEntries(whole));
}

export function* jsonObject(
  members: readonly (readonly [name: string, value: unknown])[],
): Generator<string> {
  let separator = '{';
  for (const [name, value] of members) {
    yield `${separator}${JSON.stringify(name)}:`;
    if (value instanceof Text) yield* jsonString(value.chunks);
    else yield JSON.stringify(value);
    separator = ',';
  }
  yield '}';
}

/** Fewer and larger pieces. */
export function* gathered(pieces: Iterable<string>): Generator<string> {
  let held = '';
  for (const piece of pieces) {
    held += piece;
    if (held.length < PIECE) continue;
    yield held;
    held = '';
  }
  if (held !== '') yield held;
}

/** The text of one stream of output as the inside of a JSON string; bytes that are no UTF-8 become U+FFFD. */
function* jsonString(chunks: readonly Uint8Array[]): Generator<string> {
  const decoder = new StringDecoder('utf8');
  yield '"';
  for (const chunk of chunks) {
    for (let at = 0; at < chunk.length; at += PIECE) {
      yield escape(decoder.write(Buffer.from(chunk.subarray(at, at + PIECE))));
    }
  }
  yield `${escape(decoder.end())}"`;
}

const escape = (part: string): string => JSON.stringify(part).slice(1, -1);
