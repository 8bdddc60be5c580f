/** A run as it is kept, and as a client sees it. */
import { ERRORS, type ErrorCode } from '../../protocol/errors.ts';
import type { RunResult } from '../../protocol/messages.ts';
import type { Outcome } from '../../protocol/outcome.ts';

export interface RunRecord {
  readonly id: string;
  /** Id of the token that asked for it. */
  readonly owner: string;
  readonly requestId: string;
  readonly runtime: string;
  /** null: a scratch one. */
  readonly workspace: string | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: 'queued' | 'running' | 'ended';
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  readonly startedAt: number | null;
  readonly endedAt: number | null;
  readonly result?: RunResult;
  /** Where there is no result of the runner's: how it ended all the same, and why. */
  readonly outcome?: Outcome;
  readonly reason?: string;
  /** Not all of the output was kept. */
  readonly truncated?: boolean;
  /** It never began. */
  readonly error?: { readonly code: ErrorCode; readonly detail: string };
}

/** What a client sees of a run, but for its output. */
export function viewOf(record: RunRecord): Record<string, unknown> {
  const { id, requestId, runtime, workspace, labels, state, result, error, reason, truncated } = record;
  return {
    id,
    state,
    outcome: outcomeOfRecord(record) ?? null,
    ...(reason === undefined ? {} : { reason }),
    ...(error === undefined ? {} : { error: { ...error, hint: ERRORS[error.code].hint } }),
    ...(result === undefined ? {} : resultMembers(result)),
    ...(truncated === true ? { truncated } : {}),
    runtime,
    workspace,
    labels,
    requestId,
    createdAt: time(record.createdAt),
    startedAt: time(record.startedAt),
    endedAt: time(record.endedAt),
  };
}

/** undefined: it has not ended, or never began. */
export function outcomeOfRecord({ result, outcome }: RunRecord): Outcome | undefined {
  return result?.outcome ?? outcome;
}

function resultMembers({
  exitCode,
  signal,
  stage,
  compileSeconds,
  omitted,
  limit,
  usage,
  changes,
}: RunResult) {
  return {
    exitCode,
    signal,
    ...(stage === undefined ? {} : { stage }),
    ...(compileSeconds === undefined ? {} : { compileSeconds }),
    ...(limit === undefined ? {} : { limit }),
    omitted,
    usage,
    ...(changes === undefined ? {} : { changes }),
  };
}

const time = (milliseconds: number | null): string | null =>
  milliseconds === null ? null : new Date(milliseconds).toISOString();
