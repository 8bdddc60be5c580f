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
  const rows = promises.map(({ promise, measured, kept }) => [promise, measured, kept ? 'yes' : 'NO']);
  return renderTable({ title: 'Promises', columns: ['promise', 'measured', 'reached'], rows });
}

export const ms = (value: number, digits = 1): string => value.toFixed(digits);
export const mb = (bytes: number): string => (bytes / 1e6).toFixed(0);
