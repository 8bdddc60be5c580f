/** Checks a value against a schema and says what is wrong in the words of the one who sent it. */
import type { Static, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { NoxError } from './errors.ts';

/** The most of a wrong value that a message repeats. */
const SHOWN = 100;
/** The most names that a message repeats. */
const SHOWN_NAMES = 5;

interface SchemaError {
  readonly instancePath: string;
  readonly keyword: string;
  readonly schemaPath: string;
  readonly message: string;
  readonly params: object;
}

/**
 * @returns a function that hands its argument back, typed
 * @throws NoxError `invalid_request` naming the first wrong field, its value and what it must be
 */
export function validator<T extends TSchema>(schema: T): (value: unknown) => Static<T> {
  const compiled = Compile(schema);
  return (value) => {
    if (compiled.Check(value)) return value;
    throw new NoxError('invalid_request', explain(value, compiled.Errors(value)));
  };
}

function explain(value: unknown, all: readonly SchemaError[]): string {
  const errors = branchMeant(all);
  const [error] = errors;
  if (error === undefined) return 'The request is not valid';
  if (error.keyword === 'required') {
    const { requiredProperties } = error.params as { requiredProperties: string[] };
    const missing = requiredProperties.map((name) => fieldName(`${error.instancePath}/${name}`));
    return `${missing.join(', ')}: missing`;
  }
  // What a schema with `additionalProperties: false` does not know.
  if (error.keyword === 'boolean') {
    const unknown = errors.filter(({ keyword }) => keyword === 'boolean').slice(0, SHOWN_NAMES);
    return `${unknown.map(({ instancePath }) => cut(fieldName(instancePath))).join(', ')}: no such member`;
  }
  const name = fieldName(error.instancePath);
  const shown = show(valueAt(value, error.instancePath));
  const same = errors.filter((each) => each.instancePath === error.instancePath && each.keyword !== 'anyOf');
  const joined = all.some((each) => each.keyword === 'anyOf' && each.instancePath === error.instancePath);
  const wanted = new Set(same.map((each) => each.message));
  return `${name === '' ? 'body' : name}: ${shown} ${[...wanted].join(joined ? ' or ' : ' and ')}`;
}

/**
 * The errors of a union's branches come all together. The branch that was meant is the one whose literals fit
 * (`kind`), or else the one that fits furthest down.
 */
function branchMeant(errors: readonly SchemaError[]): readonly SchemaError[] {
  const union = errors.find((error) => error.keyword === 'anyOf');
  if (union === undefined) return errors;
  const branches = new Map<string, SchemaError[]>();
  for (const error of errors) {
    const branch = /^.*?\/anyOf\/\d+/.exec(error.schemaPath)?.[0];
    if (branch !== undefined) branches.set(branch, [...(branches.get(branch) ?? []), error]);
  }
  const literal = (error: SchemaError) => error.keyword === 'const';
  const fitting = [...branches.values()].filter((each) => !each.some(literal));
  if (fitting.length === 1 && branches.size > 1) return fitting[0] ?? errors;
  const depth = (error: SchemaError) => steps(error.instancePath).length;
  const deepest = Math.max(...errors.map(depth));
  return deepest > depth(union) ? errors.filter((error) => depth(error) === deepest) : errors;
}

const steps = (pointer: string): string[] =>
  pointer
    .split('/')
    .slice(1)
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'));

const fieldName = (pointer: string): string => steps(pointer).join('.');

function valueAt(value: unknown, pointer: string): unknown {
  return steps(pointer).reduce<unknown>(
    (at, step) => (typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[step] : undefined),
    value,
  );
}

function show(value: unknown): string {
  return cut(value === undefined ? 'nothing' : JSON.stringify(value));
}

const cut = (text: string): string => (text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text);
