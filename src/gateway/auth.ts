/** The bearer token (RFC 6750), compared in constant time. */
import { hash, timingSafeEqual } from 'node:crypto';

const digest = (text: string): Buffer => hash('sha256', text, 'buffer');

/** @returns the token of an `Authorization` header; the scheme is case-insensitive (RFC 9110, section 11.1) */
export function bearerOf(header: string | undefined): string | undefined {
  return /^bearer +(\S+) *$/i.exec(header ?? '')?.[1];
}

/** @returns a check of an `Authorization` header */
export function bearerCheck(token: string): (header: string | undefined) => boolean {
  // Digests have one length, so that the comparison tells nothing about the token's.
  const expected = digest(token);
  return (header) => {
    const given = bearerOf(header);
    return given !== undefined && timingSafeEqual(digest(given), expected);
  };
}
