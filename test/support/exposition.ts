/** Reads Prometheus' text format (0.0.4) strictly: whoever scrapes would drop the whole of a scrape for one bad line. */
import assert from 'node:assert/strict';

interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}
export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly samples: Sample[];
}

const SUFFIXES: Readonly<Record<string, readonly string[]>> = {
  counter: [''],
  gauge: [''],
  histogram: ['_bucket', '_sum', '_count'],
};
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)/y;

export function parseExposition(text: string): Map<string, Family> {
  assert(text.endsWith('\n'), 'the last line ends');
  const families = new Map<string, Family>();
  const seen = new Set<string>();
  let family: Family | undefined;
  let help: { name: string; text: string } | undefined;
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const [, helped, words] = /^# HELP ([a-zA-Z_:][\w:]*) (.+)$/.exec(line) ?? [];
    if (helped !== undefined) {
      help = { name: helped, text: words ?? '' };
      continue;
    }
    const [, name, type = ''] = /^# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram)$/.exec(line) ?? [];
    if (name !== undefined) {
      assert.equal(help?.name, name, 'HELP comes before TYPE');
      assert(!families.has(name), `${name} comes once`);
      family = { name, help: help.text, type, samples: [] };
      families.set(name, family);
      continue;
    }
    const sample = parseSample(line);
    assert(family !== undefined, line);
    const { name: own, type: kind } = family;
    assert(
      SUFFIXES[kind]?.some((suffix) => sample.name === own + suffix),
      `${sample.name} is not of ${own}`,
    );
    assert(kind !== 'counter' || own.endsWith('_total'), `${own}: a counter ends in _total`);
    const key = `${sample.name}${JSON.stringify(Object.entries(sample.labels).sort())}`;
    assert(!seen.has(key), `${key} comes once`);
    seen.add(key);
    family.samples.push(sample);
  }
  for (const each of families.values()) if (each.type === 'histogram') checkHistogram(each);
  return families;
}

function parseSample(line: string): Sample {
  const [, name = '', inside = '', number = ''] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
  assert(name !== '', `no sample: ${line}`);
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < inside.length) {
    const [, key = '', text = ''] = LABEL.exec(inside) ?? [];
    assert(key !== '' && !Object.hasOwn(labels, key), `labels of: ${line}`);
    labels[key] = text.replaceAll(/\\(.)/g, (_, sign: string) => (sign === 'n' ? '\n' : sign));
  }
  const value = number === '+Inf' ? Infinity : Number(number);
  assert(!Number.isNaN(value), line);
  return { name, labels, value };
}

/** Buckets grow, the last is +Inf and is the count. */
function checkHistogram({ name, samples }: Family): void {
  const groups = new Map<string, Sample[]>();
  for (const sample of samples) {
    const labels = Object.entries(sample.labels).filter(([key]) => key !== 'le');
    const key = JSON.stringify(labels.sort());
    groups.set(key, [...(groups.get(key) ?? []), sample]);
  }
  for (const group of groups.values()) {
    const buckets = group.filter((sample) => sample.name === `${name}_bucket`);
    const edges = buckets.map(({ labels }) => (labels['le'] === '+Inf' ? Infinity : Number(labels['le'])));
    assert.deepEqual(
      edges,
      [...edges].sort((a, b) => a - b),
      name,
    );
    assert.equal(edges.at(-1), Infinity);
    for (const [index, { value }] of buckets.entries())
      assert(value >= (buckets[index - 1]?.value ?? 0), name);
    const count = group.find((sample) => sample.name === `${name}_count`);
    assert.equal(count?.value, buckets.at(-1)?.value, name);
    assert(group.some((sample) => sample.name === `${name}_sum`));
  }
}
