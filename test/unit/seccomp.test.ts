import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  compileSeccomp,
  compileStages,
  currentArch,
  loadProfile,
  type SeccompOptions,
} from '../../src/runner/seccomp/compile.ts';
import type { SeccompProfile, SeccompRule } from '../../src/runner/seccomp/profile.ts';
import { check, type Decision, run } from './bpf.ts';

const AUDIT = { x86_64: 0xc000003e, aarch64: 0xc00000b7 } as const;
type Arch = keyof typeof AUDIT;
const ARCHES = ['x86_64', 'aarch64'] as const;
const I386 = 0x40000003;
const ARM = 0x40000028;

const SYSCALLS = JSON.parse(
  readFileSync(new URL('../../src/runner/seccomp/syscalls.json', import.meta.url), 'utf8'),
) as Record<Arch, Record<string, number>>;
const PROFILE = loadProfile();

const PLAIN: SeccompOptions = { writeXorExecute: false, unaccountedMemory: 'allow' };
const STRICT: SeccompOptions = { writeXorExecute: true, unaccountedMemory: 'deny' };
const VARIANTS: SeccompOptions[] = [
  PLAIN,
  STRICT,
  { writeXorExecute: true, unaccountedMemory: 'allow' },
  { writeXorExecute: false, unaccountedMemory: 'deny' },
];

const programs = new Map<string, Uint8Array>();
function program(arch: Arch, options: SeccompOptions): Uint8Array {
  const key = `${arch} ${options.writeXorExecute} ${options.unaccountedMemory}`;
  const known = programs.get(key) ?? compileSeccomp(PROFILE, arch, options);
  programs.set(key, known);
  return known;
}

function numberOf(arch: Arch, name: string): number {
  const nr = SYSCALLS[arch][name];
  assert.ok(nr !== undefined, `${name} does not exist on ${arch}`);
  return nr;
}

function decide(
  arch: Arch,
  name: string,
  args: readonly (number | bigint)[] = [],
  options = PLAIN,
): Decision {
  return run(program(arch, options), { nr: numberOf(arch, name), arch: AUDIT[arch], args: args.map(BigInt) })
    .decision;
}

const UPPER = 0xdead_beef_0000_0000n;
const EPERM = 'errno 1';
const EACCES = 'errno 13';
const EINVAL = 'errno 22';
const ENOSYS = 'errno 38';
const EPROTONOSUPPORT = 'errno 93';
const EAFNOSUPPORT = 'errno 97';

const ALLOWED = `read write readv writev pread64 pwrite64 openat close close_range fstat newfstatat statx
  lseek mmap mprotect munmap mremap brk madvise mincore msync rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait
  sigaltstack ioctl fcntl dup dup3 pipe2 execve execveat exit exit_group wait4 waitid kill tgkill futex futex_waitv
  set_tid_address set_robust_list rseq getrandom getrusage prlimit64 setsid setpgid getpid getppid gettid getuid
  getgroups setuid setgid setgroups setresuid capget sched_yield sched_getaffinity clock_gettime clock_nanosleep
  nanosleep timer_create timerfd_create eventfd2 epoll_create1 epoll_ctl epoll_pwait ppoll pselect6 signalfd4
  inotify_init1 getdents64 getcwd chdir fchdir mkdirat unlinkat renameat2 linkat symlinkat readlinkat fchmod fchmodat
  fchmodat2 fchown utimensat faccessat faccessat2 ftruncate fallocate fsync fdatasync flock sendfile splice
  copy_file_range bind listen accept4 connect sendto recvfrom sendmsg recvmsg getsockopt setsockopt shutdown
  memfd_create shmget shmat semget msgget mq_open prctl seccomp landlock_restrict_self uname sysinfo umask
  pidfd_open pidfd_send_signal restart_syscall mseal membarrier`.split(/\s+/);

