/**
 * Anonymous pipes, which Node cannot make: a short-lived Perl makes them, and they are held by O_PATH descriptors,
 * which keep a pipe alive without counting as a reader or a writer. A FIFO would not do: opening one blocks until
 * the other end is open (`cat /dev/stdin` at the end of the input), and its name can be read in /proc/self/fd.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fstatSync, openSync } from 'node:fs';
import { PERL } from './host.ts';

/** open(2); Node does not export it. The same on x86_64 and aarch64. */
export const O_PATH = 0o10000000;

const MAKER =
  '$| = 1; for (1 .. shift) { pipe my $r, my $w; push @held, $r, $w; print fileno $r, " " } print "\\n"; <STDIN>';

/** @returns a handle for each pipe, to be opened with `openPipe` and closed with `closeSync` */
export async function makePipes(count: number): Promise<number[]> {
  const maker = spawn(PERL, ['-e', MAKER, String(count)], { env: {}, stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(maker, 'close');
  let line = '';
  for await (const data of maker.stdout) {
    line += String(data);
    if (line.endsWith('\n')) break;
  }
  const handles = line
    .trim()
    .split(' ')
    .map((fd) => openSync(`/proc/${String(maker.pid)}/fd/${fd}`, O_PATH));
  maker.stdin.end();
  await exited;
  const distinct = new Set(handles.map((handle) => fstatSync(handle).ino)).size;
  // One pipe in two places would hand the output of a run to another.
  if (distinct !== count) throw new Error(`${String(count)} pipes were to be made, not ${String(distinct)}`);
  return handles;
}

export function openPipe(handle: number | undefined, flags: number): number {
  return openSync(`/proc/self/fd/${String(handle)}`, flags);
}
