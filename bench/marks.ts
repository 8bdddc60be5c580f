/**
 * Loaded into gateway and runner in front of everything else (`node --import`): notes when the steps of a run are
 * passed, and writes the notes into a file when the process ends. A run is told by the word in its code. What it
 * hooks into is Node's own: the channels of http and net, and the calls by which bytes come and go.
 *
 * Without an import of ours, as a file of its own: the gateway's `--jitless` cannot erase types (breakdown.ts does).
 */
import { subscribe } from 'node:diagnostics_channel';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import { join } from 'node:path';

const WORD = 'nox-bench-mark';
const notes: [what: string, at: number][] = [];
const note = (what: string): void => {
  notes.push([what, Number(process.hrtime.bigint()) / 1e6]);
};
const has = (data: unknown, word: string): boolean =>
  (typeof data === 'string' || data instanceof Uint8Array) && Buffer.from(data as string).includes(word);

subscribe('http.server.request.start', () => {
  note('gateway has the head');
});
subscribe('net.server.socket', () => {
  note('accepted');
});

type Loose = (this: unknown, ...args: unknown[]) => unknown;
const hook = (target: object, name: string, before: Loose): void => {
  const methods = target as Record<string, Loose>;
  const real = methods[name];
  if (real === undefined) throw new Error(`no ${name} to hook into`);
  methods[name] = function (...args) {
    before.apply(this, args);
    return real.apply(this, args);
  };
};

hook(fs, 'writeSync', (_, data) => {
  if (has(data, WORD)) note('request or plan goes out');
});
const come = (data: unknown): void => {
  if (has(data, WORD)) note('request has come');
  if (has(data, '"outcome"')) note('result has come');
  if (has(data, 'end ')) note('end has come');
};
hook(net.Socket.prototype, 'push', come);
// Where the bytes come into memory of the reader's own, `push` does not see them.
hook(net, 'connect', (options) => {
  const { onread } = options as net.TcpNetConnectOpts;
  if (onread === undefined) return;
  const callback = onread.callback.bind(onread);
  onread.callback = (length, memory) => {
    come(memory.subarray(0, length));
    return callback(length, memory);
  };
});
hook(net.Socket.prototype, 'write', (data) => {
  if (has(data, WORD)) note('request or plan goes out');
  if (has(data, '"outcome"')) note('result is sent');
  if (has(data, 'HTTP/1.1 200')) note('answer is sent');
});
syncBuiltinESMExports();

process.once('exit', () => {
  const dir = process.env['BENCH_MARKS'] ?? '';
  fs.writeFileSync(join(dir, `${String(process.pid)}.json`), JSON.stringify(notes));
});