const ALLOWED_X86 =
  `open stat lstat access pipe select poll fork vfork epoll_wait arch_prctl getdents rename mkdir
  unlink readlink time alarm dup2 creat`.split(/\s+/);

const REFUSED = Object.fromEntries<Decision>([
  ...`mount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr chroot
    swapon swapoff unshare setns ptrace process_vm_readv process_vm_writev bpf perf_event_open keyctl add_key
    request_key userfaultfd kexec_load kexec_file_load init_module finit_module delete_module reboot settimeofday
    clock_settime clock_adjtime adjtimex open_by_handle_at name_to_handle_at quotactl quotactl_fd acct nfsservctl
    lookup_dcookie vmsplice fanotify_init fanotify_mark process_madvise process_mrelease pidfd_getfd kcmp
    remap_file_pages mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages syslog
    sethostname setdomainname vhangup lsm_get_self_attr lsm_set_self_attr lsm_list_modules`
    .split(/\s+/)
    .map((name): [string, Decision] => [name, EPERM]),
  ...`clone3 io_uring_setup io_uring_enter io_uring_register io_setup io_submit io_getevents io_pgetevents io_cancel
    io_destroy cachestat statmount listmount memfd_secret`
    .split(/\s+/)
    .map((name): [string, Decision] => [name, ENOSYS]),
]);
const REFUSED_X86 =
  `iopl ioperm modify_ldt uselib ustat sysfs _sysctl create_module query_module get_kernel_syms
  get_thread_area set_thread_area`.split(/\s+/);

