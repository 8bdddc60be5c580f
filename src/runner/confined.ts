/**
 * Programs of the machine that work on trees of files for the runner, seeing nothing else of it.
 *
 * Runs can take all permissions away from what is theirs, nest it deep, and change it meanwhile. So these run as root
 * of a user namespace in which only the files' owner is mapped, with /usr and the given directories as their whole
 * world: whatever name a run swaps, it leads nowhere else.
 */
import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { NoxError } from '../protocol/errors.ts';
import { BWRAP, rootLinks } from './host.ts';

/** What is kept of a program's output. */
const OUTPUT_MAX = 2 ** 20;

interface Bind {
  readonly from: string;
  readonly at: string;
  readonly writable?: boolean;
}

export interface Ended {
  /** null: a signal, or no start. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Passing over the permissions of files, for reading, or for everything. */
const CAPABILITIES = { read: ['CAP_DAC_READ_SEARCH'], all: ['CAP_DAC_OVERRIDE', 'CAP_FOWNER'] } as const;

/** @param signal ends the program */
export async function runConfined(
  argv: readonly string[],
  binds: readonly Bind[],
  may: keyof typeof CAPABILITIES,
  signal?: AbortSignal,
): Promise<Ended> {
  const links = [...rootLinks()].flatMap(([name, target]) => ['--symlink', target, name]);
  const args = [
    ...['--unshare-user', '--unshare-pid', '--unshare-net', '--unshare-ipc'],
    ...['--die-with-parent', '--uid', '0', '--gid', '0', '--cap-drop', 'ALL'],
    ...CAPABILITIES[may].flatMap((name) => ['--cap-add', name]),
    ...['--ro-bind', '/usr', '/usr', ...links],
    ...binds.flatMap(({ from, at, writable }) => [writable === true ? '--bind' : '--ro-bind', from, at]),
    ...['--chdir', '/', '--', ...argv],
  ];
  checkWanted(signal);
  const ended = await ending(args, signal);
  if (ended.code !== 0) checkWanted(signal);
  return ended;
}

/** Resolves when nothing of it is alive. */
function ending(args: readonly string[], signal: AbortSignal | undefined): Promise<Ended> {
  return new Promise((resolve) => {
    // A session of its own, whose processes are killed together: where bwrap alone is killed as it starts, its child
    // waits for a word of it without an end, or goes on; only later does the child die with it.
    const child = spawn(BWRAP, args, {
      env: { LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    const stdout = kept(child.stdout);
    const stderr = kept(child.stderr);
    const end = () => {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
      process.kill(-child.pid, 'SIGKILL');
    };
    signal?.addEventListener('abort', end, { once: true });
    const done = (code: number | null, error: string) => {
      signal?.removeEventListener('abort', end);
      resolve({ code, stdout: stdout(), stderr: stderr() || error });
    };
    child.once('error', (error) => {
      done(null, String(error));
    });
    child.once('close', (code, ended) => {
      done(code, `ended by ${String(ended)}`);
    });
  });
}

/** @returns what it has said, of which the rest is not kept */
function kept(stream: Readable): () => string {
  const pieces: Buffer[] = [];
  let bytes = 0;
  stream.on('data', (piece: Buffer) => {
    if (bytes < OUTPUT_MAX) pieces.push(piece.subarray(0, OUTPUT_MAX - bytes));
    bytes += piece.length;
  });
  return () => Buffer.concat(pieces).toString();
}

function checkWanted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new NoxError('cancelled', 'The call was cancelled');
}
