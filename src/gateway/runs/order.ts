/** From what a client asks for to a run that its token may have. */
import { requireRuntime, requireWorkspace, type Principal } from '../principal.ts';
import type { Quota } from '../quota.ts';
import type { RunOrder } from './keeper.ts';
import { runtimeOf, toRunRequest, type RunBody } from './request.ts';

interface Asked {
  readonly body: RunBody;
  readonly principal: Principal;
  readonly requestId: string;
  /** All of its output, not head and tail. */
  readonly whole: boolean;
}

/** @throws NoxError `forbidden`, `invalid_request`, `quota_exceeded`, `rate_limited` */
export function orderOf(
  { quota, cpuSeconds }: { readonly quota: Quota; readonly cpuSeconds: number },
  { body, principal, requestId, whole }: Asked,
): RunOrder {
  const runtime = runtimeOf(body);
  requireRuntime(principal, runtime);
  if (body.workspace !== undefined) requireWorkspace(principal, body.workspace);
  const request = toRunRequest(body, { id: requestId, principal, output: whole ? 'all' : 'bounded' });
  const admission = quota.admit(principal, body.limits?.cpuSeconds ?? cpuSeconds);
  const limits =
    admission.cpuSeconds < cpuSeconds ? { ...body.limits, cpuSeconds: admission.cpuSeconds } : body.limits;
  return {
    principal,
    requestId,
    runtime,
    workspace: body.workspace,
    labels: body.labels ?? {},
    request: limits === undefined ? request : { ...request, limits },
    admission,
  };
}