/** [call, arguments, decision, options]: on both architectures. */
const TABLE: [string, (number | bigint)[], Decision, SeccompOptions?][] = [
  // clone: thread, vfork, posix_spawn, fork, and each namespace.
  ['clone', [0x3d0f00], 'allow'],
  ['clone', [0x4111], 'allow'],
  ['clone', [0x1200011], 'allow'],
  ['clone', [17], 'allow'],
  ['clone', [UPPER | 17n], 'allow'],
  // CLONE_PARENT
  ['clone', [0x8011], EPERM],
  ['clone', [UPPER | 0x8011n], EPERM],
  ...[0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000].flatMap(
    (flag): [string, bigint[], Decision][] => [
      ['clone', [BigInt(flag)], EPERM],
      ['clone', [BigInt(flag) | 17n], EPERM],
      ['clone', [UPPER | BigInt(flag) | 17n], EPERM],
    ],
  ),
  // The kernel reads the command of ioctl as 32 bits.
  ['ioctl', [0, 0x5401], 'allow'],
  ['ioctl', [0, 0x5413], 'allow'],
  ['ioctl', [0, 0x5412], EPERM],
  ['ioctl', [0, UPPER | 0x5412n], EPERM],
  ['ioctl', [0, (1n << 32n) | 0x5412n], EPERM],
  ['ioctl', [0, 0x541c], EPERM],
  ['ioctl', [0, UPPER | 0x541cn], EPERM],
  ['ioctl', [0, 0x5423], EPERM],
  ['ioctl', [0x5412, 0x5401, 0x5412], 'allow'],
  // socket
  ...[1, 2, 5].map((type): [string, number[], Decision] => ['socket', [1, type, 0], 'allow']),
  ['socket', [1, 0x80801, 0], 'allow'],
  ['socket', [1, 3, 0], EPROTONOSUPPORT],
  ...[2, 10].flatMap((family): [string, (number | bigint)[], Decision][] => [
    ['socket', [family, 1, 0], 'allow'],
    ['socket', [family, 0x80001, 6], 'allow'],
    ['socket', [family, 0x802, 0], 'allow'],
    ['socket', [family, 2, 17], 'allow'],
    ['socket', [UPPER | BigInt(family), UPPER | 1n, UPPER | 6n], 'allow'],
    ['socket', [family, 3, 0], EPERM],
    ['socket', [family, 3, 255], EPERM],
    ['socket', [family, 0x80803, 1], EPERM],
    ['socket', [UPPER | BigInt(family), UPPER | 3n, 1], EPERM],
    ['socket', [family, 10, 0x300], EPERM],
    ['socket', [family, 2, 1], EPROTONOSUPPORT],
    ['socket', [family, 1, 132], EPROTONOSUPPORT],
    ['socket', [family, 5, 132], EPROTONOSUPPORT],
    ['socket', [family, 1, 262], EPROTONOSUPPORT],
    ['socket', [family, 2, 115], EPROTONOSUPPORT],
    ['socket', [family, 6, 33], EPROTONOSUPPORT],
    ['socket', [family, 2, 6], EPROTONOSUPPORT],
  ]),
  ['socket', [16, 3, 0], 'allow'],
  ['socket', [16, 0x80003, 0], 'allow'],
  ['socket', [16, 2, 0], 'allow'],
  ...[2, 9, 12, 15, 16].map((protocol): [string, number[], Decision] => [
    'socket',
    [16, 3, protocol],
    EPROTONOSUPPORT,
  ]),
  ...[0, 3, 4, 5, 9, 17, 21, 29, 30, 31, 38, 40, 43, 44, 45, 2n | (1n << 31n)].flatMap(
    (family): [string, (number | bigint)[], Decision][] => [
      ['socket', [family, 3, 0], EAFNOSUPPORT],
      ['socket', [family, 1, 0], EAFNOSUPPORT],
      ['socket', [UPPER | BigInt(family), 2, 0], EAFNOSUPPORT],
    ],
  ),
  ['socketpair', [1, 1, 0], 'allow'],
  ['socketpair', [1, 0x80805, 0], 'allow'],
  ['socketpair', [1, 3, 0], EPROTONOSUPPORT],
  ['socketpair', [30, 5, 0], EAFNOSUPPORT],
  // personality
  ['personality', [0], 'allow'],
  ['personality', [8], 'allow'],
  ['personality', [0xffffffff], 'allow'],
  ['personality', [0xffffffffffffffffn], 'allow'],
  ['personality', [0x40000], EPERM],
  ['personality', [0x400000], EPERM],
  ['personality', [UPPER | 0x40000n], EPERM],
  ['personality', [0x40008], EPERM],
  ['personality', [0x20000], EPERM],
  // Device nodes: mode_t has 16 bits in the kernel.
  ...(
    [
      [0o644, 'allow'],
      [0o100644, 'allow'],
      [0o10600, 'allow'],
      [0o140600, 'allow'],
      [0x10000n | 0o10600n, 'allow'],
      [0o20600, EPERM],
      [0o60600, EPERM],
      [UPPER | 0o20600n, EPERM],
      [0x10000n | 0o20600n, EPERM],
      [0o40700, EPERM],
    ] as [number | bigint, Decision][]
  ).map(([mode, decision]): [string, (number | bigint)[], Decision] => ['mknodat', [0, 0, mode], decision]),
  // seccomp, prctl, fcntl, madvise
  ['seccomp', [1, 0, 0], 'allow'],
  ['seccomp', [1, 1, 0], 'allow'],
  ['seccomp', [2, 0, 0], 'allow'],
  ['seccomp', [1, 8, 0], EINVAL],
  ['seccomp', [1, UPPER | 9n, 0], EINVAL],
  ['prctl', [38, 1], 'allow'],
  ['prctl', [15, 0], 'allow'],
  ['prctl', [35, 14], EPERM],
  ['prctl', [UPPER | 35n, 14], EPERM],
  ['prctl', [67, 1], EINVAL],
  ['fcntl', [3, 4, 0], 'allow'],
  ['fcntl', [3, 1030, 0], 'allow'],
  ['fcntl', [3, 1024, 1], EINVAL],
  ['fcntl', [3, UPPER | 1024n, 1], EINVAL],
  ['fcntl', [3, 1040, 1], EINVAL],
  ['madvise', [0, 0, 4], 'allow'],
  ['madvise', [0, 0, 12], EINVAL],
  // Write xor execute
  ...(['mmap', 'mprotect', 'pkey_mprotect'] as const).map((name): [string, number[], Decision] => [
    name,
    [0, 4096, 7],
    'allow',
  ]),
  ['mmap', [0, 4096, 3], 'allow', STRICT],
  ['mmap', [0, 4096, 5], 'allow', STRICT],
  ['mmap', [0, 4096, 6], EACCES, STRICT],
  ['mmap', [0, 4096, 7], EACCES, STRICT],
  ['mmap', [0, 4096, UPPER | 7n], EACCES, STRICT],
  ['mprotect', [0, 4096, 3], 'allow', STRICT],
  ['mprotect', [0, 4096, 4], EACCES, STRICT],
  ['mprotect', [0, 4096, 5], EACCES, STRICT],
  ['mprotect', [0, 4096, UPPER | 5n], EACCES, STRICT],
  ['pkey_mprotect', [0, 4096, 5, 0], EACCES, STRICT],
  ['pkey_mprotect', [0, 4096, 1, 0], 'allow', STRICT],
  ['shmat', [0, 0, 0o100000], 'allow'],
  ['shmat', [0, 0, 0o100000], EACCES, STRICT],
  ['shmat', [0, 0, UPPER | 0o110000n], EACCES, STRICT],
  ['shmat', [0, 0, 0o10000], 'allow', STRICT],
  // Memory that no process has
  ...['memfd_create', 'shmget', 'msgget', 'semget'].flatMap(
    (name): [string, number[], Decision, SeccompOptions][] => [
      [name, [], ENOSYS, STRICT],
      [name, [], ENOSYS, { writeXorExecute: false, unaccountedMemory: 'deny' }],
      [name, [], 'allow', { writeXorExecute: true, unaccountedMemory: 'allow' }],
    ],
  ),
];

