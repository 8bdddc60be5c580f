/** Makes a step of a plan true. Every step may find that it is true already, wholly or in part. */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Host } from './host.ts';
import { syncDirectory } from './journal.ts';
import { copyRelease } from './release.ts';
import { giveTo } from './share.ts';
import type { Attributes, Step } from './steps.ts';
import { asideName, NOLOGIN, setAttributes } from './undo.ts';
import { buildVenv } from './venv.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;

/**
 * @param backup the path that `prepareUndo` was given for this step
 * @throws Error that names the step, what failed and, where a program said it, why
 */
export function applyStep(host: Host, step: Step, backup: string): void {
  switch (step.do) {
    case 'directory':
      if (host.entry(step.path) === undefined) {
        mkdirSync(host.at(step.path), { mode: 0o700 });
        syncDirectory(dirname(host.at(step.path)));
      }
      {
        setAttributes(host.at(step.path), ids(host, step));
        return;
      }
    case 'attributes': {
      setAttributes(host.at(step.path), ids(host, step));
      return;
    }
    case 'file': {
      writeWhole(host.at(step.path), step.text, ids(host, step));
      return;
    }
    case 'link': {
      pointLink(host.at(step.path), step.target);
      return;
    }
    case 'move':
      renameSync(host.at(step.from), host.at(step.to));
      {
        syncDirectory(dirname(host.at(step.to)));
        return;
      }
    case 'remove':
      if (host.entry(step.path)?.kind === 'directory')
        renameSync(host.at(step.path), host.at(asideName(step.path, backup)));
      else rmSync(host.at(step.path), { force: true });
      return;
    case 'release': {
      copyRelease(host, step.source, step.path);
      return;
    }
    case 'venv': {
      buildVenv(host, step);
      return;
    }
    case 'user': {
      makeUser(host, step);
      return;
    }
    case 'packages': {
      installPackages(host, step.names);
      return;
    }
    case 'share': {
      giveTo(host, step.path, host.userId(step.owner), host.groupId(step.group));
      return;
    }
    case 'services': {
      changeServices(host, step);
      return;
    }
    case 'command':
      host.must(step.argv);
      return;
  }
}

function ids(host: Host, { mode, owner, group }: Attributes): { mode: number; uid: number; gid: number } {
  return { mode, uid: host.userId(owner), gid: host.groupId(group) };
}

/** Nobody can read a secret in it before its mode is right, and nobody finds half of it under its name. */
function writeWhole(
  path: string,
  text: string,
  { mode, uid, gid }: { mode: number; uid: number; gid: number },
): void {
  const temporary = join(dirname(path), `.nox-new-${path.split('/').at(-1) ?? ''}`);
  rmSync(temporary, { force: true });
  const fd = openSync(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    writeFileSync(fd, text);
    fchownSync(fd, uid, gid);
    fchmodSync(fd, mode);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
  syncDirectory(dirname(path));
}

/** In one moment: what follows the link finds the old program or the new one. */
function pointLink(path: string, target: string): void {
  const temporary = join(dirname(path), `.nox-new-${path.split('/').at(-1) ?? ''}`);
  rmSync(temporary, { force: true });
  symlinkSync(target, temporary);
  renameSync(temporary, path);
  syncDirectory(dirname(path));
}

function makeUser(host: Host, { name, group, home }: { name: string; group: string; home: string }): void {
  if (host.group(group) === undefined) host.must(['groupadd', '--system', group]);
  const now = host.user(name);
  if (now === undefined)
    host.must([
      ...['useradd', '--system', '--gid', group, '--home-dir', home, '--no-create-home'],
      ...['--shell', NOLOGIN, name],
    ]);
  else host.must(['usermod', '--shell', NOLOGIN, '--gid', group, name]);
}

/** The lists of a fresh machine may be empty or old; then they are fetched once. */
function installPackages(host: Host, names: readonly string[]): void {
  const install = ['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...names];
  const outlives = true;
  if (host.run(install, { outlives }).code === 0) return;
  host.must(['apt-get', 'update', '-q'], { outlives });
  host.must(install, { outlives });
}

/** In this order: the gateway is of use when the runner is there. systemd waits until each says that it is ready. */
function changeServices(host: Host, step: Extract<Step, { do: 'services' }>): void {
  if (step.verb === 'stop') {
    for (const unit of step.units.toReversed()) host.must(['systemctl', 'stop', unit]);
    return;
  }
  host.must(['systemctl', 'daemon-reload']);
  host.must(['systemctl', 'enable', '--quiet', ...step.units]);
  for (const unit of step.units) host.run(['systemctl', 'reset-failed', unit]);
  const restarted = host.run(['systemctl', 'restart', ...step.units]);
  if (restarted.code === 0) return;
  const log = step.units.map(
    (unit) => host.run(['journalctl', '-n', '15', '-o', 'cat', '--no-pager', '-u', unit]).stdout,
  );
  throw new Error(
    `systemctl restart ${step.units.join(' ')}: ${restarted.stderr.trim()}\n${log.join('').trim()}`,
  );
}
