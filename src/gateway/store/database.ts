/**
 * The gateway's database: SQLite (node:sqlite) with a write-ahead log.
 *
 * One process has it, and for itself (`locking_mode=EXCLUSIVE`): a second gateway on the same state would end the
 * runs of the first. SQLite then also needs no file of shared memory.
 *
 * What the log has survives a killed process at any moment. `durably` makes it survive a power cut as well, at the
 * price of an fsync(2), which holds the event loop: for what a client was told is accepted. With the plain
 * `transaction` a power cut may take the last ones, never the file (https://sqlite.org/pragma.html#pragma_synchronous).
 */
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  mkdirSync,
  openSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync, type SQLInputValue, type SQLOutputValue, type StatementSync } from 'node:sqlite';
import type { Logger } from 'pino';
import { NoxError } from '../../protocol/errors.ts';
import { MIGRATIONS } from './migrations.ts';

export type Row = Record<string, SQLOutputValue>;

/** `Nox1`, in the header of the file: it is one of ours. */
const APPLICATION_ID = 0x4e6f7831;
/** How long an opening waits for the process before it, which may still be ending. */
const BUSY_MS = 5000;
/** Looked through at the start; the rest is looked at when it is read. */
const CHECKED_TABLES = ['tokens', 'usage', 'idempotency', 'runs'];

// https://sqlite.org/rescode.html: the lowest byte is the kind.
const SQLITE_BUSY = 5;
const SQLITE_READONLY = 8;
const SQLITE_IOERR = 10;
const SQLITE_CORRUPT = 11;
const SQLITE_FULL = 13;
const SQLITE_CANTOPEN = 14;
const SQLITE_NOTADB = 26;

export const MEMORY = ':memory:';

export class Database {
  readonly #db: DatabaseSync;
  readonly #log: Logger;
  #durable = false;
  /** One line in the log for all that fails until something is written again. */
  #failing = false;

  private constructor(db: DatabaseSync, log: Logger) {
    this.#db = db;
    this.#log = log;
  }

  /**
   * Opens `<directory>/nox.db`, makes it where there is none, and brings it to this program's version.
   *
   * @param directory made where there is none; `:memory:` for a database that is gone with the process
   * @throws Error with the remedy, for a directory or a file that cannot be used; it is then left as it was
   */
  static open(directory: string, log: Logger): Database {
    const file = directory === MEMORY ? MEMORY : join(directory, 'nox.db');
    try {
      if (file !== MEMORY) prepareFile(directory, file);
      const db = new DatabaseSync(file, { timeout: BUSY_MS, enableForeignKeyConstraints: true });
      try {
        configure(db);
        migrate(db, file);
        check(db);
        db.exec('PRAGMA synchronous=NORMAL');
        return new Database(db, log);
      } catch (error) {
        db.close();
        throw error;
      }
    } catch (error) {
      throw explainOpening(error, directory, file);
    }
  }

  prepare(sql: string): Query {
    const statement = this.#db.prepare(sql);
    return new Query(statement, (work) => this.#guard(work));
  }

  /** All of it or nothing; inside another transaction a part of that. */
  transaction<T>(work: () => T): T {
    return this.#db.isTransaction ? work() : this.#guard(() => this.#commit(work));
  }

  /** The same, and on the disk when this returns. */
  durably<T>(work: () => T): T {
    if (this.#db.isTransaction) {
      if (!this.#durable) throw new Error('inside of a transaction that is not durable');
      return work();
    }
    return this.#guard(() => {
      this.#db.exec('PRAGMA synchronous=FULL');
      this.#durable = true;
      try {
        return this.#commit(work);
      } finally {
        this.#durable = false;
        this.#db.exec('PRAGMA synchronous=NORMAL');
      }
    });
  }

  /** Bytes that are in use, free pages of the file not counted. */
  bytes(): number {
    const number = (pragma: string) => Number(Object.values(this.prepare(`PRAGMA ${pragma}`).get() ?? {})[0]);
    return (number('page_count') - number('freelist_count')) * number('page_size');
  }

  /** Gives free pages back to the file system. */
  shrink(): void {
    this.#guard(() => {
      this.#db.exec('PRAGMA incremental_vacuum');
    });
  }

  close(): void {
    this.#db.close();
  }

  #commit<T>(work: () => T): T {
    // At once: a lock that is taken later could be refused in the middle.
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      this.#db.exec('COMMIT');
      this.#failing = false;
      return result;
    } catch (error) {
      // A full disk may have rolled it back already.
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
      throw error;
    }
  }

  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      const what = describe(error);
      if (what === undefined) throw error;
      if (!this.#failing) this.#log.error({ err: error }, 'state: cannot be read or written');
      this.#failing = true;
      throw new NoxError('internal', `The server's state ${what}`, { cause: error });
    }
  }
}

/** A prepared statement whose failures are told as those of the server's state. */
export class Query {
  readonly #statement: StatementSync;
  readonly #guard: <T>(work: () => T) => T;

  constructor(statement: StatementSync, guard: <T>(work: () => T) => T) {
    this.#statement = statement;
    this.#guard = guard;
  }

  get(...values: SQLInputValue[]): Row | undefined {
    return this.#guard(() => this.#statement.get(...values));
  }

