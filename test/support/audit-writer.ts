/** Started and killed by test/e2e/audit.test.ts: writes entries as fast as it can, and says which ones it has been given. */
import { pino } from 'pino';
import { AuditFile } from '../../src/gateway/audit-file.ts';

const [file = '', from = '0'] = process.argv.slice(2);
const audit = await AuditFile.open(file, pino({ level: 'error' }));
if (audit === undefined) throw new Error('no file');
process.stdout.write('open\n');
let n = Number(from);
const more = () => {
  // Large enough that a kill falls within a write.
  for (let each = 0; each < 200; each += 1) audit.write({ n: (n += 1), text: 'x'.repeat(2000) });
  setImmediate(more);
};
more();
