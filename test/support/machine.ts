/** A directory that looks like a machine, with systemd's answers made up; a new one for each test that imports this. */
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach } from 'node:test';
import { Host, type Ran } from '../../src/admin/host.ts';

export const UID = process.getuid?.() ?? 0;
export const GID = process.getgid?.() ?? 0;

/** A machine with systemd's answers made up: services that run, and a list of what was asked of them. */
export class Machine extends Host {
  readonly asked: string[] = [];
  readonly active = new Set<string>();

  override run(argv: readonly string[]): Ran {
    const answer = (code: number): Ran => ({ code, stdout: '', stderr: '' });
    if (argv[0] !== 'systemctl') return answer(0);
    this.asked.push(argv.slice(1).join(' '));
    const unit = argv.at(-1) ?? '';
    if (argv[1] === 'is-active') return answer(this.active.has(unit) ? 0 : 3);
    if (argv[1] === 'is-enabled') return answer(this.active.has(unit) ? 0 : 1);
    if (argv[1] === 'start' || argv[1] === 'restart') this.active.add(unit);
    if (argv[1] === 'stop') this.active.delete(unit);
    return answer(0);
  }
}

export let machine: Machine;

beforeEach(() => {
  const root = mkdtempSync(join(tmpdir(), 'nox-admin-'));
  machine = new Machine(root);
  for (const dir of ['etc/default', 'etc/systemd/system', 'opt', 'home/nox/nox/sandbox', 'var/lib/nox-admin'])
    mkdirSync(join(root, dir), { recursive: true });
  writeFileSync(
    join(root, 'etc/passwd'),
    `nox:x:${UID}:${GID}::/home/nox:/bin/bash\nnox-runner:x:${UID}:${GID}::/:/usr/sbin/nologin\n`,
  );
  writeFileSync(join(root, 'etc/group'), `nox:x:${GID}:\n`);
});
afterEach(() => {
  rmSync(machine.root, { recursive: true, force: true });
});

export const at = (path: string): string => machine.at(path);

/** Every entry with its kind, mode, owner and content; the journal and its parent's times left out. */
export function picture(): string[] {
  const rows: string[] = [];
  const walk = (dir: string): void => {
    for (const name of readdirSync(Buffer.from(dir, 'latin1'), 'latin1').sort()) {
      // Names are bytes: each is one character here.
      const shown = relative(machine.root, join(dir, name));
      if (shown === 'var/lib/nox-admin/journal') continue;
      const path = Buffer.from(join(dir, name), 'latin1');
      const stats = lstatSync(path);
      const content = stats.isSymbolicLink()
        ? readlinkSync(path)
        : stats.isFile()
          ? readFileSync(path, 'utf8')
          : '';
      rows.push([shown, (stats.mode & 0o7777).toString(8), stats.uid, stats.gid, content].join(' '));
      if (stats.isDirectory()) walk(join(dir, name));
    }
  };
  walk(machine.root);
  return rows;
}
