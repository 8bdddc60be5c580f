/** Who a request comes from, and what they may do: decided once, when the token is checked; asked by each route. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { NoxError } from '../protocol/errors.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Of every route but those that need no token. */
    principal: Principal;
  }
}

/** `run`: run code; `files`: read and change workspaces; `admin`: tokens, metrics, the runs and workspaces of all. */
export const SCOPES = ['run', 'files', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** What a token may use; a missing one has no bound. */
export interface Quotas {
  /** Runs at one time. */
  readonly concurrentRuns?: number;
  readonly runsPerMinute?: number;
  /** CPU time of all its runs in a UTC day, in seconds. */
  readonly cpuSecondsPerDay?: number;
  /** Of all its workspaces together. */
  readonly storageBytes?: number;
}

export interface Principal {
  /** `admin` for NOX_API_TOKEN, else the id of the token. */
  readonly id: string;
  readonly name: string;
  readonly scopes: ReadonlySet<Scope>;
  /** Names of runtimes; undefined: all. */
  readonly runtimes: ReadonlySet<string> | undefined;
  /** Ids of workspaces; undefined: all. */
  readonly workspaces: ReadonlySet<string> | undefined;
  readonly quotas: Quotas;
  /** Milliseconds since 1970; null: never. */
  readonly expires: number | null;
}

/** Of NOX_API_TOKEN, the administrator's. */
export const ADMIN: Principal = {
  id: 'admin',
  name: 'NOX_API_TOKEN',
  scopes: new Set(SCOPES),
  runtimes: undefined,
  workspaces: undefined,
  quotas: {},
  expires: null,
};

/** The workspace of the four calls. */
const DEFAULT_WORKSPACE = 'default';

/** @throws NoxError `forbidden` */
export function requireScope(request: FastifyRequest, scope: Scope): Principal {
  const { principal } = request;
  if (!principal.scopes.has(scope))
    throw new NoxError(
      'forbidden',
      `The token lacks the scope \`${scope}\` for ${request.method} ${request.url.split('?')[0] ?? ''}`,
    );
  return principal;
}

/** `onRequest` of the four calls: before the body is read. */
export function mayUseDefault(scope: Scope, runtime?: string) {
  return (request: FastifyRequest, _reply: FastifyReply, done: (error?: Error) => void): void => {
    try {
      const principal = requireScope(request, scope);
      requireWorkspace(principal, DEFAULT_WORKSPACE);
      if (runtime !== undefined) requireRuntime(principal, runtime);
      done();
    } catch (error) {
      done(error as Error);
    }
  };
}

/** @throws NoxError `forbidden` */
export function requireWorkspace(principal: Principal, workspace: string): void {
  if (principal.workspaces?.has(workspace) === false)
    throw new NoxError('forbidden', `The token may not use the workspace ${JSON.stringify(workspace)}`);
}

/** @throws NoxError `forbidden` */
export function requireRuntime(principal: Principal, runtime: string): void {
  if (principal.runtimes?.has(runtime) === false)
    throw new NoxError('forbidden', `The token may not use the runtime ${JSON.stringify(runtime)}`);
}