for (const arch of ARCHES) {
  describe(`seccomp filter, ${arch}`, () => {
    test('is what the kernel takes, and short', () => {
      for (const options of VARIANTS) {
        check(program(arch, options));
        const instructions = program(arch, options).length / 8;
        assert.ok(instructions < 640, String(instructions));
      }
    });

    test('allows what programs need', () => {
      for (const name of [...ALLOWED, ...(arch === 'x86_64' ? ALLOWED_X86 : [])]) {
        assert.equal(decide(arch, name), 'allow', name);
      }
    });

    test('refuses by name', () => {
      for (const options of VARIANTS) {
        for (const [name, decision] of Object.entries(REFUSED)) {
          assert.equal(decide(arch, name, [], options), decision, name);
          assert.equal(decide(arch, name, [UPPER, 1, 2, 3, 4, 5], options), decision, name);
        }
      }
      if (arch === 'x86_64') for (const name of REFUSED_X86) assert.equal(decide(arch, name), EPERM, name);
    });

    test('looks at arguments as the kernel reads them', () => {
      for (const [name, args, decision, options] of TABLE) {
        assert.equal(decide(arch, name, args, options), decision, `${name}(${args.join(', ')})`);
      }
    });

    test('knows the numbers that the kernel knows, the others do not exist', () => {
      const known = new Set(Object.values(SYSCALLS[arch]));
      assert.equal(Math.max(...known), 469);
      const unknown = [470, 600, 0x3fffffff, 0x40000000, 0x40000000 + 1, 0x40000208, 0x7fffffff, 0xffffffff];
      for (let nr = 0; nr < 470; nr++) if (!known.has(nr)) unknown.push(nr);
      for (const nr of unknown) {
        assert.equal(run(program(arch, PLAIN), { nr, arch: AUDIT[arch] }).decision, ENOSYS, String(nr));
      }
    });

    test('does not judge the table of another architecture', () => {
      const others = [I386, ARM, 0, AUDIT.x86_64, AUDIT.aarch64].filter((other) => other !== AUDIT[arch]);
      for (const other of others) {
        for (let nr = 0; nr < 500; nr++) {
          assert.equal(run(program(arch, PLAIN), { nr, arch: other }).decision, 'kill');
        }
      }
    });

    test('decides in a few instructions', () => {
      for (const name of ALLOWED) {
        const { steps } = run(program(arch, STRICT), { nr: numberOf(arch, name), arch: AUDIT[arch] });
        assert.ok(steps <= 32, `${name} takes ${steps}`);
      }
      const { steps } = run(program(arch, STRICT), { nr: numberOf(arch, 'read'), arch: AUDIT[arch] });
      assert.ok(steps <= 12, `read takes ${steps}`);
    });

    test('agrees with a direct reading of the profile', () => {
      const numbers = Object.values(SYSCALLS[arch]);
      const interesting = PROFILE.syscalls.flatMap((rule) =>
        (rule.args ?? []).flatMap(({ value, valueTwo }) => [BigInt(value), BigInt(valueTwo ?? 0)]),
      );
      const low = fc.oneof(fc.constantFrom(...interesting), fc.bigInt({ min: 0n, max: 0xffffn }));
      const argument = fc.oneof(
        low,
        fc.tuple(low, low).map(([a, b]) => a ^ b),
        fc.tuple(low, fc.bigInt({ min: 0n, max: 0xffffffffn })).map(([a, high]) => (high << 32n) | a),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      );
      const withArguments = PROFILE.syscalls
        .filter((rule) => rule.args)
        .flatMap((rule) => rule.names)
        .flatMap((name) => SYSCALLS[arch][name] ?? []);
      const nr = fc.oneof(
        fc.constantFrom(...withArguments),
        fc.constantFrom(...numbers),
        fc.integer({ min: 0, max: 520 }),
        fc.integer({ min: 0, max: 0xffffffff }),
      );
      const args = fc.array(argument, { minLength: 6, maxLength: 6 });
      fc.assert(
        fc.property(nr, args, fc.constantFrom(...VARIANTS), (nr, args, options) => {
          const { decision } = run(program(arch, options), { nr, arch: AUDIT[arch], args });
          assert.equal(decision, naive(PROFILE, arch, options, nr, args));
        }),
        { numRuns: 20_000 },
      );
    });

    test('compiles every operator as it is meant, on all 64 bits', () => {
      const operators = ['EQ', 'NE', 'LT', 'LE', 'GT', 'GE', 'MASKED_EQ'].map((name) => `SCMP_CMP_${name}`);
      const near = fc.tuple(
        fc.constantFrom(0, 1, 2, 2 ** 32 - 1, 2 ** 32, 2 ** 33 + 5),
        fc.integer({ min: 0, max: 3 }),
      );
      const value = fc.oneof(
        near.map(([a, b]) => a + b),
        fc.maxSafeNat(),
      );
      const condition = fc.record({
        index: fc.integer({ min: 0, max: 5 }),
        value,
        valueTwo: value,
        op: fc.constantFrom(...operators),
      });
      const rule = fc.record({
        names: fc.constant(['read']),
        action: fc.constant('SCMP_ACT_ERRNO'),
        errnoRet: fc.integer({ min: 1, max: 4095 }),
        args: fc.array(condition, { minLength: 1, maxLength: 3 }),
      });
      const input = value.map(BigInt);
      fc.assert(
        fc.property(
          fc.array(rule, { maxLength: 4 }),
          fc.array(input, { minLength: 6, maxLength: 6 }),
          (rules, args) => {
            const possible = rules.map((each) => ({ ...each, args: each.args.map(withinMask) }));
            const profile = { ...PROFILE, syscalls: possible };
            const compiled = compileSeccomp(profile, arch, PLAIN);
            check(compiled);
            const nr = numberOf(arch, 'read');
            const { decision } = run(compiled, { nr, arch: AUDIT[arch], args });
            assert.equal(decision, naive(profile, arch, PLAIN, nr, args));
          },
        ),
        { numRuns: 1000 },
      );
    });

    test('jumps over more than 255 instructions', () => {
      const names = Object.keys(SYSCALLS[arch]);
      const syscalls = names.map((name, at) => ({
        names: [name],
        action: 'SCMP_ACT_ALLOW',
        args: [{ index: 0, value: at + 1, op: 'SCMP_CMP_EQ' }],
      }));
      const compiled = compileSeccomp({ ...PROFILE, syscalls }, arch, PLAIN);
      check(compiled);
      for (const [at, name] of names.entries()) {
        const call = { nr: numberOf(arch, name), arch: AUDIT[arch] };
        assert.equal(run(compiled, { ...call, args: [BigInt(at + 1)] }).decision, 'allow');
        assert.equal(run(compiled, { ...call, args: [BigInt(at + 2)] }).decision, EPERM);
      }
    });
  });
}

