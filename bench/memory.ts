/** What the server's own processes need while a run prints much and while a client sends much. */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Server } from '../test/support/server.ts';
import { open, post, readText } from './client.ts';
import { mb, ms, type PromiseKept, type Section } from './report.ts';
import type { Guard } from './servers.ts';

const MIB = 1024 * 1024;
const BUDGET = 250e6;
const OUTPUT_BYTES = 100e6;
const KEPT_BYTES = 10 * MIB;
const FRAMING_MAX = 200;

interface Peak {
  readonly names: readonly string[];
  /** Of each process, by the kernel's own account since its start. */
  readonly rss: readonly number[];
  readonly sum: number;
  /**
   * The sum, with the pages of the one Node program that both map counted once. At most this much was in use: the
   * two peaks need not have come at the same moment.
   */
  readonly together: number;
}

const NAMES = { 'one process': 'one process', warm: 'gateway and runner apart' } as const;

interface Trial {
  readonly label: string;
  readonly form: keyof typeof NAMES;
  /** Resolves to milliseconds, or to what was wrong. */
  readonly run: (server: Server) => Promise<number | { readonly wrong: string }>;
}

/** Each trial on a server of its own, so that no peak is another's. */
export async function measureMemory(
  uploadBytes: number,
  forms: readonly (keyof typeof NAMES)[],
  guard: Guard,
): Promise<Section> {
  const trials: Trial[] = forms.flatMap((form) => [
    { label: 'idle, one run', form, run: (server) => printed(server, 'a', 1) },
    { label: '100 MB of letters printed', form, run: (server) => printed(server, 'a', OUTPUT_BYTES) },
    {
      label: '100 MB of control characters printed',
      form,
      run: (server) => printed(server, '\\x01', OUTPUT_BYTES),
    },
    { label: `${mb(uploadBytes)} MB uploaded`, form, run: (server) => uploaded(server, uploadBytes) },
  ]);
  const rows: string[][] = [];
  const promises: PromiseKept[] = [];
  const data: unknown[] = [];
  for (const { label, form, run } of trials) {
    const server = await guard.start(form);
    try {
      const took = await run(server);
      const peak = peakOf(server);
      const wall = typeof took === 'number' ? ms(took, 0) : 'wrong';
      const each = peak.rss.map((bytes, at) => `${peak.names[at] ?? ''} ${mb(bytes)}`).join(' + ');
      rows.push([`${label}, ${NAMES[form]}`, wall, each, mb(peak.sum), mb(peak.together)]);
      data.push({ label, form, took, ...peak });
      const promise = `${label}: server under ${mb(BUDGET)} MB, ${NAMES[form]}`;
      if (typeof took === 'number')
        promises.push({ promise, measured: `${mb(peak.together)} MB`, kept: peak.together < BUDGET });
      else promises.push({ promise, measured: took.wrong.slice(0, 200), kept: false, wrong: true });
    } finally {
      await guard.stop(server);
    }
  }
  const table = {
    title:
      'Memory of the server (MB): the peak resident size of each process; the runs themselves are not in it',
    columns: ['', 'wall ms', 'peak of each', 'sum', 'together'],
    rows,
    notes: ['together: the sum, with the program that both processes map counted once'],
  };
  return { name: 'memory', tables: [table], promises, data };
}

async function printed(server: Server, unit: string, bytes: number): Promise<number | { wrong: string }> {
  const code = `import sys\nleft = ${String(bytes)}\nwhile left:\n n = min(left, 1 << 16)\n sys.stdout.write('${unit}' * n)\n left -= n\n`;
  const { status, text, ms: took } = await post(server, '/run_py', { code });
  const { returncode, stdout } = JSON.parse(text) as { returncode?: unknown; stdout?: unknown };
  if (status !== 200 || returncode !== 0 || typeof stdout !== 'string') return { wrong: text.slice(0, 200) };
  const kept = Math.min(bytes, KEPT_BYTES);
  const marker = /\[nox: (\d+) bytes left out\]/.exec(stdout);
  const fits =
    stdout.length >= kept && stdout.length < kept + FRAMING_MAX && Number(marker?.[1] ?? 0) === bytes - kept;
  return fits ? took : { wrong: `${String(stdout.length)} characters, ${marker?.[0] ?? 'no marker'}` };
}

/** The file is made while it is sent and never held: a block, its beginning changed each time. */
async function uploaded(server: Server, bytes: number): Promise<number | { wrong: string }> {
  const began = performance.now();
  const boundary = 'nox-bench-boundary';
  const head = `--${boundary}\r\nContent-Disposition: form-data; name="f"; filename="big"\r\n\r\n`;
  const tail = `\r\n--${boundary}--\r\n`;
  const headers = {
    'content-type': `multipart/form-data; boundary=${boundary}`,
    'content-length': head.length + bytes + tail.length,
  };
  const { call, reply } = open(server, '/put?path=big.bin', headers);
  call.write(head);
  const hash = createHash('sha256');
  const seed = randomBytes(256 * 1024);
  for (let left = bytes; left > 0;) {
    const block = Buffer.from(seed.subarray(0, Math.min(left, seed.length)));
    if (block.length >= 4) block.writeUInt32BE(left, 0);
    hash.update(block);
    left -= block.length;
    if (!call.write(block)) await Promise.race([once(call, 'drain'), reply]);
    if (call.destroyed) break;
  }
  call.end(tail);
  const response = await reply;
  const text = await readText(response);
  const took = performance.now() - began;
  const file = join(server.workspace, 'big.bin');
  if (response.statusCode !== 200 || text !== JSON.stringify({ saved: file })) return { wrong: text };
  const there = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: MIB })) there.update(chunk as Buffer);
  return there.digest('hex') === hash.digest('hex') ? took : { wrong: 'the file is not what was sent' };
}

/** To be asked for while the processes live; the kernel keeps the peak. */
export function peakOf(server: Server): Peak {
  const field = (name: string) =>
    server.processes.map((child) => kib(`/proc/${String(child.pid)}/status`, name));
  const rss = field('VmHWM');
  const files = field('RssFile');
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  const names = rss.length === 1 ? ['server'] : ['runner', 'gateway'];
  return { names, rss, sum: sum(rss), together: sum(rss) - (sum(files) - Math.max(...files)) };
}

function kib(file: string, field: string): number {
  const match = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(file, 'utf8'));
  return Number(match?.[1] ?? NaN) * 1024;
}
