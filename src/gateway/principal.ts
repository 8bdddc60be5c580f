/** Who a request comes from, and what they may do: decided once, when the token is checked; asked by each route. */
import type { FastifyRequest } from 'fastify';
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

export interface Principal {
  /** `admin` for NOX_API_TOKEN, else the id of the token. */
  readonly id: string;
  readonly scopes: ReadonlySet<Scope>;
  /** Names of runtimes; undefined: all. */
  readonly runtimes: ReadonlySet<string> | undefined;
  /** Ids of workspaces; undefined: all. */
  readonly workspaces: ReadonlySet<string> | undefined;
}

/** Of NOX_API_TOKEN, the administrator's. */
export const ADMIN: Principal = {
  id: 'admin',
  scopes: new Set(SCOPES),
  runtimes: undefined,
  workspaces: undefined,
};

/** The workspace of the four calls. */
export const DEFAULT_WORKSPACE = 'default';

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