test('mknod makes no device nodes either', () => {
  assert.equal(decide('x86_64', 'mknod', [0, 0o10600]), 'allow');
  assert.equal(decide('x86_64', 'mknod', [0, 0o20600]), EPERM);
});

describe('a profile with a mistake is refused by name', () => {
  const rule: SeccompRule = { names: ['read'], action: 'SCMP_ACT_ALLOW' };
  const argument = { index: 0, value: 1, op: 'SCMP_CMP_EQ' };
  const wrong: [string, Partial<SeccompProfile>, RegExp][] = [
    ['system call', { syscalls: [{ ...rule, names: ['raed'] }] }, /unknown system call raed/],
    ['action', { syscalls: [{ ...rule, action: 'SCMP_ACT_NOTIFY' }] }, /unknown action SCMP_ACT_NOTIFY/],
    ['default action', { defaultAction: 'toString' }, /unknown action toString/],
    [
      'operator',
      { syscalls: [{ ...rule, args: [{ ...argument, op: 'SCMP_CMP' }] }] },
      /unknown operator SCMP_CMP$/,
    ],
    ['argument', { syscalls: [{ ...rule, args: [{ ...argument, index: 6 }] }] }, /read has no argument 6/],
    ['value', { syscalls: [{ ...rule, args: [{ ...argument, value: 2 ** 60 }] }] }, /is not an integer/],
    [
      'negative value',
      { syscalls: [{ ...rule, args: [{ ...argument, value: -1 }] }] },
      /-1 is not an integer/,
    ],
    [
      'mask',
      { syscalls: [{ ...rule, args: [{ index: 0, value: 1, valueTwo: 2, op: 'SCMP_CMP_MASKED_EQ' }] }] },
      /no argument masked by 1 can equal 2/,
    ],
    ['condition', { syscalls: [{ ...rule, when: 'sometimes' }] }, /unknown condition sometimes/],
    ['key', { syscalls: [{ ...rule, arguments: [] } as SeccompRule] }, /unknown key arguments/],
    ['filter', { syscalls: [{ ...rule, includes: { caps: ['X'] } } as SeccompRule] }, /unknown filter caps/],
    [
      'architecture of a filter',
      { syscalls: [{ ...rule, excludes: { arches: ['x86_64'] } }] },
      /architecture x86_64/,
    ],
    ['errno', { syscalls: [{ ...rule, action: 'SCMP_ACT_ERRNO', errnoRet: 0 }] }, /errnoRet 0/],
    [
      'rule after the last word',
      { syscalls: [rule, { ...rule, action: 'SCMP_ACT_ERRNO' }] },
      /never reached/,
    ],
    ['missing architecture', { archMap: [] }, /archMap has no SCMP_ARCH_X86_64/],
  ];
  for (const [what, change, message] of wrong) {
    test(what, () => {
      assert.throws(() => compileSeccomp({ ...PROFILE, ...change }, 'x86_64', PLAIN), message);
    });
  }
});

