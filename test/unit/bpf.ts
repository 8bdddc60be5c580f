/**
 * The classic BPF machine as seccomp runs it, for tests: struct seccomp_data in, SECCOMP_RET_* out. Refuses what the
 * kernel refuses at installation (kernel/seccomp.c seccomp_check_filter, net/core/filter.c bpf_check_classic).
 */
import assert from 'node:assert/strict';

export interface SeccompData {
  readonly nr: number;
  readonly arch: number;
  readonly args?: readonly bigint[];
}

export type Decision = 'allow' | 'kill' | `errno ${number}` | `unknown ${number}`;

const RET_CONSTANT = 0x06;
const LD_W_ABS = 0x20;
const ALU_AND_K = 0x54;
const JA = 0x05;
const CONDITIONAL: Readonly<Record<number, (a: number, k: number) => boolean>> = {
  0x15: (a, k) => a === k,
  0x25: (a, k) => a > k,
  0x35: (a, k) => a >= k,
};

export function check(program: Uint8Array): void {
  assert.equal(program.length % 8, 0);
  const length = program.length / 8;
  assert.ok(length >= 1 && length <= 4096, `${length} instructions`);
  for (let at = 0; at < length; at++) {
    const { code, jt, jf, k } = instruction(program, at);
    if (code in CONDITIONAL)
      assert.ok(at + 1 + Math.max(jt, jf) < length, `jump out of the program at ${at}`);
    else if (code === JA) assert.ok(at + 1 + k < length, `jump out of the program at ${at}`);
    else if (code === LD_W_ABS) assert.ok(k % 4 === 0 && k < 64, `load of ${k} at ${at}`);
    else assert.ok(code === RET_CONSTANT || code === ALU_AND_K, `instruction ${code} at ${at}`);
  }
  assert.equal(instruction(program, length - 1).code, RET_CONSTANT, 'the program runs past its end');
}

/** What the program decides, and in how many instructions. */
export function run(program: Uint8Array, call: SeccompData): { decision: Decision; steps: number } {
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, call.nr, true);
  data.setUint32(4, call.arch, true);
  for (const [index, value] of (call.args ?? []).entries()) data.setBigUint64(16 + 8 * index, value, true);
  let a = 0;
  let at = 0;
  for (let steps = 1; ; steps++) {
    const { code, jt, jf, k } = instruction(program, at);
    at++;
    if (code === RET_CONSTANT) return { decision: decisionOf(k), steps };
    else if (code === LD_W_ABS) a = data.getUint32(k, true);
    else if (code === ALU_AND_K) a = (a & k) >>> 0;
    else if (code === JA) at += k;
    else {
      const holds = CONDITIONAL[code];
      assert.ok(holds !== undefined, `instruction ${code}`);
      at += holds(a, k) ? jt : jf;
    }
  }
}

function instruction(program: Uint8Array, at: number) {
  const view = new DataView(program.buffer, program.byteOffset + at * 8, 8);
  return {
    code: view.getUint16(0, true),
    jt: view.getUint8(2),
    jf: view.getUint8(3),
    k: view.getUint32(4, true),
  };
}

function decisionOf(value: number): Decision {
  if (value === 0x7fff_0000) return 'allow';
  if (value === 0x8000_0000) return 'kill';
  if (value >>> 16 === 5) return `errno ${value & 0xffff}`;
  return `unknown ${value}`;
}
