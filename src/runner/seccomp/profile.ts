/**
 * The seccomp profile and the system call tables, as data: profile.json says which calls a run may make and why,
 * syscalls.json has the numbers of all calls up to Linux 6.18 (from the kernel's headers). compile.ts turns them
 * into a filter.
 *
 * The profile has the format of OCI and Docker (github.com/opencontainers/runtime-spec, config-linux.md), so that
 * it can be read and compared with known means. Ours are: the order of rules counts, and `when`. Both are explained
 * at the top of profile.json.
 */
import { readFileSync } from 'node:fs';

export const ARCHES = ['x86_64', 'aarch64'] as const;
export type Arch = (typeof ARCHES)[number];

/** What a `when` in the profile may name. */
export type Condition = 'writeXorExecute' | 'denyUnaccountedMemory';

export interface SeccompArgument {
  /** 0 to 5. */
  readonly index: number;
  /** What to compare with; for SCMP_CMP_MASKED_EQ the mask. */
  readonly value: number;
  /** For SCMP_CMP_MASKED_EQ: what the masked argument must equal. */
  readonly valueTwo?: number;
  readonly op: string;
}

export interface SeccompRule {
  readonly comment?: string;
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number;
  /** The rule applies if all of these hold. */
  readonly args?: readonly SeccompArgument[];
  readonly includes?: { readonly arches?: readonly string[] };
  readonly excludes?: { readonly arches?: readonly string[] };
  readonly when?: string;
}

export interface SeccompProfile {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number;
  readonly archMap: readonly {
    readonly architecture: string;
    readonly subArchitectures?: readonly string[];
  }[];
  readonly syscalls: readonly SeccompRule[];
}

export function loadProfile(): SeccompProfile {
  return load('./profile.json') as SeccompProfile;
}

/** Name → number, of every call that the kernel knows on this architecture. */
export function loadSyscalls(): Record<Arch, Readonly<Record<string, number>>> {
  return load('./syscalls.json') as Record<Arch, Record<string, number>>;
}

/** Beside the module in src/ and in dist/ alike: the build copies the files. */
function load(name: string): unknown {
  return JSON.parse(readFileSync(new URL(name, import.meta.url), 'utf8'));
}

export function currentArch(nodeArch: string = process.arch): Arch {
  if (nodeArch === 'x64') return 'x86_64';
  if (nodeArch === 'arm64') return 'aarch64';
  throw new Error(
    `seccomp: no system call filter for the architecture ${nodeArch}; supported are x64 (x86_64) and arm64 (aarch64)`,
  );
}