describe('the filter in two stages', () => {
  /** The stricter answer of two, as seccomp(2) has it: kill before errno before allow. */
  const both = (one: Decision, other: Decision): Decision => {
    if (one === 'kill' || other === 'kill') return 'kill';
    return one === 'allow' ? other : one;
  };
  /** What a copy of the zygote still does when its plan has come; the kernel refuses it where no capability is. */
  const LAST_STEPS: readonly [name: string, args: bigint[]][] = [
    ['move_mount', [6n, 1n, 8n, 1n, 0x44n]],
    ['mount', [0n, 1n, 0n, 38n, 1n]],
    ['unshare', [0x200_0000n]],
    ['unshare', [UPPER | 0x200_0000n]],
  ];
  const isLastStep = (arch: Arch, nr: number, args: readonly bigint[]): boolean => {
    const low = (value = 0n) => value & 0xffff_ffffn;
    if (nr === numberOf(arch, 'move_mount')) return true;
    if (nr === numberOf(arch, 'mount')) return args[3] === 38n;
    return nr === numberOf(arch, 'unshare') && low(args[0]) === 0x200_0000n;
  };

  for (const arch of ARCHES) {
    for (const options of VARIANTS) {
      const stages = compileStages(PROFILE, arch, options);
      const decision = (stage: Uint8Array, nr: number, args: readonly bigint[]) =>
        run(stage, { nr, arch: AUDIT[arch], args }).decision;

      test(`${arch}, ${JSON.stringify(options)}: the kernel takes each, and what a run installs is short`, () => {
        for (const stage of Object.values(stages)) check(stage as Uint8Array);
        assert.ok(stages.copy.length / 8 < 130, `${stages.copy.length / 8} instructions`);
        assert.ok(stages.command.length / 8 < 60, `${stages.command.length / 8} instructions`);
      });

      test(`${arch}, ${JSON.stringify(options)}: together they are the whole filter`, () => {
        const interesting = fc.constantFrom(
          0n,
          17n,
          38n,
          0x8000n,
          0x200_0000n,
          0x1000_0000n,
          7n,
          6n,
          0x4111n,
        );
        const argument = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), interesting);
        const number = fc.oneof(fc.integer({ min: 0, max: 600 }), fc.integer({ min: 0, max: 2 ** 32 - 1 }));
        fc.assert(
          fc.property(number, fc.array(argument, { minLength: 6, maxLength: 6 }), (nr, args) => {
            const base = decision(stages.base, nr, args);
            const command = both(base, decision(stages.command, nr, args));
            const plain = { ...options, writeXorExecute: false };
            assert.equal(command, decision(program(arch, plain), nr, args), `command: ${nr} ${args.join()}`);
            const copy = both(base, decision(stages.copy, nr, args));
            const whole = decision(program(arch, options), nr, args);
            assert.equal(copy, isLastStep(arch, nr, args) ? 'allow' : whole, `copy: ${nr} ${args.join()}`);
          }),
          { numRuns: 3000 },
        );
      });

      test(`${arch}, ${JSON.stringify(options)}: the last steps of a copy, and nothing like them`, () => {
        for (const [name, args] of LAST_STEPS)
          assert.equal(decision(stages.copy, numberOf(arch, name), args), 'allow', name);
        for (const [name, args] of [
          ['mount', [0n, 1n, 0n, 4096n]],
          ['mount', [0n, 1n, 0n, UPPER | 38n]],
          ['unshare', [0x1000_0000n]],
          ['unshare', [0x1200_0000n]],
          ['open_tree', [0n, 0n, 1n]],
          ['setns', [3n, 0n]],
          ['umount2', [1n, 2n]],
          ['clone', [0x1000_0011n]],
          ['clone', [0x8011n]],
        ] as const)
          assert.equal(decision(stages.copy, numberOf(arch, name), args), EPERM, `${name} ${args.join()}`);
      });

      test(`${arch}, ${JSON.stringify(options)}: a foreign table of numbers is killed by each`, () => {
        for (const stage of Object.values(stages))
          for (const foreign of [I386, ARM])
            assert.equal(run(stage as Uint8Array, { nr: 1, arch: foreign }).decision, 'kill');
      });
    }
  }
});

