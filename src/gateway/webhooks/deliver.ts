/** Delivers webhooks, and tries again: at most ten times, in about 15 hours. What waits is in the store, and outlives us. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { NoxError } from '../../protocol/errors.ts';
import { ADMIN } from '../principal.ts';
import { recordOf } from '../runs/keeper.ts';
import { viewOf } from '../runs/record.ts';
import type { Store } from '../store/store.ts';
import type { Webhook } from '../store/webhooks.ts';
import { send } from './send.ts';
import type { WebhookTargets } from './target.ts';

const LOOK_MS = 1000;
const AT_A_TIME = 8;
const TRIES = 10;
/** After the first failure; three times as much after each more, a fifth more or less by chance. */
const FIRST_MS = 10_000;
const LONGEST_MS = 6 * 3_600_000;

export class Webhooks {
  readonly #store: Store;
  readonly #targets: WebhookTargets;
  readonly #log: Logger;
  readonly #under = new Set<string>();
  readonly #timer: NodeJS.Timeout;
  #stopped = false;

  constructor(store: Store, targets: WebhookTargets, log: Logger) {
    this.#store = store;
    this.#targets = targets;
    this.#log = log;
    this.#timer = setInterval(() => {
      this.#look();
    }, LOOK_MS).unref();
  }

  /** What is under way is tried again by the next server. */
  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
  }

  #look(): void {
    try {
      for (const webhook of this.#store.webhooks.due(AT_A_TIME)) {
        if (this.#under.size >= AT_A_TIME) return;
        if (this.#under.has(webhook.id)) continue;
        this.#under.add(webhook.id);
        void this.#deliver(webhook).finally(() => this.#under.delete(webhook.id));
      }
    } catch (error) {
      this.#log.error({ err: error }, 'state: webhooks cannot be looked for');
    }
  }

  async #deliver(webhook: Webhook): Promise<void> {
    const { id, run, url, secret } = webhook;
    const { runs, webhooks } = this.#store;
    try {
      const body = JSON.stringify(viewOf(recordOf(runs.get(run, ADMIN), runs.result(run))));
      const status = await send(await this.#targets.resolve(url), { id, run, secret, body });
      if (status < 200 || status > 299) throw new Error(`it answered ${String(status)}`);
    } catch (error) {
      await this.#failed(webhook, error);
      return;
    }
    this.#log.info({ delivery: id, run }, 'webhook delivered');
    await this.#note(() => {
      webhooks.remove(id);
    });
  }

  async #failed({ id, run, tries }: Webhook, error: unknown): Promise<void> {
    const { webhooks } = this.#store;
    const delay = Math.min(LONGEST_MS, FIRST_MS * 3 ** tries) * (0.8 + Math.random() * 0.4);
    const over = tries + 1 >= TRIES;
    const reason = error instanceof NoxError ? error.message : String(error);
    this.#log.warn({ delivery: id, run, tries: tries + 1, over, reason }, 'webhook not delivered');
    await this.#note(() => {
      if (over) webhooks.remove(id);
      else webhooks.later(id, delay);
    });
  }

  /** What has been tried is not tried again before that is written: the disk may be full. */
  async #note(work: () => void): Promise<void> {
    for (;;) {
      try {
        work();
        return;
      } catch (error) {
        if (this.#stopped) return;
        if (!(error instanceof NoxError)) {
          this.#log.error({ err: error }, 'state: a webhook');
          return;
        }
      }
      await sleep(LOOK_MS, undefined, { ref: false });
    }
  }
}
