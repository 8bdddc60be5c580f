import { read as readFd } from 'node:fs';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';

/** So much of a file is in memory at one time. */
export const PIECE = 256 * 1024;
const read = promisify(readFd);

/**
 * The bytes of an opened file from `start` up to, not including, `end`.
 *
 * @param short what happens where the file ends earlier, because a run has cut it: the bytes end, or it is an error
 * @throws NoxError `workspace_conflict`
 */
export async function* piecesOf(
  fd: number,
  start: number,
  end: number,
  short: 'end' | 'fail',
): AsyncGenerator<Buffer> {
  for (let position = start; position < end;) {
    const size = Math.min(PIECE, end - position);
    const { bytesRead, buffer } = await read(fd, Buffer.allocUnsafeSlow(size), 0, size, position);
    if (bytesRead === 0) {
      if (short === 'end') return;
      throw new NoxError('workspace_conflict', 'A file became shorter while it was read');
    }
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}
