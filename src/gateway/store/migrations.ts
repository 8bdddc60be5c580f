/**
 * The tables, as the steps that lead to them. A step that has been released is never changed: a new one is added at
 * the end. `PRAGMA user_version` is the number of steps that a file has taken.
 *
 * Times are milliseconds since 1970, UTC. `token` is the id of a token, or `admin`; it refers to no row, because
 * what a token has done outlives it.
 */
export const MIGRATIONS: readonly string[] = [
  `
  -- n: the order in which runs were accepted, whatever the clock said.
  CREATE TABLE runs (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    token TEXT NOT NULL,
    created INTEGER NOT NULL,
    started INTEGER,
    ended INTEGER,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'ended')),
    runtime TEXT NOT NULL,
    workspace TEXT,
    outcome TEXT,
    reason TEXT,
    request_id TEXT NOT NULL,
    metadata TEXT,
    CHECK ((state = 'ended') = (ended IS NOT NULL)),
    -- NULL also for one that was refused before it began.
    CHECK (outcome IS NULL OR state = 'ended')
  ) STRICT;
  -- n, at the end of each index, is what a page goes by.
  CREATE INDEX runs_by_token ON runs (token);
  CREATE INDEX runs_open ON runs (state) WHERE ended IS NULL;

  -- Apart, so that a page of runs does not read past it.
  CREATE TABLE run_data (
    n INTEGER PRIMARY KEY REFERENCES runs (n) ON DELETE CASCADE,
    request TEXT,
    result TEXT
  ) STRICT;

  CREATE TABLE idempotency (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    hash BLOB NOT NULL,
    created INTEGER NOT NULL,
    run TEXT,
    status INTEGER,
    body TEXT,
    -- The server ended before there was an answer.
    interrupted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (token, key)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX idempotency_by_age ON idempotency (created);

  CREATE TABLE tokens (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL UNIQUE,
    hash BLOB NOT NULL,
    -- Of the secret before the last rotation, and until when it is valid.
    old_hash BLOB,
    old_until INTEGER,
    -- JSON: lists of names; of runtimes and workspaces none means all.
    scopes TEXT NOT NULL,
    runtimes TEXT,
    workspaces TEXT,
    quotas TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER,
    used INTEGER
  ) STRICT;

  CREATE TABLE usage (
    token TEXT NOT NULL,
    -- YYYY-MM-DD, UTC.
    day TEXT NOT NULL,
    runs INTEGER NOT NULL,
    cpu_ms INTEGER NOT NULL,
    PRIMARY KEY (token, day)
  ) STRICT, WITHOUT ROWID;
  `,
  `
  -- With its run it is forgotten.
  CREATE TABLE webhooks (
    id TEXT PRIMARY KEY,
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    url TEXT NOT NULL,
    secret TEXT NOT NULL,
    tries INTEGER NOT NULL,
    due INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX webhooks_due ON webhooks (due);
  CREATE INDEX webhooks_by_run ON webhooks (run);
  `,
  `
  -- When it was tried last: a time to come says that the clock has been set back.
  ALTER TABLE webhooks ADD COLUMN tried INTEGER NOT NULL DEFAULT 0;
  `,
];
