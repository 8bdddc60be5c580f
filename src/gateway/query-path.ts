/** The `path` of a query, whose percent-encoded bytes need not be UTF-8: Fastify's own reading of it would lose them. */
import type { FastifyRequest } from 'fastify';
import { textOf } from '../protocol/bytes.ts';

/** @returns '' where there is none; text as protocol/bytes.ts has it */
export function queryPath({ url }: Pick<FastifyRequest, 'url'>): string {
  const query = url.slice(url.indexOf('?') + 1);
  if (query === url) return '';
  for (const part of query.split('&')) {
    const at = part.indexOf('=');
    if (decode(at === -1 ? part : part.slice(0, at)) === 'path')
      return at === -1 ? '' : textOf(decode(part.slice(at + 1)));
  }
  return '';
}

/** To a character a byte. What is no percent-encoding stands for itself (WHATWG URL, 1.3). */
function decode(text: string): string {
  return Buffer.from(text, 'utf8')
    .toString('latin1')
    .replaceAll('+', ' ')
    .replace(/%([0-9A-Fa-f]{2})/g, (_all, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
