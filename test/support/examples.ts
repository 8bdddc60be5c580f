/**
 * The examples of a document: each `sh` block, and beneath it, in a block `json` or `text`, what it prints. Without
 * such a block it prints nothing.
 *
 * In an answer `…` stands for what varies. In text: within a line for any part of it, on a line of its own for any
 * lines, or none. In JSON: within a string for any part of it; the string "…" for any value; a member of that name for
 * any further members. White space and the order of members do not matter in JSON.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

interface Block {
  /** Of its first line, from 1. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
}
export interface Example {
  readonly line: number;
  /** The heading of level 2 above it. */
  readonly section: string;
  readonly command: string;
  readonly answer: Block | undefined;
}
interface Printed {
  /** Of each example that was begun: standard output and error. */
  readonly outputs: readonly string[];
  /** Of the shell: not 0 where the last of them failed. */
  readonly status: number | string;
}

const ANY = '…';
/** So much is for a machine that does other things as well. */
const DEADLINE_SECONDS = 600;

/** @throws Error for a block that is neither a command nor an answer, and for an answer without a command above it */
export function examplesOf(markdown: string): Example[] {
  const examples: Example[] = [];
  const lines = markdown.split('\n');
  let section = '';
  let above: Omit<Example, 'answer'> | undefined;
  const close = (answer: Block | undefined) => {
    if (above !== undefined) examples.push({ ...above, answer });
    above = undefined;
  };
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at] ?? '';
    if (!line.startsWith('```')) {
      if (line !== '') close(undefined);
      if (line.startsWith('## ')) section = line.slice(3);
      continue;
    }
    const end = lines.indexOf('```', at + 1);
    if (end < 0) throw new Error(`line ${at + 1}: the block has no end`);
    const block = { line: at + 2, language: line.slice(3), text: lines.slice(at + 1, end).join('\n') };
    if (block.language === 'sh') {
      close(undefined);
      above = { line: block.line, section, command: block.text };
    } else if (block.language !== 'json' && block.language !== 'text')
      throw new Error(`line ${at + 1}: a block is sh, json or text, not "${block.language}"`);
    else if (above === undefined) throw new Error(`line ${at + 1}: an answer with no command above it`);
    else close(block);
    at = end;
  }
  close(undefined);
  return examples;
}

/** What differs between what was printed and what the document says; undefined: nothing. */
export function difference(printed: string, answer: Block | undefined): string | undefined {
  if (answer === undefined) return printed === '' ? undefined : 'it prints something';
  if (answer.language === 'text') return textDifference(printed, answer.text);
  const expected: unknown = JSON.parse(answer.text);
  let actual: unknown;
  try {
    actual = JSON.parse(printed);
  } catch {
    return 'it prints no JSON';
  }
  return valueDifference(actual, expected, 'the answer');
}

function textDifference(printed: string, expected: string): string | undefined {
  const patterns = expected.split('\n').map((line) => (line === ANY ? '(?:.*\n)*' : `${pattern(line)}\n`));
  const whole = new RegExp(`^${patterns.join('')}$`);
  return whole.test(`${printed.replaceAll('\r\n', '\n').replace(/\n+$/, '')}\n`)
    ? undefined
    : 'it prints other text';
}

function valueDifference(actual: unknown, expected: unknown, place: string): string | undefined {
  if (expected === ANY) return undefined;
  const differs = `${place} is ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`;
  if (typeof expected === 'string')
    return typeof actual === 'string' && new RegExp(`^${pattern(expected)}$`, 's').test(actual)
      ? undefined
      : differs;
  if (typeof expected !== 'object' || expected === null) return actual === expected ? undefined : differs;
  if (typeof actual !== 'object' || actual === null || Array.isArray(actual) !== Array.isArray(expected))
    return differs;
  const members = new Map(Object.entries(actual));
  for (const [name, value] of Object.entries(expected)) {
    if (name === ANY) continue;
    if (!members.has(name)) return `${place} has no ${name}`;
    const found = valueDifference(members.get(name), value, `${place}.${name}`);
    if (found !== undefined) return found;
    members.delete(name);
  }
  const [more] = Object.hasOwn(expected, ANY) ? [] : members.keys();
  return more === undefined ? undefined : `${place} has ${more} as well`;
}

const pattern = (text: string): string =>
  text.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&').replaceAll(ANY, '.*');

/** Runs the examples one after another in one `bash -eu` in an empty directory, as someone does who types them. */
export async function execute(
  examples: readonly Example[],
  env: Readonly<Record<string, string>>,
  deadlineSeconds = DEADLINE_SECONDS,
): Promise<Printed> {
  const dir = await mkdtemp(join(tmpdir(), 'nox-examples-'));
  try {
    const home = await mkdtemp(join(dir, 'home-'));
    const outputOf = (index: number) => join(dir, `output-${index}`);
    const script = examples.map(({ command }, index) => `exec >${outputOf(index)} 2>&1\n${command}\n`);
    await writeFile(join(dir, 'script'), script.join(''));
    // It ends what the shell has started as well.
    const deadline = ['--signal=KILL', String(deadlineSeconds)];
    const shell = spawn('timeout', [...deadline, 'bash', '-eu', join(dir, 'script')], {
      cwd: home,
      env: { PATH: process.env['PATH'] ?? '', LANG: 'C.UTF-8', HOME: home, ...env },
      stdio: 'ignore',
    });
    const [code, signal] = (await once(shell, 'exit')) as [number | null, NodeJS.Signals | null];
    const outputs: string[] = [];
    for (const index of examples.keys()) {
      const output = await readFile(outputOf(index), 'utf8').catch(() => undefined);
      if (output === undefined) break;
      outputs.push(output);
    }
    return { outputs, status: code ?? signal ?? '' };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** What is wrong, with its place and both texts; empty: nothing. */
export function faultsOf(examples: readonly Example[], { outputs, status }: Printed): string[] {
  return examples.flatMap(({ line, command, answer }, index) => {
    const output = outputs[index];
    const last = index === outputs.length - 1;
    // What comes after the one that failed was not to be reached.
    if (output === undefined && status !== 0 && index > 0) return [];
    const fault =
      output === undefined
        ? 'it was not reached'
        : last && status !== 0
          ? `it ends with ${status}`
          : difference(output, answer);
    if (fault === undefined) return [];
    const texts = [command, '--- prints', output ?? '', '--- in the document', answer?.text ?? ''];
    return [[`line ${line}: ${fault}`, ...texts].join('\n')];
  });
}
