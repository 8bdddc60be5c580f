/** Names of things, which cannot be guessed. */
import { randomBytes } from 'node:crypto';

/** Crockford's base 32 in lower case: no letter that looks like a digit, and in the order of ASCII. */
const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz';

/** 5 random bits a character. */
export function randomText(length: number): string {
  return Array.from(randomBytes(length), (byte) => ALPHABET[byte & 31]).join('');
}

/** The milliseconds in 10 characters, so that ids sort by time; 70 random bits after them. */
export function newRunId(now: number): string {
  let time = '';
  for (let rest = now; time.length < 10; rest = Math.floor(rest / 32))
    time = (ALPHABET[rest % 32] ?? '') + time;
  return `run_${time}${randomText(14)}`;
}
