/** Requests for the operations of an OpenAPI document: right, nearly right, and wrong, as the seed has it. */
import fc from 'fast-check';
import type { Parameter } from '../../src/gateway/openapi.ts';
import type { Contract, Endpoint } from '../support/openapi.ts';
import { archive } from './archives.ts';
import { NASTY, valueOf, type Json } from './values.ts';

export interface FuzzRequest {
  readonly endpoint: Endpoint;
  readonly method: string;
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
  /** What goes over the wire as it is, in the place of the rest. */
  readonly raw?: Buffer;
}

/** What earlier answers have brought: ids by their kind. */
export type Known = ReadonlyMap<string, readonly string[]>;

/** A small generator (mulberry32, public domain), so that a request depends on its own seed alone. */
export class Chance {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  /** From 0 up to, not including, 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }
  /** True so often. */
  often(share: number): boolean {
    return this.next() < share;
  }
  of<T>(list: readonly T[]): T {
    return list[Math.floor(this.next() * list.length)] as T;
  }
  sample<T>(arbitrary: fc.Arbitrary<T>): T {
    const [value] = fc.sample(arbitrary, { seed: Math.floor(this.next() * 2 ** 31), numRuns: 1 });
    return value as T;
  }
}

export class Requests {
  readonly #endpoints: readonly Endpoint[];
  readonly #contract: Contract;
  readonly #tokens: readonly string[];
  readonly #values = new Map<string, fc.Arbitrary<unknown>>();

  /** @param tokens the first can do everything */
  constructor(endpoints: readonly Endpoint[], contract: Contract, tokens: readonly string[]) {
    this.#endpoints = endpoints;
    this.#contract = contract;
    this.#tokens = tokens;
  }

  make(seed: number, known: Known): FuzzRequest {
    const chance = new Chance(seed);
    const endpoint = chance.of(this.#endpoints);
    const target = this.#target(endpoint, chance, known);
    const method = chance.often(0.02)
      ? chance.of(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])
      : endpoint.method;
    const { body, type } = this.#body(endpoint, chance, known);
    const headers = {
      ...this.#headers(endpoint, chance, known),
      ...(type === undefined ? {} : { 'content-type': type }),
    };
    const request = { endpoint, method, target, headers, body };
    if (endpoint.path === TERMINAL && chance.often(0.7))
      return { ...request, raw: terminal(request, chance) };
    return chance.often(0.04) ? { ...request, raw: broken(request, chance) } : request;
  }

  #value(schema: Json, name: string, chance: Chance): unknown {
    const key = `${name} ${JSON.stringify(schema)}`;
    let arbitrary = this.#values.get(key);
    if (arbitrary === undefined) {
      arbitrary = valueOf(this.#contract.strict(schema), name);
      this.#values.set(key, arbitrary);
    }
    return chance.sample(arbitrary);
  }

