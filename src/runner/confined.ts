/**
 * Programs of the machine that work on trees of files for the runner, seeing nothing else of it.
 *
 * Runs can take all permissions away from what is theirs, nest it deep, and change it meanwhile. So these run as root
 * of a user namespace in which only the files' owner is mapped, with /usr and the given directories as their whole
 * world: whatever name a run swaps, it leads nowhere else.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
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
    ...['--die-with-parent', '--new-session', '--uid', '0', '--gid', '0', '--cap-drop', 'ALL'],
    ...CAPABILITIES[may].flatMap((name) => ['--cap-add', name]),
    ...['--ro-bind', '/usr', '/usr', ...links],
    ...binds.flatMap(({ from, at, writable }) => [writable === true ? '--bind' : '--ro-bind', from, at]),
    ...['--chdir', '/', '--', ...argv],
  ];
  const options = {
    env: { LC_ALL: 'C' },
    maxBuffer: OUTPUT_MAX,
    ...(signal === undefined ? {} : { signal }),
  };
  return promisify(execFile)(BWRAP, args, options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: unknown) => {
      const failed = error as { code?: unknown; stdout?: string; stderr?: string };
      if (signal?.aborted === true)
        throw new NoxError('cancelled', 'The call was cancelled', { cause: error });
      return {
        code: typeof failed.code === 'number' ? failed.code : null,
        stdout: failed.stdout ?? '',
        stderr: failed.stderr || String(error),
      };
    },
  );
}
