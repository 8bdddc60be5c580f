/** The two forms of the server, and that none of them outlives the measurement. */
import { spawn, type ChildProcess } from 'node:child_process';
import type { Server, ServerOptions } from '../test/support/server.ts';

export type Forms = Readonly<Record<string, ServerOptions>>;

export const FORMS: Forms = { 'one process': {}, split: { split: true } };

/** Keeps the last list of process ids that it was told; when its teller is gone, however that ended, it ends them. */
const GUARD = 'while read -r list; do pids=$list; done; [ -z "$pids" ] || kill -9 $pids';

export class Guard {
  readonly #child: ChildProcess;
  readonly #servers = new Set<Server>();

  constructor() {
    // A session of its own: Ctrl-C reaches every process of the terminal's group.
    this.#child = spawn('/bin/sh', ['-c', GUARD], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
    this.#child.stdin?.on('error', () => undefined);
  }

  readonly register = (server: Server): (() => void) => {
    this.#servers.add(server);
    this.#tell();
    return () => {
      this.#servers.delete(server);
      this.#tell();
    };
  };

  async stopServers(): Promise<void> {
    await Promise.all([...this.#servers].map((server) => server.stop()));
    this.#servers.clear();
    this.#tell();
  }

  /** Afterwards nothing can be registered. */
  async stopAll(): Promise<void> {
    await this.stopServers();
    this.#child.stdin?.end();
  }

  #tell(): void {
    const pids = [...this.#servers].flatMap((server) => server.processes.map((child) => child.pid));
    this.#child.stdin?.write(`${pids.join(' ')}\n`);
  }
}
