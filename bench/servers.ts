/** The forms of the server, started when they are first asked for, and that none of them outlives the measurement. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { startServer, type Server, type ServerOptions } from '../test/support/server.ts';

/**
 * Waits for the end of its input, which comes however this process ends, then ends what is left of the servers:
 * those that were just being started too, so they are known by a mark in their environment. The runs die with them.
 */
const GUARD = `while read -r _; do :; done
for file in $(grep -ls "BENCH=$0" /proc/[0-9]*/environ); do pid=\${file#/proc/}; kill -9 "\${pid%/environ}"; done`;

/** `warm` is the deployed form: gateway (`--jitless`) and runner as two processes, settings as they are by default. */
const FORMS = {
  warm: { split: true },
  cold: { split: true, env: { NOX_WARM: 'off' } },
  preloaded: { split: true, env: { NOX_PYTHON_PRELOAD: 'numpy pandas' } },
  'one process': {},
} as const satisfies Record<string, ServerOptions>;
export type Form = keyof typeof FORMS;

export class Guard {
  /** For whatever is to end with the measurement. */
  readonly env: Readonly<Record<string, string>>;
  readonly #child: ChildProcess;
  readonly #servers = new Set<Server>();
  readonly #shared = new Map<Form, Server>();

  constructor() {
    const mark = randomUUID();
    this.env = { BENCH: mark };
    // A session of its own: Ctrl-C reaches every process of the terminal's group.
    this.#child = spawn('/bin/sh', ['-c', GUARD, mark], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
  }

  /** A server of one's own. */
  async start(form: Form, env: Readonly<Record<string, string>> = {}): Promise<Server> {
    const options: ServerOptions = FORMS[form];
    const server = await startServer({ ...options, env: { ...options.env, ...this.env, ...env } });
    this.#servers.add(server);
    // What is logged from now on is read and forgotten: two lines a run are not to be kept in this process.
    for (const stream of server.processes.flatMap(({ stdout, stderr }) => [stdout, stderr])) {
      stream?.removeAllListeners('data').resume();
    }
    return server;
  }

  async stop(server: Server): Promise<void> {
    await server.stop();
    this.#servers.delete(server);
  }

  /** One that several sections use. */
  async shared(form: Form): Promise<Server> {
    const server = this.#shared.get(form) ?? (await this.start(form));
    this.#shared.set(form, server);
    return server;
  }

  async stopServers(): Promise<void> {
    this.#shared.clear();
    await Promise.all([...this.#servers].map((server) => this.stop(server)));
  }

  async close(): Promise<void> {
    await this.stopServers();
    this.#child.stdin?.end();
  }
}
