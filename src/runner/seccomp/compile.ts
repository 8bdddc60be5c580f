/**
 * Compiles a seccomp profile to the program that the kernel runs at every system call: classic BPF, see seccomp(2),
 * linux/seccomp.h (struct seccomp_data, SECCOMP_RET_*), linux/filter.h and linux/bpf_common.h (struct sock_filter,
 * BPF_*).
 *
 *     foreign architecture → kill
 *     load the number of the call
 *     binary tree over ranges of numbers that are decided alike
 *       leaf: return an action, or first look at the arguments
 *
 * Seven or eight comparisons reach any leaf. Where the leaf looks at no argument, the kernel does not even run the
 * program: since Linux 5.11 it finds out when a filter is installed which numbers are always allowed, and keeps a
 * bitmap. It can follow LD of number and architecture, JMP, AND and RET only, so the tree has nothing else.
 *
 * Jumps of classic BPF go forward only, by at most 255 instructions when conditional; JA has 32 bits.
 */
import {
  type Arch,
  ARCHES,
  type Condition,
  loadSyscalls,
  type SeccompArgument,
  type SeccompProfile,
  type SeccompRule,
} from './profile.ts';

export { currentArch, loadProfile } from './profile.ts';

export interface SeccompOptions {
  /** No memory that is writable and executable, at once or in turn. For runtimes without a JIT only. */
  readonly writeXorExecute: boolean;
  /** `deny` where no cgroup counts the memory that is mapped by no process. */
  readonly unaccountedMemory: 'allow' | 'deny';
}

interface Instruction {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
}

/** One system call number, or several in a row from `first`, with the code that decides them. */
interface Range {
  readonly first: number;
  readonly code: readonly Instruction[];
}

// linux/bpf_common.h, each a sum of class, size or operation, and mode or source.
const LD_W_ABS = 0x20;
const ALU_AND_K = 0x54;
const JMP_JA = 0x05;
const JMP_JEQ_K = 0x15;
const JMP_JGT_K = 0x25;
const JMP_JGE_K = 0x35;
const RET_K = 0x06;

// struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]. Both architectures are little endian.
const NUMBER = 0;
const ARCHITECTURE = 4;
const argumentLow = (index: number) => 16 + 8 * index;
const argumentHigh = (index: number) => 16 + 8 * index + 4;

const RET_KILL_PROCESS = 0x8000_0000;
const RET_ERRNO = 0x0005_0000;
const ACTIONS: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL_PROCESS: RET_KILL_PROCESS,
  SCMP_ACT_KILL_THREAD: 0,
  SCMP_ACT_TRAP: 0x0003_0000,
  SCMP_ACT_ERRNO: RET_ERRNO,
  SCMP_ACT_LOG: 0x7ffc_0000,
  SCMP_ACT_ALLOW: 0x7fff_0000,
};

const EPERM = 1;
const ENOSYS = 38;
const MAX_ERRNO = 4095;
const BPF_MAXINSNS = 4096;
const MAX_JUMP = 255;

/** linux/audit.h AUDIT_ARCH_*, and the names of OCI and of Docker (`includes`, `excludes`). */
const ARCH_NAMES = {
  x86_64: { audit: 0xc000_003e, oci: 'SCMP_ARCH_X86_64', docker: 'amd64' },
  aarch64: { audit: 0xc000_00b7, oci: 'SCMP_ARCH_AARCH64', docker: 'arm64' },
} as const satisfies Record<Arch, unknown>;

const RULE_KEYS = new Set(['comment', 'names', 'action', 'errnoRet', 'args', 'includes', 'excludes', 'when']);
const SYSCALLS = loadSyscalls();

/**
 * What makes cells, and joins them. The zygote lives under `base`, which allows these and judges everything else, so
 * that each run installs only the small rest: a filter costs its installation by its length.
 */
const SETUP = [
  'clone',
  'io_uring_register',
  'mount',
  'move_mount',
  'open_tree',
  'setns',
  'umount2',
  'unshare',
];

/**
 * What a copy of the zygote still does when its plan has come, with its filter on already. By then only these exact
 * calls are left, and a run, which has no capability, is refused all of them by the kernel, with the same EPERM.
 */
