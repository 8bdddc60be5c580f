/**
 * Traces by OpenTelemetry: spans, sent as OTLP over HTTP in JSON (opentelemetry-proto 1.x, W3C Trace Context level 1).
 *
 * Nobody waits for the collector: spans are kept in a list of bounded size and sent behind the requests, one batch at a
 * time. What it does not take, and what has no room, is counted and gone. docs/decisions/0013 says why this is no SDK.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { Agent as HttpAgent, request as httpRequest } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { Logger } from 'pino';

/** SpanKind of OTLP. */
export const KIND = { internal: 1, server: 2, client: 3 } as const;
const STATUS_ERROR = 2;

interface SpanContext {
  readonly traceId: string;
  readonly spanId: string;
}

type Attributes = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Span extends SpanContext {
  readonly parentId: string | undefined;
  readonly name: string;
  readonly kind: number;
  /** By performance.now(). */
  readonly began: number;
}

/** The part of Nox that a span is of. */
type Service = 'nox-gateway' | 'nox-runner';

export interface TracerState {
  readonly sent: number;
  readonly dropped: number;
}

const QUEUE_MAX = 4096;
const BATCH_MAX = 512;
const SEND_MS = 1000;
const TIMEOUT_MS = 5000;
/** After a failure. */
const PAUSE_MS = 5000;
const CLOSE_MS = 1000;

export class Tracer {
  readonly #url: URL;
  readonly #log: Logger;
  readonly #agent: HttpAgent;
  readonly #within = new AsyncLocalStorage<Span>();
  #queue: { readonly service: Service; readonly span: object }[] = [];
  #sent = 0;
  #dropped = 0;
  #failing = false;
  #closed = false;
  #sending: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(endpoint: string, log: Logger) {
    this.#url = new URL(endpoint);
    this.#log = log;
    const options = { keepAlive: true, maxSockets: 1 };
    this.#agent = this.#url.protocol === 'https:' ? new HttpsAgent(options) : new HttpAgent(options);
  }

  get state(): TracerState {
    return { sent: this.#sent, dropped: this.#dropped };
  }

  /** The span of the request within which this is called. */
  get current(): Span | undefined {
    return this.#within.getStore();
  }

  run(span: Span, work: () => void): void {
    this.#within.run(span, work);
  }

  /**
   * The span of a request.
   *
   * @param traceparent the client's, honoured if it is one
   * @returns undefined where the client says that its trace is not recorded
   */
  accept(name: string, traceparent: string | undefined): Span | undefined {
    const parent = parseTraceparent(traceparent);
    if (parent?.sampled === false) return undefined;
    return this.begin(name, KIND.server, parent);
  }

  begin(name: string, kind: number, parent?: SpanContext, began = performance.now()): Span {
    return {
      ...{ name, kind, began },
      traceId: parent?.traceId ?? randomBytes(16).toString('hex'),
      spanId: randomBytes(8).toString('hex'),
      parentId: parent?.spanId,
    };
  }

  /** @param error why what the span is of has failed */
  end(
    span: Span,
    attributes: Attributes = {},
    error?: string,
    options: { readonly ended?: number; readonly service?: Service } = {},
  ): void {
    if (this.#closed || this.#queue.length >= QUEUE_MAX) {
      this.#dropped += 1;
      return;
    }
    const { ended = performance.now(), service = 'nox-gateway' } = options;
    const { traceId, spanId, parentId, name, kind, began } = span;
    const all = error === undefined ? attributes : { ...attributes, 'error.type': error };
    this.#queue.push({
      service,
      span: {
        ...{ traceId, spanId, name, kind },
        ...(parentId === undefined ? {} : { parentSpanId: parentId }),
        startTimeUnixNano: unixNano(began),
        endTimeUnixNano: unixNano(ended),
        attributes: encodeAttributes(all),
        ...(error === undefined ? {} : { status: { code: STATUS_ERROR } }),
      },
    });
    this.#soon(this.#queue.length >= BATCH_MAX && !this.#failing ? 0 : SEND_MS);
  }

  /** Sends what is there, within a bound. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#closed = true;
    const sent = (this.#sending ?? Promise.resolve()).then(() => this.#send());
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([sent, new Promise((resolve) => (timer = setTimeout(resolve, CLOSE_MS)))]);
    clearTimeout(timer);
    this.#agent.destroy();
  }

  #soon(ms: number): void {
    if (this.#sending !== undefined || this.#closed) return;
    if (this.#timer !== undefined && ms > 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#sending = this.#send().finally(() => {
        this.#sending = undefined;
        if (this.#queue.length > 0) this.#soon(this.#failing ? PAUSE_MS : SEND_MS);
      });
    }, ms).unref();
  }

  async #send(): Promise<void> {
    const batch = this.#queue.splice(0, BATCH_MAX);
    if (batch.length === 0) return;
    try {
      await this.#post(JSON.stringify(encodeBatch(batch)));
      this.#sent += batch.length;
      if (this.#failing)
        this.#log.info({ endpoint: this.#url.href }, 'traces: the collector takes them again');
      this.#failing = false;
    } catch (error) {
      this.#dropped += batch.length;
      if (!this.#failing)
        this.#log.warn(
          { err: error, endpoint: this.#url.href },
          'traces: the collector does not take them; they are dropped and counted',
        );
      this.#failing = true;
    }
  }

  #post(body: string): Promise<void> {
    const request = this.#url.protocol === 'https:' ? httpsRequest : httpRequest;
    return new Promise((resolve, reject) => {
      const sent = request(
        this.#url,
        {
          method: 'POST',
          agent: this.#agent,
          headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
          signal: AbortSignal.timeout(TIMEOUT_MS),
        },
        (response) => {
          const { statusCode = 0 } = response;
          response.resume();
          response.once('error', reject).once('end', () => {
            if (statusCode >= 200 && statusCode < 300) resolve();
            else reject(new Error(`it answered ${String(statusCode)}`));
          });
        },
      );
      sent.once('error', reject);
      sent.end(body);
    });
  }
}

/** W3C Trace Context, section 3.2: versions that are to come may have more behind. */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

export function parseTraceparent(
  header: string | undefined,
): (SpanContext & { readonly sampled: boolean }) | undefined {
  const [, traceId, spanId, flags = '', more] = TRACEPARENT.exec(header ?? '') ?? [];
  if (traceId === undefined || spanId === undefined) return undefined;
  if (more !== undefined && header?.startsWith('00') === true) return undefined;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

function unixNano(monotonic: number): string {
  return String(BigInt(Math.round((performance.timeOrigin + monotonic) * 1000)) * 1000n);
}

function encodeAttributes(attributes: Attributes): object[] {
  return Object.entries(attributes).flatMap(([key, value]): object[] => {
    if (value === undefined) return [];
    if (typeof value === 'string') return [{ key, value: { stringValue: value } }];
    if (typeof value === 'boolean') return [{ key, value: { boolValue: value } }];
    // 64-bit integers are strings in the JSON of protocol buffers.
    return [{ key, value: Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value } }];
  });
}

function encodeBatch(batch: readonly { readonly service: Service; readonly span: object }[]): object {
  const services: readonly Service[] = ['nox-gateway', 'nox-runner'];
  const resourceSpans = services.flatMap((service) => {
    const spans = batch.filter((each) => each.service === service).map(({ span }) => span);
    if (spans.length === 0) return [];
    const resource = {
      attributes: encodeAttributes({ 'service.name': service, 'service.namespace': 'nox' }),
    };
    return [{ resource, scopeSpans: [{ scope: { name: 'nox' }, spans }] }];
  });
  return { resourceSpans };
}
