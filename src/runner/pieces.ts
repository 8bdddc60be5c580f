import { read as readFd } from 'node:fs';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';

/** So much of a file is in memory at one time. */
export const PIECE = 256 * 1024;
const read = promisify(readFd);

/** For `piecesOf`. */
export const memoryFor = (bytes: number): Buffer => Buffer.allocUnsafeSlow(Math.min(PIECE, bytes));

/**
 * The bytes of an opened file from `start` up to, not including, `end`.
 *
 * @param short what happens where the file ends earlier, because a run has cut it: the bytes end, or it is an error
 * @param memory all pieces are read into it, one over the other: a gigabyte is no work for the garbage collector then,
 *   and a piece holds until the next is asked for
 * @throws NoxError `workspace_conflict`
 */
export async function* piecesOf(
  fd: number,
  start: number,
  end: number,
  short: 'end' | 'fail',
  memory?: Buffer,
): AsyncGenerator<Buffer> {
  for (let position = start; position < end;) {
    const size = Math.min(memory?.length ?? PIECE, end - position);
    const piece = memory ?? Buffer.allocUnsafeSlow(size);
    const { bytesRead } = await read(fd, piece, 0, size, position);
    if (bytesRead === 0) {
      if (short === 'end') return;
      throw new NoxError('workspace_conflict', 'A file became shorter while it was read');
    }
    position += bytesRead;
    yield piece.subarray(0, bytesRead);
  }
}
