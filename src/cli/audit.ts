/** `noxctl audit verify`: which files, which heads, and the answer in a line. */
import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { verifyAudit } from '../admin/audit-verify.ts';
import { ROTATED } from '../gateway/audit-rotated.ts';
import { parseHead, type Head } from '../gateway/audit-chain.ts';
import { UsageError } from './usage.ts';

/**
 * @param configured NOX_AUDIT_FILE, empty for none: it and its rotated files are verified where no others are named
 * @returns the exit code
 * @throws UsageError, and Error for a head or a directory that cannot be read
 */
export async function auditCommand(
  words: readonly string[],
  configured: () => string,
  say: (line: string) => void,
): Promise<number> {
  const { values, positionals } = parse(words);
  const [verb, ...named] = positionals;
  if (verb !== 'verify')
    throw new UsageError(
      `audit: ${verb === undefined ? 'the word verify must follow' : `no such word: ${verb}`}`,
    );
  const file = named.length === 0 ? configured() : '';
  if (named.length === 0 && file === '')
    throw new UsageError('audit verify: NOX_AUDIT_FILE is not set: name the files');
  const heads = values.head.map(parseNoted);
  // Before the files: what is written meanwhile is behind it.
  const own = named.length === 0 ? [file] : named.map((path) => resolve(path));
  for (const base of new Set(own.map((path) => path.replace(ROTATED, '')))) {
    const head = await savedHead(`${base}.head`);
    if (head !== undefined) heads.push(head);
  }
  const paths = named.length === 0 ? await withRotated(file) : own;
  const found = await verifyAudit(paths, heads);
  if (!found.intact) {
    say(`FAIL  ${found.file}${found.line === 0 ? '' : `:${String(found.line)}`}: ${found.what}`);
    return 1;
  }
  const { first, head, lines, files, unchained, beyond, foreign } = found;
  const span = first === undefined ? '' : ` (${String(first)} to ${String(head.seq)})`;
  say(`PASS  ${String(lines)} lines${span} in ${String(files)} files; head ${String(head.seq)}:${head.hash}`);
  if (first !== undefined && first > 1) say(`      the lines before ${String(first)} are not here`);
  if (unchained > 0)
    say(`      at ${String(unchained)} places bytes that are no line, of a crash or from before the chain`);
  if (beyond > 0) say(`      ${String(beyond)} lines behind the last head that is known`);
  for (const path of foreign) say(`      ${path}: no line of the chain in it`);
  return 0;
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({
      args: [...words],
      allowPositionals: true,
      options: { head: { type: 'string', multiple: true, default: [] } },
    });
  } catch (error) {
    throw new UsageError(`audit: ${(error as Error).message.split('. ')[0] ?? ''}`);
  }
}

function parseNoted(text: string): Head {
  const [, seq, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (seq === undefined || hash === undefined)
    throw new UsageError(
      `audit verify: --head ${JSON.stringify(text)}: give it as the journal does, SEQ:HASH`,
    );
  return { seq: Number(seq), hash };
}

/** One that cannot be read, or says nothing, must not look like none. */
async function savedHead(path: string): Promise<Head | undefined> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return undefined;
  const head = parseHead(text);
  if (head === undefined) throw new Error(`audit verify: ${path} is no head of a chain: changed`);
  return head;
}

async function withRotated(file: string): Promise<string[]> {
  const own = basename(file);
  const names = await readdir(dirname(file));
  const wanted = names.filter(
    (name) => name === own || (name.startsWith(own) && name.slice(own.length).replace(ROTATED, '') === ''),
  );
  return wanted.map((name) => join(dirname(file), name));
}