  #target({ path, operation }: Endpoint, chance: Chance, known: Known): string {
    const of = (place: Parameter['in']) => (operation.parameters ?? []).filter((each) => each.in === place);
    let target = path;
    const pairs = known.get('snapshots') ?? [];
    if (path.includes('{snapshot}') && pairs.length > 0 && chance.often(0.7))
      target = target.replace('{id}/snapshots/{snapshot}', chance.of(pairs));
    for (const { name, schema } of of('path')) {
      const live = (known.get('live') ?? []).slice(-3);
      const ids =
        /(stdin|signal|cancel)$/.test(path) && live.length > 0 ? live : (known.get(kindOf(path)) ?? []);
      const value =
        ids.length > 0 && chance.often(0.8)
          ? chance.of(kindOf(path) === 'workspaces' && chance.often(0.4) ? ['default'] : ids)
          : chance.often(0.5)
            ? this.#value(schema, name, chance)
            : chance.sample(NASTY);
      target = target.replace(`{${name}}`, () => encode(textOf(value), chance) || 'x');
    }
    const query = of('query')
      .filter(({ required }) => chance.often(required ? 0.95 : 0.3))
      .map(({ name, schema }) => {
        const value = chance.often(0.8) ? this.#value(schema, name, chance) : chance.sample(NASTY);
        return `${name}=${encode(textOf(value), chance)}`;
      });
    if (chance.often(0.03))
      query.push(chance.of(['__proto__=1', 'nope=1', 'limit=1&limit=2', '&&=', '%=%', 'a[b]=c']));
    return query.length === 0 ? target : `${target}?${query.join('&')}`;
  }

  #headers({ operation }: Endpoint, chance: Chance, known: Known): Record<string, string> {
    const headers: Record<string, string> = {};
    const token = chance.often(0.8)
      ? this.#tokens[0]
      : chance.of([...this.#tokens, '', 'x', 'nox_00000000_x']);
    if (chance.often(0.98)) headers['authorization'] = `Bearer ${token ?? ''}`;
    for (const { name, schema, in: place } of operation.parameters ?? []) {
      if (place !== 'header' || chance.often(0.8)) continue;
      const etags = known.get('etags') ?? [];
      if (name.startsWith('if-') && etags.length > 0 && chance.often(0.4)) {
        headers[name] = chance.of(etags);
        continue;
      }
      const value = chance.often(0.7) ? this.#value(schema, name, chance) : chance.sample(NASTY);
      headers[name] = textOf(value);
    }
    if (chance.often(0.2))
      headers['accept'] = chance.of([
        'text/event-stream',
        'application/x-ndjson',
        'application/octet-stream',
        '*/*',
        'x',
        ',;q=',
      ]);
    if (chance.often(0.05)) headers['x-request-id'] = textOf(chance.sample(NASTY));
    // What a header cannot hold goes as `broken` has it.
    for (const [name, value] of Object.entries(headers))
      headers[name] = value.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 4000);
    return headers;
  }

  #body(
    { operation, path, method }: Endpoint,
    chance: Chance,
    known: Known,
  ): { body?: Buffer; type?: string } {
    if (path === '/v1/runs' && method === 'POST' && chance.often(0.2)) return { body: Buffer.from(WAITING) };
    const contents = Object.entries(operation.requestBody?.content ?? {});
    const [media, content] = contents.length === 0 ? [] : chance.of(contents);
    if (media === undefined || content === undefined)
      return chance.often(0.03) ? { body: Buffer.from('{}') } : {};
    if (media !== 'application/json' && chance.often(0.9)) return upload(media, chance);
    const text = distort(this.#value(content.schema, '', chance), chance, known);
    const type = chance.of([
      undefined,
      'application/json',
      'text/plain',
      'application/x-www-form-urlencoded',
      'x',
    ]);
    return { body: text, ...(type === undefined ? {} : { type }) };
  }
}

const TERMINAL = '/v1/terminal';
/** A run that takes input until its time is over. */
const WAITING = '{"command":["cat"],"interactive":true,"background":true}';

/** `/v1/runs/{id}` → `runs`. */
export const kindOf = (path: string): string => path.split('/')[2] ?? '';

const textOf = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));

function encode(text: string, chance: Chance): string {
  const plain = encodeURIComponent(text.toWellFormed()).slice(0, 6000);
  if (chance.often(0.97)) return plain;
  return chance.of([`${plain}%`, '%00', '%ff', '%c0%ae%c0%ae', '..%2f..', `${plain}%2F`, '%252e', ';x']);
}

function upload(media: string, chance: Chance): { body: Buffer; type: string } {
  const content = chance.of(['', 'x', 'x'.repeat(5000), '\0\r\n--b\r\n', 'x'.repeat(70_000)]);
  if (media === 'application/gzip' || media === 'application/zip')
    return {
      body: chance.often(0.9)
        ? archive(media === 'application/zip' ? 'zip' : 'tar', chance)
        : Buffer.from(content),
      type: chance.of([media, 'application/json', 'multipart/form-data']),
    };
  if (media !== 'multipart/form-data') return { body: Buffer.from(content), type: media };
  const name = chance.of(['f', 'f', 'f', 'g', '__proto__', '']);
  const end = chance.of(['\r\n--b--\r\n', '\r\n--b--\r\n', '\r\n--b--\r\n', '', '\r\n--b\r\n']);
  const head = `--b\r\ncontent-disposition: form-data; name="${name}"; filename="x"\r\n\r\n`;
  const type = chance.of([`${media}; boundary=b`, `${media}; boundary=b`, `${media}; boundary=b`, media]);
  return { body: Buffer.from(`${head}${content}${end}`), type };
}