test('includes and excludes choose by architecture', () => {
  const only = (rule: Partial<SeccompRule>, arch: Arch) => {
    const syscalls = [{ names: ['ptrace'], action: 'SCMP_ACT_ALLOW', ...rule }];
    const compiled = compileSeccomp({ ...PROFILE, syscalls }, arch, PLAIN);
    return run(compiled, { nr: numberOf(arch, 'ptrace'), arch: AUDIT[arch] }).decision;
  };
  assert.equal(only({ includes: { arches: ['amd64'] } }, 'x86_64'), 'allow');
  assert.equal(only({ includes: { arches: ['amd64'] } }, 'aarch64'), EPERM);
  assert.equal(only({ excludes: { arches: ['amd64'] } }, 'x86_64'), EPERM);
  assert.equal(only({ excludes: { arches: ['amd64'] } }, 'aarch64'), 'allow');
});

test('the architecture of this machine, or an error that says which are supported', () => {
  assert.equal(currentArch('x64'), 'x86_64');
  assert.equal(currentArch('arm64'), 'aarch64');
  assert.throws(() => currentArch('riscv64'), /riscv64.*x64.*arm64/);
});

test('the two tables have the numbers that everybody knows', () => {
  const { x86_64, aarch64 } = SYSCALLS;
  assert.deepEqual([x86_64['read'], x86_64['execve'], x86_64['clone3']], [0, 59, 435]);
  assert.deepEqual([aarch64['read'], aarch64['execve'], aarch64['clone3']], [63, 221, 435]);
  // Since Linux 5.1 (424) new calls have one number on all architectures.
  for (const [name, number] of Object.entries(aarch64))
    if (number >= 424) assert.equal(x86_64[name], number, name);
});

