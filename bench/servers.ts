/** The two forms of the server, and that none of them outlives the measurement. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import type { Server, ServerOptions } from '../test/support/server.ts';

export type Forms = Readonly<Record<string, ServerOptions>>;

/**
 * Waits for the end of its input, which comes however this process ends, then ends what is left of the servers:
 * those that were just being started too, so they are known by a mark in their environment. The runs die with them.
 */
const GUARD = `while read -r _; do :; done
for file in $(grep -ls "BENCH=$0" /proc/[0-9]*/environ); do pid=\${file#/proc/}; kill -9 "\${pid%/environ}"; done`;

export class Guard {
  readonly forms: Forms;
  readonly #child: ChildProcess;
  readonly #servers = new Set<Server>();

  constructor() {
    const mark = randomUUID();
    const env = { BENCH: mark };
    this.forms = { 'one process': { env }, split: { env, split: true } };
    // A session of its own: Ctrl-C reaches every process of the terminal's group.
    this.#child = spawn('/bin/sh', ['-c', GUARD, mark], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
  }

  /** @returns to be called when the server has been stopped by somebody else */
  readonly register = (server: Server): (() => void) => {
    this.#servers.add(server);
    return () => {
      this.#servers.delete(server);
    };
  };

  async stopServers(): Promise<void> {
    await Promise.all([...this.#servers].map((server) => server.stop()));
    this.#servers.clear();
  }

  async close(): Promise<void> {
    await this.stopServers();
    this.#child.stdin?.end();
  }
}
