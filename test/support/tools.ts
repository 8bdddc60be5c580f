/** Debian's own programs, unpacked by scripts/fetch-test-tools and not installed. */
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const ROOT = fileURLToPath(new URL('../../.cache/test-tools/', import.meta.url));

export function tool(path: string): string {
  return `${ROOT}${path}`;
}

/** An environment in which such a program finds the libraries that came with it. */
export function toolEnvironment(): NodeJS.ProcessEnv {
  const lib = `${ROOT}usr/lib`;
  const own = readdirSync(lib).filter((name) => name.endsWith('-linux-gnu'));
  return {
    PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
    LD_LIBRARY_PATH: own.map((name) => `${lib}/${name}`).join(':'),
  };
}

export const exec = promisify(execFile);

/** Waits until `look` gives something. */
export async function until<T>(what: string, look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (Date.now() > deadline) throw new Error(`waited for 20 s in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
