/**
 * The settings file, /etc/default/nox-api, as systemd reads it (systemd.exec(5), EnvironmentFile=): `NAME=value`
 * lines, comments with # or ;, values bare or quoted. Lines that are not ours to change are kept byte for byte.
 */
import { randomBytes } from 'node:crypto';
import { words } from '../addresses.ts';
import { badSettings, SETTINGS, type Environment } from '../config.ts';

const ASSIGNMENT = /^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)$/;

/** The variables that a service would get; the last of a name counts. */
export function parseSettings(text: string): Record<string, string> {
  const values: Record<string, string> = {};
  for (const line of joinLines(text)) {
    const match = ASSIGNMENT.exec(line);
    if (match !== null && !/^\s*[#;]/.test(line)) values[match[1] ?? ''] = unquote(match[2] ?? '');
  }
  return values;
}

/** A backslash before the end of a line goes on with the next. */
function joinLines(text: string): string[] {
  return text.replaceAll('\\\n', '').split('\n');
}

function unquote(raw: string): string {
  const value = raw.trim();
  const quoted = /^(["'])(.*)\1$/s.exec(value);
  if (quoted === null) return value.replace(/\\(.)/g, '$1');
  return quoted[1] === '"' ? (quoted[2] ?? '').replace(/\\(["\\$`])/g, '$1') : (quoted[2] ?? '');
}

/** Values that systemd would read back as they are: quoted where a bare one could be misread. */
function quote(value: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]*$/.test(value) ? value : `"${value.replace(/(["\\$`])/g, '\\$1')}"`;
}

/**
 * The file with these settings in it; everything else stays as it is.
 *
 * @param values undefined takes a setting out of force: its line is kept as a comment
 */
export function editSettings(text: string, values: Readonly<Record<string, string | undefined>>): string {
  const lines = text === '' ? [] : text.replace(/\n$/, '').split('\n');
  const left = new Map(Object.entries(values));
  // From the end: the last line of a name is the one that counts.
  for (let index = lines.length - 1; index >= 0; index--) {
    const line = lines[index] ?? '';
    const name = /^\s*[#;]/.test(line) ? undefined : ASSIGNMENT.exec(line)?.[1];
    if (name === undefined || !(name in values)) continue;
    const value = values[name];
    if (value === undefined) lines[index] = `# cannot be used: ${line.trim()}`;
    else if (left.has(name)) lines[index] = `${name}=${quote(value)}`;
    left.delete(name);
  }
  for (const [name, value] of left) if (value !== undefined) lines.push(`${name}=${quote(value)}`);
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

const HEADER = `# Settings of Nox. docs/configuration.md lists them all; after a change: make install (or systemctl restart
# nox-runner nox-api, where only limits changed).
`;

/** 256 bits, as hexadecimal digits. */
export const newToken = (): string => randomBytes(32).toString('hex');

/**
 * The settings that a machine should have: those it has, a token, and what was found out about an older
 * installation. Names that Nox does not know would keep it from starting: they are taken out of force.
 *
 * @param makeToken called only where there is none yet
 */
export function completeSettings(
  text: string | undefined,
  inherited: Readonly<Record<string, string>>,
  makeToken: () => string,
): string {
  const now = parseSettings(text ?? '');
  const changes: Record<string, string | undefined> = {};
  for (const name of Object.keys(now)) {
    if (name.startsWith('NOX_') && !Object.hasOwn(SETTINGS, name)) changes[name] = undefined;
  }
  for (const [name, value] of Object.entries(inherited)) if (!now[name]) changes[name] = value;
  if (!now['NOX_API_TOKEN'] && !changes['NOX_API_TOKEN']) changes['NOX_API_TOKEN'] = makeToken();
  return Object.keys(changes).length === 0 ? (text ?? '') : editSettings(text ?? HEADER, changes);
}

/**
 * The file without values that cannot be used: each is replaced by the one that worked last, or taken out of force.
 *
 * @param good the settings that worked last; stands in for a file that has gone
 */
export function mendSettings(text: string | undefined, good: string | undefined): string | undefined {
  if (text === undefined) return good;
  const worked = parseSettings(good ?? '');
  const bad = badSettings(asEnvironment(text));
  const now = parseSettings(text);
  const changes: Record<string, string | undefined> = Object.fromEntries(
    bad.map((name) => [name, worked[name]]),
  );
  if (!now['NOX_API_TOKEN'] && worked['NOX_API_TOKEN']) changes['NOX_API_TOKEN'] = worked['NOX_API_TOKEN'];
  return Object.keys(changes).length === 0 ? text : editSettings(text, changes);
}

/** A text that can be shown: the value of every secret setting is replaced. */
export function hideSecrets(text: string): string {
  return joinLines(text)
    .map((line) => {
      const name = ASSIGNMENT.exec(line.replace(/^[\s#;]*(cannot be used: )?/, ''))?.[1];
      if (name !== undefined && isSecret(name)) return `${line.slice(0, line.indexOf('=') + 1)}(hidden)`;
      // Within a line as well (`Environment=` of an old unit), and in an address.
      return line
        .replaceAll(/(\b\w*(?:TOKEN|SECRET|PASSW|_KEY)\w*=)("[^"]*"|'[^']*'|[^\s"']+)/g, '$1(hidden)')
        .replaceAll(/:\/\/[^\s/@]+@/g, '://(hidden)@');
    })
    .join('\n');
}

/** Also of names that are not ours: an older system may have kept more. */
function isSecret(name: string): boolean {
  return /TOKEN|SECRET|PASSW|_KEY/.test(name);
}

/** pip's requirements, one a line, from a list separated by spaces; a `--hash=…` belongs to what is before it. */
export function requirements(packages: string): string {
  const lines: string[] = [];
  for (const word of words(packages)) {
    const last = lines.at(-1);
    if (word.startsWith('--hash=') && last !== undefined) lines.splice(-1, 1, `${last} ${word}`);
    else lines.push(word);
  }
  return lines.map((line) => `${line}\n`).join('');
}

/** What the two programs find in their environment, for parseConfig. */
export function asEnvironment(text: string): Environment {
  return Object.fromEntries(Object.entries(parseSettings(text)).filter(([name]) => name.startsWith('NOX_')));
}