/** A JSON body, and what can be wrong with one. */
function distort(value: unknown, chance: Chance, known: Known): Buffer {
  const object = typeof value === 'object' && value !== null ? { ...value } : {};
  const names = Object.keys(object);
  const workspaces = known.get('workspaces') ?? [];
  if (workspaces.length > 0 && 'workspace' in object)
    Object.assign(object, { workspace: chance.of(workspaces) });
  if (chance.often(0.5)) return Buffer.from(JSON.stringify(object));
  if (names.length > 0 && chance.often(0.5)) {
    Object.assign(object, { [chance.of(names)]: chance.sample(NASTY) });
    return Buffer.from(JSON.stringify(object));
  }
  const text = JSON.stringify(object);
  return chance.of([
    () => Buffer.from(text.slice(0, Math.floor(text.length * chance.next()))),
    () => Buffer.from(text.replace('{', '{"__proto__":{"admin":true},')),
    () => Buffer.from(text.replace('{', '{"constructor":1,')),
    () => Buffer.from(`${text.slice(0, -1)},${text.slice(1)}`),
    () => Buffer.from('['.repeat(20_000)),
    () => Buffer.from(`{"code":${'['.repeat(5000)}${']'.repeat(5000)}}`),
    () => Buffer.from('{"code":"print(1)","limits":{"wallSeconds":1e999}}'),
    () => Buffer.from([0xff, 0xfe, 0x00, 0x7b]),
    () => Buffer.concat([Buffer.from('\ufeff'), Buffer.from(text)]),
    () => Buffer.from(textOf(chance.sample(NASTY))),
    () => Buffer.from(JSON.stringify({ ...object, code: 'x'.repeat(70_000) })),
  ])();
}

/** A handshake, and then messages or what is none (RFC 6455, section 5.2). */
function terminal({ target, headers }: Omit<FuzzRequest, 'endpoint'>, chance: Chance): Buffer {
  const path = chance.often(0.6) ? `${TERMINAL}?command=${chance.of(['cat', 'true', 'no-such'])}` : target;
  const lines = Object.entries({
    host: 'x',
    ...headers,
    ...{
      connection: 'upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': chance.of(['13', '13', '13', '8']),
    },
    'sec-websocket-key': chance.of(['AAAAAAAAAAAAAAAAAAAAAA==', 'AAAAAAAAAAAAAAAAAAAAAA==', 'x']),
  }).map(([name, value]) => `${name}: ${value}`);
  const messages = Array.from({ length: 1 + Math.floor(chance.next() * 3) }, () => message(chance));
  return Buffer.concat([
    Buffer.from(`GET ${path} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`, 'latin1'),
    ...messages,
  ]);
}

function message(chance: Chance): Buffer {
  const text = chance.of([
    ...['{"type":"resize","rows":2,"columns":2}', '{"type":"signal","signal":"SIGINT"}', '{}', '{', '\0', ''],
    ...['{"type":"resize","rows":-1,"columns":1e9}', '{"type":"signal","signal":"SIGNONE"}', 'x'.repeat(100)],
  ]);
  // Text, binary, close, ping, pong, one that is reserved, one that is to be continued; masked by zeros.
  const first = chance.of([0x81, 0x81, 0x82, 0x82, 0x88, 0x89, 0x8a, 0x8f, 0x01, 0xf1]);
  const masked = chance.often(0.95) ? 0x80 : 0;
  return Buffer.concat([Buffer.from([first, masked | text.length, 0, 0, 0, 0]), Buffer.from(text)]);
}

/** What no library would send. */
function broken({ method, target, headers, body }: Omit<FuzzRequest, 'endpoint'>, chance: Chance): Buffer {
  const lines = Object.entries({ host: 'x', ...headers }).map(([name, value]) => `${name}: ${value}`);
  const payload = body ?? Buffer.alloc(0);
  const request = (more: readonly string[], line = `${method} ${target} HTTP/1.1`) =>
    Buffer.concat([Buffer.from([line, ...lines, ...more, '', ''].join('\r\n'), 'latin1'), payload]);
  const length = `content-length: ${payload.length}`;
  return chance.of([
    // Shorter and longer than it says.
    () => request([`content-length: ${payload.length + 10}`, 'connection: close']),
    () => request(['content-length: 1', 'connection: close']),
    () => request([length, length.replace(/\d+/, '7')]),
    () => request([length, 'transfer-encoding: chunked']),
    () => request(['transfer-encoding: chunked', 'connection: close']),
    () => request(['content-length: -1']),
    () => request([length, 'x-request-id: a\0b', 'connection: close']),
    () => request([length, ' folded: header', 'connection: close']),
    () => request([length, `x: ${'y'.repeat(20_000)}`]),
    () => request([length, 'connection: close'], `${method} ${target} HTTP/9.9`),
    () => request([length, 'connection: close'], `${method} http://evil${target} HTTP/1.1`),
    () => request([length, 'connection: close'], `BREW ${target} HTTP/1.1`),
    () => request([length, 'connection: close'], `${method} ../../etc/passwd HTTP/1.1`),
    () => request([length, 'expect: 100-continue', 'connection: close']),
    () => request([length, 'upgrade: websocket', 'connection: upgrade']),
    () => Buffer.from([0x16, 0x03, 0x01, 0x00, 0xa5, 0x01]),
  ])();
}
