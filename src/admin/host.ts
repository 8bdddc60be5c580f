/**
 * The machine as the administrator's commands see it: what they read of it, and the programs that they start.
 *
 * Everything goes through here, so that the commands can be tried on a directory that only looks like a machine
 * (`root`), with programs that only pretend (`run`).
 */
import { spawnSync } from 'node:child_process';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Where the administrator's commands keep their journal, their lock and the settings that worked last. Not
 * /var/lib/nox: that is the place of a server that root has started without an installation (src/state.ts).
 */
export const STATE = '/var/lib/nox-admin';

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What lies at a path, the last link not followed. */
export interface Entry {
  readonly kind: 'file' | 'directory' | 'link' | 'other';
  /** Permission bits, with set-id and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly links: number;
  /** Of its content: seconds since 1970. */
  readonly changed: number;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  readonly seconds?: number;
  /** It goes on when this command is killed: apt, whose half-done work would be worse. */
  readonly outlives?: boolean;
}

const MODE_BITS = 0o7777;
const RUN_SECONDS = 900;
/** What a command of ours finds; root's own PATH may hold anything. */
const PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

export class Host {
  readonly root: string;

  /** @param root where the machine's `/` is, '' for the real one */
  constructor(root = '') {
    this.root = root;
  }

  /** The path to open for one of the machine. */
  at(path: string): string {
    return this.root === '' ? path : join(this.root, path);
  }

  entry(path: string): Entry | undefined {
    let stats;
    try {
      stats = lstatSync(this.at(path));
    } catch (error) {
      if (absent(error)) return undefined;
      throw error;
    }
    const kind = stats.isFile()
      ? 'file'
      : stats.isDirectory()
        ? 'directory'
        : stats.isSymbolicLink()
          ? 'link'
          : 'other';
    return {
      kind,
      mode: stats.mode & MODE_BITS,
      uid: stats.uid,
      gid: stats.gid,
      links: stats.nlink,
      changed: stats.mtimeMs / 1000,
    };
  }

  /** @returns undefined where there is no such regular file */
  text(path: string): string | undefined {
    return this.entry(path)?.kind === 'file' ? readFileSync(this.at(path), 'utf8') : undefined;
  }

  linkTarget(path: string): string | undefined {
    return this.entry(path)?.kind === 'link' ? readlinkSync(this.at(path)) : undefined;
  }

  /** Names in a directory, in order; none where there is no such directory. */
  names(path: string): string[] {
    return this.entry(path)?.kind === 'directory' ? readdirSync(this.at(path)).sort() : [];
  }

  /** Runs a program without a shell; its words are never a secret's place (they show in /proc). */
  run(argv: readonly string[], options: RunOptions = {}): Ran {
    // Else it would go on while the next command holds the lock (prctl(2), PR_SET_PDEATHSIG).
    const bound = options.outlives === true ? argv : ['setpriv', '--pdeathsig=KILL', '--', ...argv];
    const [program = '', ...args] = bound;
    const result = spawnSync(program, args, {
      cwd: '/',
      env: { PATH, LC_ALL: 'C.UTF-8', DEBIAN_FRONTEND: 'noninteractive', ...options.env },
      input: options.stdin ?? '',
      encoding: 'utf8',
      timeout: (options.seconds ?? RUN_SECONDS) * 1000,
      // One that was stopped, or ignores SIGTERM, would hold us for ever.
      killSignal: 'SIGKILL',
      maxBuffer: 64 * 1024 * 1024,
    });
    // Where it could not even be started there is neither; the types do not say so.
    const { stdout, stderr } = result as { stdout: string | null; stderr: string | null };
    const reason = result.error === undefined ? '' : `${program}: ${result.error.message}\n`;
    return { code: result.status ?? -1, stdout: stdout ?? '', stderr: reason + (stderr ?? '') };
  }

  /** Runs a program as a user of the machine, with no privilege to win. */
  runAs(owner: string, group: string, argv: readonly string[], options: RunOptions = {}): Ran {
    // In a session of its own: through root's terminal it could type commands into root's shell (TIOCSTI, tty_ioctl(4)).
    const drop = ['setsid', '--wait', 'setpriv', `--reuid=${owner}`, `--regid=${group}`, '--clear-groups'];
    const give = ['--no-new-privs', '--inh-caps=-all', '--pdeathsig=KILL', '--reset-env'];
    // In a trial root there are no such users, and no privilege to give up.
    const words = this.root === '' ? [...drop, ...give, ...argv] : argv;
    return this.run(words, { env: { HOME: '/nonexistent' }, ...options });
  }

  /** @throws Error with the command, how it ended and what it said */
  must(argv: readonly string[], options: RunOptions = {}): string {
    const { code, stdout, stderr } = this.run(argv, options);
    if (code !== 0) {
      const said = (stderr.trim() || stdout.trim()).split('\n').slice(-12).join('\n');
      throw new Error(`${argv.join(' ')}: ended with ${String(code)}${said === '' ? '' : `:\n${said}`}`);
    }
    return stdout;
  }

  user(name: string): { uid: number; gid: number; home: string; shell: string } | undefined {
    const fields = this.#row('/etc/passwd', name);
    if (fields === undefined) return undefined;
    const [, , uid, gid, , home = '', shell = ''] = fields;
    return { uid: Number(uid), gid: Number(gid), home, shell };
  }

  group(name: string): { gid: number; members: string[] } | undefined {
    const fields = this.#row('/etc/group', name);
    if (fields === undefined) return undefined;
    return { gid: Number(fields[2]), members: (fields[3] ?? '').split(',').filter(Boolean) };
  }

  userId(name: string): number {
    return found(name === 'root' ? 0 : this.user(name)?.uid, 'user', name);
  }

  groupId(name: string): number {
    return found(name === 'root' ? 0 : this.group(name)?.gid, 'group', name);
  }

  #row(path: string, name: string): string[] | undefined {
    return this.text(path)
      ?.split('\n')
      .map((line) => line.split(':'))
      .find((fields) => fields[0] === name);
  }
}

function absent(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function found(id: number | undefined, what: string, name: string): number {
  if (id === undefined || Number.isNaN(id)) throw new Error(`this machine has no ${what} ${name}`);
  return id;
}