  all(...values: SQLInputValue[]): Row[] {
    return this.#guard(() => this.#statement.all(...values));
  }

  /** @returns how many rows it changed */
  run(...values: SQLInputValue[]): number {
    return this.#guard(() => Number(this.#statement.run(...values).changes));
  }
}

/** Only the server's user may read it: it says who ran what. */
function prepareFile(directory: string, file: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  if ((statSync(directory).mode & 0o7777) !== 0o700) chmodSync(directory, 0o700);
  // O_NONBLOCK: a FIFO in the file's place would hold the opening.
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = openSync(file, flags, 0o600);
  try {
    const info = fstatSync(handle);
    if (!info.isFile()) throw new Error('not a regular file');
    // SQLite would take it for a new one, and throw its log away.
    const log = statSync(`${file}-wal`, { throwIfNoEntry: false });
    if (info.size === 0 && (log?.size ?? 0) > 0)
      throw new DamagedError(`it is empty, and its log ${file}-wal is not`);
    if ((info.mode & 0o7777) !== 0o600) fchmodSync(handle, 0o600);
  } finally {
    closeSync(handle);
  }
}

function configure(db: DatabaseSync): void {
  // First of all: what was read before it would have been read with shared memory.
  db.exec('PRAGMA locking_mode=EXCLUSIVE');
  // Before the file has its first page, or it has no effect. Later it would write, for which there may be no room.
  const { auto_vacuum } = db.prepare('PRAGMA auto_vacuum').get() as { auto_vacuum: number };
  if (auto_vacuum === 0) db.exec('PRAGMA auto_vacuum=INCREMENTAL');
  db.exec('PRAGMA journal_mode=WAL');
  db.exec('PRAGMA synchronous=FULL');
}

function migrate(db: DatabaseSync, file: string): void {
  const { user_version } = db.prepare('PRAGMA user_version').get() as { user_version: number };
  const { application_id } = db.prepare('PRAGMA application_id').get() as { application_id: number };
  const { tables } = db.prepare('SELECT count(*) AS tables FROM sqlite_schema').get() as { tables: number };
  if (application_id !== APPLICATION_ID && (user_version !== 0 || tables > 0))
    throw new Error(`${file} is a database of another program: set NOX_STATE to a directory of Nox's own`);
  if (user_version > MIGRATIONS.length) {
    throw new Error(
      `${file} has version ${user_version}, this Nox knows ${MIGRATIONS.length}: install the Nox that wrote it or a newer one, or restore the copy from before the upgrade`,
    );
  }
  for (const [step, sql] of MIGRATIONS.entries()) {
    if (step < user_version) continue;
    db.exec('BEGIN IMMEDIATE');
    db.exec(sql);
    db.exec(`PRAGMA application_id=${APPLICATION_ID}`);
    db.exec(`PRAGMA user_version=${step + 1}`);
    db.exec('COMMIT');
  }
}

function check(db: DatabaseSync): void {
  for (const table of CHECKED_TABLES) {
    const { quick_check: found } = db.prepare(`PRAGMA quick_check('${table}')`).get() as {
      quick_check: string;
    };
    if (found !== 'ok') throw new DamagedError(`${table}: ${found.split('\n')[0] ?? ''}`);
  }
}

class DamagedError extends Error {
  override readonly name = 'DamagedError';
}

function codeOf(error: unknown): number | undefined {
  const { errcode } = error as { errcode?: unknown };
  return typeof errcode === 'number' ? errcode & 0xff : undefined;
}

/** What a client is told; undefined for a mistake in a statement, which is a fault of the program. */
function describe(error: unknown): string | undefined {
  switch (codeOf(error)) {
    case SQLITE_FULL:
      return 'cannot be written, because its disk is full: the administrator makes room on the disk of NOX_STATE';
    case SQLITE_IOERR:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
      return "cannot be read or written: the administrator finds the reason in the server's log, and looks at the disk of NOX_STATE";
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return 'is damaged: the administrator restores nox.db in NOX_STATE from a backup';
    case SQLITE_BUSY:
      return 'is held by another program: the administrator ends what has opened nox.db in NOX_STATE';
    default:
      return undefined;
  }
}

function explainOpening(error: unknown, directory: string, file: string): Error {
  const { message } = error as Error;
  const code = codeOf(error);
  if (error instanceof DamagedError || code === SQLITE_CORRUPT || code === SQLITE_NOTADB) {
    return new Error(
      `${file} is damaged (${message}): restore it from a backup, or move it and ${file}-wal away to begin without tokens and runs`,
      { cause: error },
    );
  }
  if (code === SQLITE_BUSY) {
    return new Error(
      `${file} is in use: another gateway runs on it; stop that one, or set NOX_STATE to another directory`,
      { cause: error },
    );
  }
  const own = code === undefined && (error as NodeJS.ErrnoException).code === undefined;
  if (own && message.startsWith(file)) return error as Error;
  return new Error(
    `NOX_STATE: cannot use ${directory} (${message}): make it a directory of the server's user with room on its disk (under systemd also one that ReadWritePaths= or StateDirectory= names)`,
    { cause: error },
  );
}
