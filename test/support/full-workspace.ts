/** Started by test/unit/full-disk.test.ts with the directory on a disk of 4 MiB; prints what came of it. */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { Files } from '../../src/runner/files.ts';
import { tarHeader, tarPadding, TAR_END } from '../../src/runner/tar.ts';
import { Workspaces } from '../../src/runner/workspaces.ts';
import { pieces } from './workspace.ts';

const [dir = ''] = process.argv.slice(2);
const MIB = 2 ** 20;
const never = new AbortController().signal;
const sandbox = join(dir, 'sandbox');
const workspaces = new Workspaces({
  dir: join(dir, 'workspaces'),
  sandbox,
  limitBytes: 2 ** 40,
  onFault: () => undefined,
});
const files = new Files(workspaces.get('default'));
const workspace = 'default';
const told: Record<string, string> = {};
const attempt = async (name: string, work: () => Promise<unknown>): Promise<void> => {
  told[name] = await work().then(
    () => 'done',
    (error: unknown) => (error as NodeJS.ErrnoException).code ?? String(error),
  );
};

const big = Array.from({ length: 32 }, () => randomBytes(MIB / 8));
const member = Buffer.concat(big);
const tar = gzipSync(
  Buffer.concat([
    tarHeader({ name: 'f', type: 'file', size: member.length, mode: 0o644, mtime: 0 }),
    member,
    tarPadding(member.length),
    TAR_END,
  ]),
);
await files.write({ workspace, path: 'old' }, pieces(randomBytes(MIB)));
const old = readFileSync(join(sandbox, 'old'));
const { id: snapshot } = await workspaces.snapshot({ workspace }, never);
await attempt('write', () => files.write({ workspace, path: 'old' }, pieces(...big)));
await attempt('append', () => files.write({ workspace, path: 'old', append: true }, pieces(...big)));
await attempt('unpack', () => files.unpack({ workspace, path: 'to', format: 'tar.gz' }, pieces(tar)));
// These find room for their bytes, and then none for the file that they are added to, or replace in place.
const most = Array.from({ length: 13 }, () => randomBytes(MIB / 8));
await attempt('append later', () => files.write({ workspace, path: 'old', append: true }, pieces(...most)));
workspaces.get(workspace).workspace.hold('old');
await attempt('write in place', () => files.write({ workspace, path: 'old' }, pieces(...most)));
workspaces.get(workspace).workspace.release('old');
await files.write({ workspace, path: 'filler' }, pieces(randomBytes(1.6 * MIB)));
await attempt('copy', () => files.copy({ workspace, from: 'old', to: 'copy' }, never));
await attempt('snapshot', () => workspaces.snapshot({ workspace }, never));
await attempt('clone', () => workspaces.clone({ workspace, id: 'copy', owner: 'admin' }, never));
await attempt('restore', () => workspaces.restore(workspace, snapshot, false));
// Not a byte is left.
try {
  for (let size = 65_536; size >= 1; size /= 2)
    for (let more = true; more;)
      try {
        writeFileSync(join(dir, 'really-full'), Buffer.alloc(size), { flag: 'a' });
      } catch {
        more = false;
      }
} finally {
  await attempt('create', () => workspaces.create({ id: 'x', owner: 'admin' }));
  await attempt('update', () =>
    Promise.resolve().then(() => workspaces.update({ workspace, label: 'l'.repeat(200) })),
  );
}
const left = { sandbox: readdirSync(sandbox).sort(), shelf: readdirSync(join(dir, 'workspaces')).sort() };
const same = readFileSync(join(sandbox, 'old')).equals(old);
rmSync(join(dir, 'really-full'));
await files.remove({ workspace, path: 'filler' });
await attempt('afterwards', () => workspaces.restore(workspace, snapshot, false));
workspaces.close();
process.stdout.write(
  JSON.stringify({ told, left, same, restored: readFileSync(join(sandbox, 'old')).equals(old) }),
);
