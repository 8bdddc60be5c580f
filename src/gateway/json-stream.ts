/**
 * A large result as JSON, piece by piece: control characters grow sixfold in JSON, so that the text of a result is
 * never held as a whole.
 */
import { StringDecoder } from 'node:string_decoder';

const PIECE = 64 * 1024;

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

const escape = (text: string): string => JSON.stringify(text).slice(1, -1);

/** A JSON object whose values are JSON values or the bytes of an output stream, in the order given. */
export function* jsonObject(
  members: readonly (readonly [name: string, value: string | number | readonly Uint8Array[]])[],
): Generator<string> {
  let separator = '{';
  for (const [name, value] of members) {
    yield `${separator}${JSON.stringify(name)}:`;
    if (typeof value === 'object') yield* jsonString(value);
    else yield JSON.stringify(value);
    separator = ',';
  }
  yield '}';
}