const LAST_STEPS: readonly SeccompRule[] = [
  { names: ['move_mount'], action: 'SCMP_ACT_ALLOW' },
  {
    names: ['mount'],
    action: 'SCMP_ACT_ALLOW',
    // MS_REMOUNT | MS_NOSUID | MS_NODEV
    args: [{ index: 3, value: 38, op: 'SCMP_CMP_EQ' }],
  },
  {
    names: ['unshare'],
    action: 'SCMP_ACT_ALLOW',
    // CLONE_NEWCGROUP
    args: [{ index: 0, value: 0xffff_ffff, valueTwo: 0x200_0000, op: 'SCMP_CMP_MASKED_EQ' }],
  },
];

export interface Stages {
  /** For the zygote, inherited by its runs. */
  readonly base: Uint8Array;
  /** With `base`, the filter of a copy of the zygote: Python code, warm or new. */
  readonly copy: Uint8Array;
  /** With `base`, the filter of a command. */
  readonly command: Uint8Array;
}

/** The filters of `compileSeccomp` cut in two: of two filters the kernel takes the stricter answer (seccomp(2)). */
export function compileStages(profile: SeccompProfile, arch: Arch, options: SeccompOptions): Stages {
  const plain: SeccompOptions = { ...options, writeXorExecute: false };
  const conditional = profile.syscalls
    .filter((rule) => options.writeXorExecute && rule.when === 'writeXorExecute')
    .flatMap((rule) => rule.names);
  const isOneOf = (names: readonly string[]) => (name?: string) => name !== undefined && names.includes(name);
  const isSetup = isOneOf(SETUP);
  const withLastSteps = { ...profile, syscalls: [...LAST_STEPS, ...profile.syscalls] };
  return {
    base: compileSeccomp(profile, arch, plain, (name) => !isSetup(name)),
    copy: compileSeccomp(withLastSteps, arch, options, isOneOf([...SETUP, ...conditional])),
    command: compileSeccomp(profile, arch, plain, isSetup),
  };
}

/**
 * The bytes of an array of struct sock_filter, as seccomp(2) and prctl(2) want it.
 *
 * @param judges what is not judged is allowed; undefined is a number without a name
 */
export function compileSeccomp(
  profile: SeccompProfile,
  arch: Arch,
  options: SeccompOptions,
  judges: (name?: string) => boolean = () => true,
): Uint8Array {
  const { audit, oci } = ARCH_NAMES[arch];
  if (!profile.archMap.some((entry) => entry.architecture === oci)) {
    throw new Error(`seccomp profile: archMap has no ${oci}`);
  }
  const tree = decide(rangesOf(profile, arch, options, judges));
  const program = [
    load(ARCHITECTURE),
    jump(JMP_JEQ_K, audit, 1, 0),
    // The numbers of another table would be judged by the wrong names.
    ret(RET_KILL_PROCESS),
    load(NUMBER),
    ...tree,
  ];
  if (program.length > BPF_MAXINSNS) {
    throw new Error(
      `seccomp profile: ${program.length} instructions, the kernel takes ${BPF_MAXINSNS}; use fewer rules with arguments`,
    );
  }
  return encode(program);
}

/** All numbers from 0 to 2^32-1, in order, neighbours that are decided alike as one. */
function rangesOf(
  profile: SeccompProfile,
  arch: Arch,
  options: SeccompOptions,
  judges: (name?: string) => boolean,
): Range[] {
  const table = SYSCALLS[arch];
  const rules = rulesByName(profile, arch, options);
  const allowed = [ret(action('SCMP_ACT_ALLOW', undefined, profile))];
  const unknown = judges(undefined) ? [ret(RET_ERRNO | ENOSYS)] : allowed;
  const byDefault = action(profile.defaultAction, profile.defaultErrnoRet, profile);

  const ranges: Range[] = [];
  const add = (first: number, code: readonly Instruction[]) => {
    const last = ranges.at(-1);
    if (last === undefined || JSON.stringify(last.code) !== JSON.stringify(code))
      ranges.push({ first, code });
  };
  let next = 0;
  for (const [name, number] of Object.entries(table).sort(([, a], [, b]) => a - b)) {
    if (number > next) add(next, unknown);
    const code = judges(name) && decideByArguments(name, rules.get(name) ?? [], byDefault, profile);
    add(number, code || allowed);
    next = number + 1;
  }
  // Also where x32 calls are (0x40000000 and up): a kernel without x32 answers the same.
  add(next, unknown);
  return ranges;
}

