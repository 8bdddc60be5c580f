/**
 * Every error that a client can see: stable code, HTTP status, whether the same request may succeed later, and
 * what to do. docs/api.md repeats this table; test/unit/docs.test.ts holds the two together, in both directions.
 *
 * A program that fails is no error: it is a result (outcome.ts).
 */

export interface ErrorRow {
  readonly status: number;
  readonly retry: boolean;
  readonly hint: string;
}

export const ERRORS = {
  unauthorized: {
    status: 401,
    retry: false,
    hint: 'Send the header `Authorization: Bearer <token>` with a valid token',
  },
  invalid_path: {
    status: 400,
    retry: false,
    hint: 'Give a relative path inside the workspace: no `..`, no NUL, no symbolic link that leaves it, no directory in the place of the file',
  },
  forbidden_command: {
    status: 400,
    retry: false,
    hint: 'The administrator refuses this first word (`NOX_FORBIDDEN`)',
  },
  empty_command: { status: 400, retry: false, hint: 'Give at least one word in `cmd`' },
  unbalanced_quote: { status: 400, retry: false, hint: 'Close the quote, or send `cmd` as a list of words' },
  bad_request: { status: 400, retry: false, hint: 'Send well-formed HTTP' },
  not_found: { status: 404, retry: false, hint: 'See docs/api.md for the calls' },
  method_not_allowed: { status: 405, retry: false, hint: 'Use the method that the `Allow` header names' },
  timeout: {
    status: 408,
    retry: false,
    hint: 'Make the program faster, or have the administrator raise `NOX_TIMEOUT`',
  },
  request_timeout: { status: 408, retry: true, hint: 'Send the request’s headers and body faster' },
  payload_too_large: {
    status: 413,
    retry: false,
    hint: 'Send less, or have the administrator raise `NOX_MAX_BODY` (JSON) or `NOX_MAX_UPLOAD` (files)',
  },
  workspace_conflict: {
    status: 409,
    retry: true,
    hint: 'Runs of the workspace, or a call that replaces its files, are in the way: try again; give code a `filename` of its own; delete and restore with `force`, which ends runs and uploads',
  },
  workspace_full: {
    status: 413,
    retry: false,
    hint: 'Delete files of the workspace, or have the administrator raise `NOX_MAX_WORKSPACE`',
  },
  forbidden: {
    status: 403,
    retry: false,
    hint: 'The token may not do this: use one with the scope, workspace or runtime that the message names, or have the administrator make one',
  },
  run_not_found: { status: 404, retry: false, hint: '`GET /v1/runs` lists the runs that are kept' },
  run_ended: { status: 409, retry: false, hint: 'The run has ended; `GET /v1/runs/{id}` has its result' },
  workspace_not_found: { status: 404, retry: false, hint: '`GET /v1/workspaces` lists the workspaces' },
  file_not_found: { status: 404, retry: false, hint: 'List the directory to see what it has' },
  token_not_found: { status: 404, retry: false, hint: '`GET /v1/tokens` lists the tokens' },
  snapshot_not_found: {
    status: 404,
    retry: false,
    hint: '`GET /v1/workspaces/{id}/snapshots` lists the snapshots',
  },
  already_exists: {
    status: 409,
    retry: false,
    hint: 'Take another name, or say that it is to be replaced where the call can do so',
  },
  precondition_failed: {
    status: 412,
    retry: false,
    hint: 'Somebody has changed it: read it again, then repeat the request with the new `ETag`',
  },
  range_not_satisfiable: { status: 416, retry: false, hint: 'Ask for bytes that the file has' },
  unknown_runtime: { status: 422, retry: false, hint: '`GET /v1/runtimes` lists what this server can run' },
  idempotency_conflict: {
    status: 422,
    retry: false,
    hint: 'The key has been used for another request: take a new one for each',
  },
  hostile_archive: {
    status: 422,
    retry: false,
    hint: 'Send a tar.gz or zip with relative names, regular files, directories and links that stay inside, within the bounds of docs/api.md',
  },
  rate_limited: {
    status: 429,
    retry: true,
    hint: 'Wait for `Retry-After` seconds; `RateLimit-*` says how much is left',
  },
  quota_exceeded: {
    status: 429,
    retry: true,
    hint: 'Wait for `Retry-After` seconds, or have the administrator raise the quota of the token that the message names',
  },
  invalid_request: { status: 422, retry: false, hint: 'Correct the field that the message names' },
  headers_too_large: { status: 431, retry: false, hint: 'Send at most 16 KiB of headers' },
  queue_full: { status: 429, retry: true, hint: 'Wait for `Retry-After` seconds, or send fewer at a time' },
  queue_timeout: {
    status: 503,
    retry: true,
    hint: 'Wait for `Retry-After` seconds, or send fewer at a time',
  },
  shutting_down: { status: 503, retry: true, hint: 'The server is stopping; try again in a moment' },
  not_run: {
    status: 409,
    retry: true,
    hint: 'Another item of the batch failed, and `stopOnFailure` was set: mend that one, then send the rest again',
  },
  cancelled: { status: 499, retry: false, hint: 'The client went away' },
  sandbox_error: {
    status: 500,
    retry: true,
    hint: 'The machine, not the program, failed: the administrator finds the reason in the log under this request id, and `make validate` names the remedy',
  },
  runner_unavailable: {
    status: 503,
    retry: true,
    hint: 'The gateway cannot reach the runner: the administrator looks at the runner’s log',
  },
  internal: { status: 500, retry: true, hint: 'A fault of Nox: the log has it under this request id' },
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERRORS, value);
}

export class NoxError extends Error {
  override readonly name = 'NoxError';
  readonly code: ErrorCode;
  /** Seconds after which to try again, where that can be said. */
  readonly retryAfter: number | undefined;
  /** Of `runner_unavailable`: the runner has not heard of the call, which can be made again. */
  readonly unsent: boolean;

  /** `message` goes to the client; `cause` goes to the log only. */
  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; retryAfter?: number; unsent?: boolean } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.retryAfter = options.retryAfter;
    this.unsent = options.unsent === true;
  }
}