/** An own reading of the profile: no tree, no halves, no machine. */
function naive(
  profile: SeccompProfile,
  arch: Arch,
  options: SeccompOptions,
  nr: number,
  args: readonly bigint[],
): Decision {
  const name = Object.keys(SYSCALLS[arch]).find((each) => SYSCALLS[arch][each] === nr);
  if (name === undefined) return ENOSYS;
  for (const rule of profile.syscalls) {
    if (!rule.names.includes(name)) continue;
    if (rule.when === 'writeXorExecute' && !options.writeXorExecute) continue;
    if (rule.when === 'denyUnaccountedMemory' && options.unaccountedMemory !== 'deny') continue;
    const fits = (rule.args ?? []).every(({ index, value, valueTwo, op }) => {
      const is = args[index] ?? 0n;
      const want = BigInt(value);
      return {
        SCMP_CMP_EQ: is === want,
        SCMP_CMP_NE: is !== want,
        SCMP_CMP_LT: is < want,
        SCMP_CMP_LE: is <= want,
        SCMP_CMP_GT: is > want,
        SCMP_CMP_GE: is >= want,
        SCMP_CMP_MASKED_EQ: (is & want) === BigInt(valueTwo ?? 0),
      }[op];
    });
    if (fits) return rule.action === 'SCMP_ACT_ALLOW' ? 'allow' : `errno ${rule.errnoRet ?? 1}`;
  }
  return `errno ${profile.defaultErrnoRet ?? 1}`;
}

function withinMask<T extends { value: number; valueTwo: number; op: string }>(condition: T): T {
  if (condition.op !== 'SCMP_CMP_MASKED_EQ') return condition;
  return { ...condition, valueTwo: Number(BigInt(condition.value) & BigInt(condition.valueTwo)) };
}
