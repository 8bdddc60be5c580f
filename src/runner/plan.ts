/** What a run is told: the form in which nox_program.py takes it. */
import type { Limits } from '../protocol/limits.ts';
import type { LaunchPlan } from './launch.ts';

// asm-generic/resource.h
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7, msgqueue: 12 } as const;
const MSGQUEUE_BYTES = 819_200;

export function encodePlan(plan: LaunchPlan): Buffer {
  const env = Object.entries(plan.env).map(([name, value]) => `${name}=${value}`);
  return packStrings([
    plan.kind,
    plan.script?.name ?? '',
    plan.script?.code ?? '',
    String(plan.limits.tmpBytes),
    rlimits(plan.limits, plan.cgroup !== undefined)
      .map((row) => row.join(':'))
      .join(','),
    plan.writeXorExecute ? 'strict' : 'open',
    plan.stdin === undefined ? 'null' : 'pipe',
    plan.cgroup ?? '',
    env.join('\0'),
    plan.argv.join('\0'),
  ]);
}

/** The resources that are limited in every run. */
export function limitedResources(cgroup: boolean): number[] {
  return Object.values(RLIMIT).filter((each) => !cgroup || (each !== RLIMIT.nproc && each !== RLIMIT.data));
}

/** `resource:soft:hard`. RLIMIT_NPROC counts init as well, hence one more. */
function rlimits(limits: Limits, cgroup: boolean): [resource: number, soft: number, hard: number][] {
  const cpu = Math.ceil(limits.cpuSeconds);
  const rows: [resource: number, soft: number, hard: number][] = [
    // The second between the two makes the first death a SIGXCPU, which names its reason, not a SIGKILL.
    [RLIMIT.cpu, cpu, cpu + 1],
    [RLIMIT.fsize, limits.fileBytes, limits.fileBytes],
    [RLIMIT.core, 0, 0],
    [RLIMIT.nofile, limits.openFiles, limits.openFiles],
    [RLIMIT.msgqueue, MSGQUEUE_BYTES, MSGQUEUE_BYTES],
  ];
  // Where a cgroup limits both, a refusal must be the cgroup's own: only that is counted, and can be told.
  if (!cgroup) {
    rows.push([RLIMIT.nproc, limits.processes + 1, limits.processes + 1]);
    rows.push([RLIMIT.data, limits.memoryBytes, limits.memoryBytes]);
  }
  return rows;
}

/** Fields, each with a 32-bit length before it, and before them all the length of the whole. */
export function packStrings(fields: readonly (string | Uint8Array)[]): Buffer {
  const sizes = fields.map((field) => (typeof field === 'string' ? Buffer.byteLength(field) : field.length));
  const total = sizes.reduce((sum, size) => sum + 4 + size, 0);
  const packed = Buffer.allocUnsafe(4 + total);
  let at = packed.writeUInt32BE(total, 0);
  for (const [index, field] of fields.entries()) {
    const size = sizes[index] ?? 0;
    at = packed.writeUInt32BE(size, at);
    if (typeof field === 'string') packed.write(field, at);
    else packed.set(field, at);
    at += size;
  }
  return packed;
}
