/** Holds answers against the OpenAPI document: status, media type, headers, and each member of each body. */
import { Compile } from 'typebox/compile';
import type { TSchema } from 'typebox';
import type { Method, OpenApi, Operation } from '../../src/gateway/openapi.ts';

export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

export interface Endpoint {
  readonly method: Uppercase<Method>;
  /** With its parameters in braces. */
  readonly path: string;
  readonly operation: Operation;
}

type Json = Readonly<Record<string, unknown>>;

export function endpointsOf(document: OpenApi): Endpoint[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      method: method.toUpperCase() as Uppercase<Method>,
      path,
      operation,
    })),
  );
}

export class Contract {
  readonly #document: OpenApi;
  readonly #checks = new Map<string, (value: unknown) => string | undefined>();

  constructor(document: OpenApi) {
    this.#document = document;
  }

  /** @returns what is wrong with the answer of an operation; undefined: nothing */
  fault({ operation }: Endpoint, { status, headers, body }: Reply): string | undefined {
    const answer = operation.responses[String(status)];
    if (answer === undefined) return `the status ${status} is not in the document`;
    for (const name of Object.keys(headers))
      if (Object.hasOwn(this.#document.components.headers, name) && !Object.hasOwn(answer.headers, name))
        return `the header ${name} is not in the document for ${status}`;
    if (headers['x-request-id'] === undefined) return 'there is no x-request-id';
    const media = mediaOf(headers);
    if (answer.content === undefined)
      return body.length === 0 ? undefined : `a body where the document has none: ${shown(body)}`;
    const found = media === undefined ? undefined : answer.content[media];
    if (found === undefined) return `the type ${String(media)} is not in the document for ${status}`;
    const { schema, 'x-nox-event': event } = found;
    if (event !== undefined) return this.#eventFault(event, media === 'text/event-stream', body.toString());
    return media === 'application/json' ? this.#fault(schema, body.toString()) : undefined;
  }

  #eventFault(schema: Json, sse: boolean, text: string): string | undefined {
    const lines = text.split('\n').filter((line) => line !== '');
    const data = sse ? lines.filter((line) => line.startsWith('data: ')).map((line) => line.slice(6)) : lines;
    return data.map((line) => this.#fault(schema, line)).find((fault) => fault !== undefined);
  }

  #fault(schema: Json, text: string): string | undefined {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      return `is not JSON: ${shown(text)}`;
    }
    const key = JSON.stringify(schema);
    let check = this.#checks.get(key);
    if (check === undefined) {
      check = checkOf(this.strict(schema));
      this.#checks.set(key, check);
    }
    const fault = check(value);
    return fault === undefined ? undefined : `${fault} in ${shown(text)}`;
  }

  /** Without references, and closed wherever it does not say that it is open. */
  strict(schema: Json, whole = true): Json {
    const { $ref, ...rest } = schema as { $ref?: string };
    if ($ref !== undefined) {
      const name = $ref.slice('#/components/schemas/'.length);
      const target = this.#document.components.schemas[name];
      if (target === undefined) throw new Error(`no schema ${name}`);
      const resolved = this.strict(target);
      return Object.keys(rest).length === 0 ? resolved : { allOf: [resolved, this.strict(rest, false)] };
    }
    const entries = Object.entries(schema).map(([name, value]) => [name, this.#inside(name, value)]);
    const closes =
      whole && schema['properties'] !== undefined && schema['additionalProperties'] === undefined;
    return { ...(Object.fromEntries(entries) as Json), ...(closes ? { additionalProperties: false } : {}) };
  }

  #inside(name: string, value: unknown): unknown {
    if (name === 'properties' || name === 'patternProperties') {
      const entries = Object.entries(value as Record<string, Json>);
      return Object.fromEntries(entries.map(([key, each]) => [key, this.strict(each)]));
    }
    if (name === 'items') return this.strict(value as Json);
    if (name === 'anyOf' || name === 'allOf') return (value as Json[]).map((each) => this.strict(each));
    return value;
  }
}

function checkOf(schema: Json): (value: unknown) => string | undefined {
  const compiled = Compile(schema as TSchema);
  return (value) => {
    if (compiled.Check(value)) return undefined;
    const [first] = compiled.Errors(value);
    return first === undefined ? 'does not fit' : `${first.instancePath}: ${first.message}`;
  };
}

export function mediaOf(headers: Reply['headers']): string | undefined {
  return headers['content-type']?.split(';')[0]?.trim();
}

const shown = (text: string | Buffer): string => JSON.stringify(String(text).slice(0, 300));
