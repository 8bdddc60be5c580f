/** Names of things, which cannot be guessed. */
import { randomFillSync } from 'node:crypto';

/** Crockford's base 32 in lower case: no letter that looks like a digit, and in the order of ASCII. */
const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz';

/** Filled at once for many ids: to ask the kernel for each is a large part of what an id costs. */
const pool = Buffer.alloc(1024);
let used = pool.length;

/** 5 random bits a character. @param length at most 1024 */
export function randomText(length: number): string {
  if (used + length > pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  let text = '';
  for (const end = used + length; used < end; used += 1) {
    text += ALPHABET[(pool[used] ?? 0) & 31] ?? '';
    pool[used] = 0;
  }
  return text;
}

/** The milliseconds in 10 characters, so that ids sort by time; 70 random bits after them. */
export function newRunId(now: number): string {
  let time = '';
  for (let rest = now; time.length < 10; rest = Math.floor(rest / 32))
    time = (ALPHABET[rest % 32] ?? '') + time;
  return `run_${time}${randomText(14)}`;
}
