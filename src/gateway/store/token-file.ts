/**
 * The tokens in a file beside the database, for `noxctl backup`: the database is the gateway's alone while it runs.
 *
 * `tokens.json` has all that are not revoked, with the hashes of their secrets, a second after each change at the
 * latest. `tokens.restored.json` is put there by `noxctl restore`, and taken in and away at the start. A token that is
 * known here stays as it is, so that nothing that was revoked or rotated since becomes valid again.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import Type, { type Static, type TSchema } from 'typebox';
import { validator } from '../../protocol/validate.ts';
import type { TokenRow, Tokens } from './tokens.ts';

export const TOKENS_FILE = 'tokens.json';
export const RESTORED_FILE = 'tokens.restored.json';
const WRITE_MS = 1000;

const nullable = <T extends TSchema>(type: T) => Type.Union([type, Type.Null()]);
const Time = Type.Integer({ minimum: 0 });
const Hash = Type.String({ pattern: '^[0-9A-F]{64}$' });
const Names = Type.String({ pattern: '^\\[.*\\]$' });
/** A row of the table: lists and quotas are JSON in it, as they are there. */
const Row = Type.Object(
  {
    ...{ id: Type.String({ pattern: '^tok_[0-9a-z]+$' }), prefix: Type.String({ pattern: '^[0-9a-z]{8}$' }) },
    ...{ hash: Hash, old_hash: nullable(Hash), old_until: nullable(Time), name: Type.String() },
    ...{ scopes: Names, runtimes: nullable(Names), workspaces: nullable(Names) },
    ...{ quotas: Type.String({ pattern: '^\\{.*\\}$' }), created: Time, expires: nullable(Time) },
  },
  { additionalProperties: false },
);
const File = Type.Object(
  { format: Type.Literal(1), tokens: Type.Array(Row) },
  { additionalProperties: false },
);
const check = validator(File);

export class TokenFile {
  readonly #directory: string;
  readonly #tokens: Tokens;
  readonly #log: Logger;
  #timer: NodeJS.Timeout | undefined;

  /** @throws Error with the remedy, for restored tokens that are none */
  constructor(directory: string, tokens: Tokens, log: Logger) {
    this.#directory = directory;
    this.#tokens = tokens;
    this.#log = log;
    this.#takeRestored();
    this.#write();
    tokens.onChange = () => {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#write();
      }, WRITE_MS).unref();
    };
  }

  /** What has changed is written before the process ends. */
  close(): void {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#write();
  }

  #takeRestored(): void {
    const path = join(this.#directory, RESTORED_FILE);
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw error;
    }
    let tokens: readonly TokenRow[];
    try {
      ({ tokens } = check(JSON.parse(text)));
      for (const { scopes, runtimes, workspaces, quotas } of tokens)
        for (const each of [scopes, runtimes, workspaces, quotas]) JSON.parse(each ?? 'null');
    } catch (error) {
      throw new Error(`${path}: has no tokens of a backup (${(error as Error).message}): remove it`, {
        cause: error,
      });
    }
    const added = this.#tokens.add(tokens);
    rmSync(path);
    this.#log.info({ tokens: tokens.length, added }, 'state: tokens of a backup');
  }

  /** As they are now. A disk that is full costs a later backup its newest tokens, and says so. */
  #write(): void {
    const text = `${JSON.stringify({ format: 1, tokens: this.#tokens.rows() } satisfies Static<typeof File>)}\n`;
    const path = join(this.#directory, TOKENS_FILE);
    try {
      writeFileSync(`${path}.new`, text, { mode: 0o600, flush: true });
      renameSync(`${path}.new`, path);
    } catch (error) {
      this.#log.error({ err: error, path }, 'state: the tokens for a backup could not be written');
    }
  }
}
