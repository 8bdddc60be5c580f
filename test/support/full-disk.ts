/** Started by test/e2e/audit.test.ts with the audit file on a disk of 256 KiB; prints what came of it. */
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { verifyAudit } from '../../src/admin/audit-verify.ts';
import { parseHead, type Head } from '../../src/gateway/audit-chain.ts';
import { AuditFile } from '../../src/gateway/audit-file.ts';

const [dir = ''] = process.argv.slice(2);
const file = join(dir, 'audit.log');
const filler = join(dir, 'filler');
const logged: string[] = [];
const log = pino({ level: 'info' }, { write: (line: string) => void logged.push(line) });
const audit = await AuditFile.open(file, log, 32 * 1024);
if (audit === undefined) throw new Error('no file');

let next = 0;
let slowest = 0;
const write = (count: number) => {
  for (let each = 0; each < count; each += 1) {
    const started = performance.now();
    audit.write({ n: next, text: 'x'.repeat(100) });
    slowest = Math.max(slowest, performance.now() - started);
    next += 1;
  }
};

write(50);
await sleep(200);
try {
  // The last page that fits is not a multiple of a line.
  for (let size = 1024 * 1024; size >= 4096; size /= 2)
    for (;;) writeFileSync(filler, Buffer.alloc(size), { flag: 'a' });
} catch {
  // Full.
}
try {
  for (;;) writeFileSync(filler, Buffer.alloc(4096), { flag: 'a' });
} catch {
  // Really full.
}
for (let round = 0; round < 20; round += 1) {
  write(50);
  await sleep(100);
}
const whileFull = statSync(file).size;
const errors = logged.filter((line) => line.includes('"level":50')).length;
rmSync(filler);
await sleep(1500);
write(50);
await audit.close();
const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean);
const head = parseHead(readFileSync(`${file}.head`, 'utf8')) as Head;
const verified = await verifyAudit([file], [head]);
process.stdout.write(JSON.stringify({ verified, lines, written: next, slowest, whileFull, errors, logged }));
