/**
 * Runs on a terminal. A small program inside of the sandbox makes it (terminal.py) and starts the real one on it; what
 * the run is told reaches it as frames on its standard input.
 */
import { readFileSync } from 'node:fs';
import type { RunInput, RunRequest } from '../protocol/messages.ts';

/** Read at once: later the server may be a user who cannot read its own program. */
const DRIVER = readFileSync(new URL('./terminal.py', import.meta.url), 'utf8');
const KIND = { stdin: 0, resize: 1, signal: 2, stdin_end: 3 } as const;
/** The driver holds a frame as a whole. */
const FRAME_BYTES = 16 * 1024;

export function onTerminal(
  python: string,
  { rows, columns }: NonNullable<RunRequest['terminal']>,
  argv: readonly string[],
): string[] {
  return [python, '-I', '-S', '-c', DRIVER, String(rows), String(columns), ...argv];
}

export function* terminalFrames(input: RunInput): Generator<Buffer> {
  if (input.type !== 'stdin') {
    yield frame(KIND[input.type], payloadOf(input));
    return;
  }
  for (let at = 0; at < input.data.length; at += FRAME_BYTES)
    yield frame(KIND.stdin, input.data.subarray(at, at + FRAME_BYTES));
}

function payloadOf(input: Exclude<RunInput, { type: 'stdin' }>): Buffer {
  if (input.type === 'signal') return Buffer.from([input.signal]);
  const payload = Buffer.alloc(input.type === 'resize' ? 4 : 0);
  if (input.type === 'resize') payload.writeUInt16BE(input.columns, payload.writeUInt16BE(input.rows, 0));
  return payload;
}

function frame(kind: number, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(payload.length, header.writeUInt8(kind, 0));
  return Buffer.concat([header, payload]);
}
