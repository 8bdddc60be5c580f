/** A server that was started as root gives it up for good, before it opens a port or takes a byte from anybody. */
import { chownSync, mkdirSync } from 'node:fs';
import { fail } from './main.ts';

export const startedAsRoot = process.geteuid?.() === 0;

/** Becomes another user, if this is root; ends the process where that cannot be done. */
export function dropRoot(uid: number, gid: number): void {
  if (!startedAsRoot) return;
  try {
    process.setgroups?.([]);
    process.setgid?.(gid);
    process.setuid?.(uid);
  } catch (error) {
    fail(
      `cannot become uid ${String(uid)}, gid ${String(gid)} (${(error as Error).message}): set NOX_RUN_UID and NOX_API_UID to ids that this machine has`,
    );
  }
  const ids = [process.getuid?.(), process.geteuid?.(), process.getgid?.(), process.getegid?.()];
  if (ids.includes(0) || process.getgroups?.().includes(0) === true) fail('is still root');
}

/** Makes a directory, as root for the user that the server becomes. One that is there is left as it is. */
export function makeDirectoryFor(uid: number, path: string, mode = 0o755): void {
  if (mkdirSync(path, { recursive: true, mode }) !== undefined && startedAsRoot) chownSync(path, uid, uid);
}
