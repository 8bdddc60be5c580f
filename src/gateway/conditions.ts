/** What headers say of a file: ranges and entity tags (RFC 9110, sections 8.8.3, 13 and 14), and how it is named. */
import { bytesOf } from '../protocol/bytes.ts';
import { NoxError } from '../protocol/errors.ts';
import type { Range } from '../protocol/files.ts';

const TAGS_MAX = 100;
const ETAG = /^(W\/)?"[\x21\x23-\x7e\x80-\xff]{0,190}"$/;

/** One range. What has another form is no range, and the whole file is the answer (14.2). */
export function parseRange(header: string | undefined): Range | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '');
  const [, first = '', last = ''] = match ?? [];
  if (first === '') return last === '' ? undefined : { last: Number(last) };
  return { first: Number(first), ...(last === '' ? {} : { to: Number(last) }) };
}

/**
 * @returns the tags of an `If-Match`; `*` is one
 * @throws NoxError `invalid_request`
 */
export function parseTags(header: string | undefined, name: string): string[] | undefined {
  if (header === undefined) return undefined;
  const tags = header.split(',').map((tag) => tag.trim());
  if (tags.length > TAGS_MAX || !tags.every((tag) => tag === '*' || ETAG.test(tag)))
    throw new NoxError(
      'invalid_request',
      `${name}: ${JSON.stringify(header.slice(0, 100))} is no list of ETags, nor *`,
    );
  return tags;
}

/** Whether an `If-None-Match` of a GET names the file: then the client has it (weak comparison, 13.1.2). */
export function hasAlready(tags: readonly string[] | undefined, etag: string | undefined): boolean {
  const opaque = (tag: string) => tag.replace(/^W\//, '');
  return tags?.some((tag) => tag === '*' || opaque(tag) === opaque(etag ?? '')) === true;
}

/** RFC 6266 and RFC 8187; to be saved, never to be shown: the content is a stranger's. */
export function attachment(path: string, suffix = ''): string {
  const name = `${path.split('/').findLast((each) => each !== '') ?? 'workspace'}${suffix}`;
  const bytes = Buffer.from(bytesOf(name), 'latin1');
  const plain = bytes.toString('latin1').replace(/[^A-Za-z0-9._ -]/g, '_');
  const exact = [...bytes].map((byte) =>
    /[A-Za-z0-9._-]/.test(String.fromCharCode(byte))
      ? String.fromCharCode(byte)
      : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
  );
  return `attachment; filename="${plain}"; filename*=UTF-8''${exact.join('')}`;
}
