/**
 * Large files are sent to the gateway by the kernel, sendfile(2), which Node has not: by a short Python program that is
 * given the opened file and the connection. Read and written by this process, each byte would be copied twice more.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { Framing } from '../protocol/operations.ts';

const PROGRAM = readFileSync(new URL('./send_file.py', import.meta.url), 'utf8');
/** Below it the start of a program costs more than it saves. */
const LARGE = 32 * 1024 * 1024;
/** At one time: a slow client holds one for as long as it likes. */
const SENDERS_MAX = 4;
let senders = 0;

/**
 * The file must stay open until then.
 *
 * @param socket what was written to it before has left; nobody else writes to it meanwhile
 * @param signal ends the sending
 * @returns false where it is to be sent in the ordinary way, of which nothing has been sent; else whether all was sent,
 *   or the connection is of no use any more
 */
export async function sendFile(
  { fd, start, end }: { readonly fd: number; readonly start: number; readonly end: number },
  socket: Socket,
  { type, piece }: Framing,
  signal: AbortSignal,
): Promise<boolean> {
  if (end - start < LARGE || senders >= SENDERS_MAX) return false;
  senders += 1;
  try {
    const argv = ['-I', '-S', '-c', PROGRAM, ...[start, end, piece, type].map(String)];
    // Not as its standard streams: libuv would have those block, for this process too.
    const child = spawn('/usr/bin/python3', argv, {
      stdio: ['ignore', 'ignore', 'inherit', fd, socket],
      env: {},
      signal,
      killSignal: 'SIGKILL',
    });
    const started = child.pid !== undefined;
    const code = await once(child, 'exit').then(
      ([exit]) => exit as number | null,
      () => null,
    );
    if (!started) return false;
    if (code !== 0) socket.destroy();
    return true;
  } finally {
    senders -= 1;
  }
}
