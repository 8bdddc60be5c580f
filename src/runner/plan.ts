/** What a run is told: the form in which nox_program.py takes it. */
import { readFileSync } from 'node:fs';
import type { Limits } from '../protocol/limits.ts';
import type { LaunchPlan } from './launch.ts';

// asm-generic/resource.h
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7, memlock: 8, msgqueue: 12 } as const;
// The kernel's own defaults; the runner's may be higher, or lower, and then cannot be raised.
const MSGQUEUE_BYTES = 819_200;
const MEMLOCK_BYTES = Math.min(8 * 1024 * 1024, hardLimit('Max locked memory'));
/**
 * RLIMIT_DATA counts what is writable, touched or not, and V8 (14, of Node 26) makes 512 MiB writable at its start, for
 * code that may come. Without this much more, no Node would start; what is touched is counted by the samples.
 */
const UNTOUCHED_BYTES = 512 * 1024 * 1024;

export function encodePlan(plan: LaunchPlan): Buffer {
  const env = Object.entries(plan.env).map(([name, value]) => `${name}=${value}`);
  return packStrings([
    plan.kind,
    plan.script?.name ?? '',
    plan.script?.code ?? '',
    String(plan.limits.tmpBytes),
    encodeLimits(plan.limits, plan.cgroup !== undefined, plan.kind === 'command' ? UNTOUCHED_BYTES : 0),
    plan.stdin === undefined && plan.interactive !== true ? 'null' : 'pipe',
    plan.cgroup ?? '',
    env.join('\0'),
    plan.argv.join('\0'),
    packFields((plan.files ?? []).flatMap(({ path, data }) => [path, data])),
  ]);
}

/** Of this process, in bytes (proc_pid_limits(5)). */
function hardLimit(name: string): number {
  const line = new RegExp(`^${name} +\\S+ +(\\S+)`, 'm').exec(readFileSync('/proc/self/limits', 'utf8'));
  return line?.[1] === undefined || line[1] === 'unlimited' ? Infinity : Number(line[1]);
}

/**
 * `resource:soft:hard,…`, in bytes, seconds or a number, the same resources for every run of a server.
 *
 * @param untouchedBytes what RLIMIT_DATA allows beyond the memory limit
 */
export function encodeLimits(limits: Limits, cgroup: boolean, untouchedBytes = 0): string {
  return rlimits(limits, cgroup, untouchedBytes)
    .map((row) => row.join(':'))
    .join(',');
}

/** RLIMIT_NPROC counts init as well, hence one more. */
function rlimits(
  limits: Limits,
  cgroup: boolean,
  untouchedBytes: number,
): [resource: number, soft: number, hard: number][] {
  const cpu = Math.ceil(limits.cpuSeconds);
  const rows: [resource: number, soft: number, hard: number][] = [
    // The second between the two makes the first death a SIGXCPU, which names its reason, not a SIGKILL.
    [RLIMIT.cpu, cpu, cpu + 1],
    [RLIMIT.fsize, limits.fileBytes, limits.fileBytes],
    [RLIMIT.core, 0, 0],
    [RLIMIT.nofile, limits.openFiles, limits.openFiles],
    [RLIMIT.memlock, MEMLOCK_BYTES, MEMLOCK_BYTES],
    [RLIMIT.msgqueue, MSGQUEUE_BYTES, MSGQUEUE_BYTES],
  ];
  // Where a cgroup limits both, a refusal must be the cgroup's own: only that is counted, and can be told.
  if (!cgroup) {
    rows.push([RLIMIT.nproc, limits.processes + 1, limits.processes + 1]);
    const data = limits.memoryBytes + untouchedBytes;
    rows.push([RLIMIT.data, data, data]);
  }
  return rows;
}

/** Fields, each with a 32-bit length before it, and before them all the length of the whole. */
export function packStrings(fields: readonly (string | Uint8Array)[]): Buffer {
  return pack(fields, 4);
}

const packFields = (fields: readonly (string | Uint8Array)[]): Buffer => pack(fields, 0);

/** @param head bytes for the length of what follows, or 0 */
function pack(fields: readonly (string | Uint8Array)[], head: 0 | 4): Buffer {
  const sizes = fields.map((field) => (typeof field === 'string' ? Buffer.byteLength(field) : field.length));
  const total = sizes.reduce((sum, size) => sum + 4 + size, 0);
  const packed = Buffer.allocUnsafe(head + total);
  if (head > 0) packed.writeUInt32BE(total, 0);
  let at: number = head;
  for (const [index, field] of fields.entries()) {
    const size = sizes[index] ?? 0;
    at = packed.writeUInt32BE(size, at);
    if (typeof field === 'string') packed.write(field, at);
    else packed.set(field, at);
    at += size;
  }
  return packed;
}
