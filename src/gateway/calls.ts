/**
 * The calls that are under way, and how they end when the gateway stops: new ones are refused by name on the open
 * port, old ones have a time to come to their end, then they are cancelled and told so.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { NoxError } from '../protocol/errors.ts';
import type { Principal } from './principal.ts';

declare module 'fastify' {
  interface FastifyInstance {
    calls: Calls;
  }
}

/** In this time those whose call was cancelled read their answer. */
const LAST_WORDS_MS = 2000;

class Calls {
  readonly #cancels = new Set<AbortController>();
  readonly #open = new Set<FastifyReply>();
  #stopping = false;
  #cancelled = false;
  #whenNone: (() => void) | undefined;

  get stopping(): boolean {
    return this.#stopping;
  }

  /** Aborted when the client goes away before its answer has been sent, or is sent away: its run is then ended. */
  signal(reply: FastifyReply): AbortSignal {
    const cancel = new AbortController();
    if (this.#cancelled) cancel.abort();
    this.#cancels.add(cancel);
    reply.raw.once('close', () => {
      this.#cancels.delete(cancel);
      if (!reply.raw.writableFinished) cancel.abort();
    });
    return cancel.signal;
  }

  /** Counts a call until its answer has been handed over, or its client has gone. */
  begin(reply: FastifyReply): void {
    this.#open.add(reply);
    reply.raw.once('close', () => {
      this.#open.delete(reply);
      if (this.#open.size === 0) this.#whenNone?.();
    });
  }

  /** Of a token that has been revoked: its clients are sent away, as if they had gone, but for the one that says so. */
  drop(owner: string, self: FastifyReply): void {
    for (const reply of this.#open)
      // Not known of one whose request is still being looked at, which will be refused.
      if (reply !== self && (reply.request.principal as Principal | undefined)?.id === owner)
        reply.request.raw.socket.destroy();
  }

  /** What a client is told whose call was ended by its signal: where it has not gone, the server goes. */
  explain(error: NoxError): NoxError {
    if (error.code !== 'cancelled' || !this.#cancelled) return error;
    return refusal('The server stopped while the call was under way');
  }

  /** Refuses new calls; resolves when none is under way any more. Call once, before the gateway is closed. */
  async stop(graceSeconds: number): Promise<void> {
    this.#stopping = true;
    if (await this.#none(graceSeconds * 1000)) return;
    this.#cancelled = true;
    for (const cancel of this.#cancels) cancel.abort();
    await this.#none(LAST_WORDS_MS);
  }

  /** @returns false if there are still some after this time */
  async #none(ms: number): Promise<boolean> {
    if (this.#open.size === 0) return true;
    const none = new AbortController();
    this.#whenNone = () => {
      none.abort();
    };
    return sleep(ms, false, { signal: none.signal }).catch(() => true);
  }
}

/** Gives a gateway its calls; they are refused from the moment in which it is told to stop. */
export function watchCalls(app: FastifyInstance): void {
  const calls = new Calls();
  app.decorate('calls', calls);
  app.addHook('onRequest', (request, reply, done) => {
    calls.begin(reply);
    if (!calls.stopping) {
      done();
      return;
    }
    void reply.header('connection', 'close');
    if (request.routeOptions.url === '/health') void reply.code(503).send({ status: 'stopping' });
    else done(refusal('The server is stopping'));
  });
}

/** Another server, or this one after its restart, will take it. */
function refusal(message: string): NoxError {
  return new NoxError('shutting_down', message, { retryAfter: 1 });
}