/** The rules that are in force, in the order of the profile, for each name. */
function rulesByName(
  profile: SeccompProfile,
  arch: Arch,
  options: SeccompOptions,
): Map<string, SeccompRule[]> {
  const conditions: Readonly<Record<Condition, boolean>> = {
    writeXorExecute: options.writeXorExecute,
    denyUnaccountedMemory: options.unaccountedMemory === 'deny',
  };
  const known = new Set(ARCHES.flatMap((each) => Object.keys(SYSCALLS[each])));
  const rules = new Map<string, SeccompRule[]>();
  for (const rule of profile.syscalls) {
    checkRule(rule, known, conditions);
    const { docker } = ARCH_NAMES[arch];
    if (rule.when !== undefined && !conditions[rule.when as Condition]) continue;
    if (rule.includes?.arches && !rule.includes.arches.includes(docker)) continue;
    if (rule.excludes?.arches?.includes(docker)) continue;
    for (const name of rule.names) {
      const list = rules.get(name) ?? [];
      list.push(rule);
      rules.set(name, list);
    }
  }
  return rules;
}

/** What this compiler does not understand must not pass for a rule that is in force. */
function checkRule(
  rule: SeccompRule,
  known: ReadonlySet<string>,
  conditions: Readonly<Record<string, boolean>>,
) {
  const where = `seccomp profile, rule for ${rule.names.join(', ')}`;
  for (const key of Object.keys(rule)) {
    if (!RULE_KEYS.has(key)) throw new Error(`${where}: unknown key ${key}`);
  }
  for (const name of rule.names) {
    if (!known.has(name)) throw new Error(`${where}: unknown system call ${name}`);
  }
  if (rule.when !== undefined && !Object.hasOwn(conditions, rule.when)) {
    throw new Error(`${where}: unknown condition ${rule.when}`);
  }
  const names: readonly string[] = Object.values(ARCH_NAMES).map((arch) => arch.docker);
  for (const filter of [rule.includes, rule.excludes]) {
    for (const [key, values] of Object.entries(filter ?? {})) {
      if (key !== 'arches') throw new Error(`${where}: unknown filter ${key}`);
      const wrong = values.find((value) => !names.includes(value));
      if (wrong !== undefined) throw new Error(`${where}: unknown architecture ${wrong}`);
    }
  }
}

/** The code for one system call: its rules one after the other, then the default. */
function decideByArguments(
  name: string,
  rules: readonly SeccompRule[],
  byDefault: number,
  profile: SeccompProfile,
): Instruction[] {
  const code: Instruction[] = [];
  let decided = false;
  let decidedAlways = false;
  for (const rule of rules) {
    if (decidedAlways) {
      throw new Error(`seccomp profile: a rule for ${name} is never reached, one before it always applies`);
    }
    if (decided) continue;
    let tail: Instruction[] = [ret(action(rule.action, rule.errnoRet, profile))];
    for (const argument of (rule.args ?? []).toReversed())
      tail = [...compare(name, argument, tail.length), ...tail];
    code.push(...tail);
    decided = (rule.args ?? []).length === 0;
    decidedAlways = decided && rule.when === undefined;
  }
  if (!decided) code.push(ret(byDefault));
  return code;
}

type Target = 'next' | 'pass' | 'fail';
type Step = readonly [code: number, k: number, whenTrue?: Target, whenFalse?: Target];

/**
 * Falls through where the argument fits, and jumps over the `tail` instructions that follow where it does not.
 * Arguments have 64 bits and the machine has 32: the high half is compared first.
 */
