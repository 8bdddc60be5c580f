/** What the runner answers besides runs: each request is checked against its schema, then given to its handler. */
import type { TSchema } from 'typebox';
import { NoxError } from '../protocol/errors.ts';
import {
  ASK,
  FETCH,
  SEND,
  type Asks,
  type Fetched,
  type Fetches,
  type Sends,
} from '../protocol/operations.ts';
import { validator } from '../protocol/validate.ts';

export interface Handlers {
  readonly ask: {
    readonly [Name in keyof Asks]: (
      request: Asks[Name]['request'],
      signal: AbortSignal,
    ) => Promise<Asks[Name]['answer']>;
  };
  readonly send: {
    readonly [Name in keyof Sends]: (
      request: Sends[Name]['request'],
      body: AsyncIterable<Uint8Array>,
      signal: AbortSignal,
    ) => Promise<Sends[Name]['answer']>;
  };
  readonly fetch: {
    readonly [Name in keyof Fetches]: (
      request: Fetches[Name]['request'],
      signal: AbortSignal,
    ) => Promise<Fetched<Fetches[Name]['answer']>>;
  };
}

const SCHEMAS = { ask: ASK, send: SEND, fetch: FETCH } as const;
const CHECKS = Object.fromEntries(
  Object.entries(SCHEMAS).map(([kind, table]) => [
    kind,
    new Map(
      Object.entries(table as Record<string, TSchema>).map(([name, schema]) => [name, validator(schema)]),
    ),
  ]),
) as Record<keyof Handlers, Map<string, (request: unknown) => unknown>>;

/** @throws NoxError `not_found`, or `invalid_request` naming the field */
export function checkOperation<Request>(kind: keyof Handlers, name: string, request: Request): Request {
  const check = CHECKS[kind].get(name);
  if (check === undefined) throw new NoxError('not_found', `${kind}: no operation ${JSON.stringify(name)}`);
  check(request);
  return request;
}
