/** What a spare is given: the form in which zygote.py takes it. */
import type { Limits } from '../protocol/limits.ts';
import type { LaunchPlan } from './launch.ts';

// asm-generic/resource.h
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7, msgqueue: 12 } as const;

/** @param cgroup memory and processes are limited by one */
export function encodePlan(plan: LaunchPlan, cgroup: boolean): Buffer {
  const env = Object.entries(plan.env).map(([name, value]) => `${name}=${value}`);
  return packString(
    packStrings([
      plan.kind,
      plan.script?.name ?? '',
      plan.script?.code ?? '',
      String(plan.limits.tmpBytes),
      rlimits(plan.limits, cgroup),
      plan.writeXorExecute ? 'strict' : 'open',
      plan.stdin === undefined ? 'null' : 'pipe',
      env.join('\0'),
      plan.argv.join('\0'),
    ]),
  );
}

/** `resource:soft:hard`. RLIMIT_NPROC counts init as well, hence one more. */
function rlimits(limits: Limits, cgroup: boolean): string {
  const cpu = Math.ceil(limits.cpuSeconds);
  const rows: [resource: number, soft: number, hard: number][] = [
    // The second between the two makes the first death a SIGXCPU, which names its reason, not a SIGKILL.
    [RLIMIT.cpu, cpu, cpu + 1],
    [RLIMIT.fsize, limits.fileBytes, limits.fileBytes],
    [RLIMIT.core, 0, 0],
    [RLIMIT.nofile, limits.openFiles, limits.openFiles],
    [RLIMIT.msgqueue, 819_200, 819_200],
  ];
  // Where a cgroup limits both, a refusal must be the cgroup's own: only that is counted, and can be told.
  if (!cgroup) {
    rows.push([RLIMIT.nproc, limits.processes + 1, limits.processes + 1]);
    rows.push([RLIMIT.data, limits.memoryBytes, limits.memoryBytes]);
  }
  return rows.map((row) => row.join(':')).join(',');
}

/** A 32-bit length, then the bytes. */
export function packString(text: string | Uint8Array): Buffer {
  const data = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, data]);
}

export function packStrings(fields: readonly (string | Uint8Array)[]): Buffer {
  return Buffer.concat(fields.map(packString));
}
