/** What the measurements found, collected while they run, and printed once at the end. */

export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  readonly notes?: readonly string[];
}

export interface PromiseKept {
  readonly promise: string;
  readonly measured: string;
  readonly kept: boolean;
  /** What is wished for beyond the promise. */
  readonly beyond?: { readonly target: string; readonly kept: boolean };
  /** A wrong answer is a defect wherever it is measured; a slow one may be the machine's. */
  readonly wrong?: boolean;
}

export interface Section {
  readonly name: string;
  readonly tables: readonly Table[];
  readonly promises: readonly PromiseKept[];
  /** The same figures for programs. */
  readonly data: unknown;
}

export function renderTable({ title, columns, rows, notes = [] }: Table): string {
  const widths = columns.map((column, at) =>
    Math.max(column.length, ...rows.map((row) => (row[at] ?? '').length)),
  );
  const line = (cells: readonly string[]) =>
    widths
      .map((width, at) => (at === 0 ? (cells[at] ?? '').padEnd(width) : (cells[at] ?? '').padStart(width)))
      .join('  ')
      .trimEnd();
  const rule = widths.map((width) => '-'.repeat(width)).join('  ');
  return [
    title,
    '',
    ...[columns, [rule], ...rows].map((row) => (row[0] === rule ? rule : line(row))),
    ...notes,
    '',
  ].join('\n');
}

export function renderPromises(promises: readonly PromiseKept[]): string {
  const rows = promises.map(({ promise, measured, kept, beyond }) => [
    promise,
    measured,
    kept ? 'yes' : 'NO',
    beyond === undefined ? '' : `${beyond.target}: ${beyond.kept ? 'yes' : 'no'}`,
  ]);
  return renderTable({ title: 'Promises', columns: ['promise', 'measured', 'reached', 'beyond'], rows });
}

interface Bound {
  readonly promise: string;
  readonly value: number;
  readonly bound: number;
  readonly further?: number;
  readonly show: (value: number) => string;
}

export function atMost({ promise, value, bound, further, show }: Bound): PromiseKept {
  const beyond =
    further === undefined ? {} : { beyond: { target: `≤ ${show(further)}`, kept: value <= further } };
  return { promise: `${promise} ≤ ${show(bound)}`, measured: show(value), kept: value <= bound, ...beyond };
}

export function atLeast({ promise, value, bound, further, show }: Bound): PromiseKept {
  const beyond =
    further === undefined ? {} : { beyond: { target: `≥ ${show(further)}`, kept: value >= further } };
  return { promise: `${promise} ≥ ${show(bound)}`, measured: show(value), kept: value >= bound, ...beyond };
}

/** The promise that is in every section, named only where it is broken. */
export function noneWrong(section: string, wrong: readonly string[]): PromiseKept[] {
  if (wrong.length === 0) return [];
  const measured = `${String(wrong.length)} wrong, first: ${(wrong[0] ?? '').slice(0, 300)}`;
  return [
    { promise: `${section}: every single run is answered correctly`, measured, kept: false, wrong: true },
  ];
}

export const ms = (value: number, digits = 1): string => value.toFixed(digits);
export const mb = (bytes: number, digits = 0): string => (bytes / 1e6).toFixed(digits);
export const times =
  (digits = 2) =>
  (value: number): string =>
    `${value.toFixed(digits)} ×`;