function compare(name: string, argument: SeccompArgument, tail: number): Instruction[] {
  const { index, value, valueTwo = 0, op } = argument;
  if (!Number.isInteger(index) || index < 0 || index > 5) {
    throw new Error(`seccomp profile: ${name} has no argument ${index}`);
  }
  const [high, low] = halves(name, value);
  const toHigh: Step = [LD_W_ABS, argumentHigh(index)];
  const toLow: Step = [LD_W_ABS, argumentLow(index)];
  const steps: Step[] = [];
  switch (op) {
    case 'SCMP_CMP_EQ':
      steps.push(toHigh, [JMP_JEQ_K, high, 'next', 'fail'], toLow, [JMP_JEQ_K, low, 'pass', 'fail']);
      break;
    case 'SCMP_CMP_NE':
      steps.push(toHigh, [JMP_JEQ_K, high, 'next', 'pass'], toLow, [JMP_JEQ_K, low, 'fail', 'pass']);
      break;
    case 'SCMP_CMP_GT':
    case 'SCMP_CMP_GE':
      steps.push(toHigh, [JMP_JGT_K, high, 'pass', 'next'], [JMP_JEQ_K, high, 'next', 'fail'], toLow);
      steps.push([op === 'SCMP_CMP_GT' ? JMP_JGT_K : JMP_JGE_K, low, 'pass', 'fail']);
      break;
    case 'SCMP_CMP_LT':
    case 'SCMP_CMP_LE':
      steps.push(toHigh, [JMP_JGT_K, high, 'fail', 'next'], [JMP_JEQ_K, high, 'next', 'pass'], toLow);
      steps.push([op === 'SCMP_CMP_LT' ? JMP_JGE_K : JMP_JGT_K, low, 'fail', 'pass']);
      break;
    case 'SCMP_CMP_MASKED_EQ': {
      const [wantHigh, wantLow] = halves(name, valueTwo);
      if ((wantHigh & ~high) !== 0 || (wantLow & ~low) !== 0) {
        throw new Error(`seccomp profile: ${name}: no argument masked by ${value} can equal ${valueTwo}`);
      }
      for (const [mask, want, toHalf] of [
        [high, wantHigh, toHigh],
        [low, wantLow, toLow],
      ] as const) {
        if (mask === 0) continue;
        steps.push(toHalf);
        if (mask !== 0xffff_ffff) steps.push([ALU_AND_K, mask]);
        steps.push([JMP_JEQ_K, want, 'next', 'fail']);
      }
      break;
    }
    default:
      throw new Error(`seccomp profile: ${name}: unknown operator ${op}`);
  }
  return steps.map(([code, k, whenTrue = 'next', whenFalse = 'next'], at) => {
    const pass = steps.length - 1 - at;
    const distance: Record<Target, number> = { next: 0, pass, fail: pass + tail };
    return jump(code, k, distance[whenTrue], distance[whenFalse]);
  });
}

/** A binary tree; where its left half is too long for a conditional jump, a JA leads to the right half. */
function decide(ranges: readonly Range[]): Instruction[] {
  const middle = ranges.length >> 1;
  const pivot = ranges[middle];
  if (pivot === undefined) throw new Error('seccomp: no ranges');
  if (middle === 0) return [...pivot.code];
  const left = decide(ranges.slice(0, middle));
  const right = decide(ranges.slice(middle));
  return left.length <= MAX_JUMP
    ? [jump(JMP_JGE_K, pivot.first, left.length, 0), ...left, ...right]
    : [jump(JMP_JGE_K, pivot.first, 0, 1), { code: JMP_JA, jt: 0, jf: 0, k: left.length }, ...left, ...right];
}

function action(name: string, errno: number | undefined, profile: SeccompProfile): number {
  const value = Object.hasOwn(ACTIONS, name) ? ACTIONS[name] : undefined;
  if (value === undefined) throw new Error(`seccomp profile: unknown action ${name}`);
  if (value !== RET_ERRNO) return value;
  const number = errno ?? profile.defaultErrnoRet ?? EPERM;
  // 0 would tell the caller that the refused call has succeeded.
  if (!Number.isInteger(number) || number < 1 || number > MAX_ERRNO) {
    throw new Error(`seccomp profile: errnoRet ${number} is not between 1 and ${MAX_ERRNO}`);
  }
  return RET_ERRNO | number;
}

function halves(name: string, value: number): [high: number, low: number] {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new Error(`seccomp profile: ${name}: ${value} is not an integer from 0 to 2^53-1`);
  }
  return [Math.floor(value / 2 ** 32), value % 2 ** 32];
}

function load(offset: number): Instruction {
  return { code: LD_W_ABS, jt: 0, jf: 0, k: offset };
}

function ret(k: number): Instruction {
  return { code: RET_K, jt: 0, jf: 0, k };
}

function jump(code: number, k: number, jt: number, jf: number): Instruction {
  if (jt > MAX_JUMP || jf > MAX_JUMP) throw new Error('seccomp profile: a rule has too many arguments');
  return { code, jt, jf, k };
}

/** struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; } */
function encode(program: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(program.length * 8);
  const view = new DataView(bytes.buffer);
  for (const [index, { code, jt, jf, k }] of program.entries()) {
    view.setUint16(index * 8, code, true);
    view.setUint8(index * 8 + 2, jt);
    view.setUint8(index * 8 + 3, jf);
    view.setUint32(index * 8 + 4, k >>> 0, true);
  }
  return bytes;
}
