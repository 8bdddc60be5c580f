/**
 * What an older installation tells: the original system (Python, uvicorn) or an earlier Nox, both with the Python
 * environment of the runs in the user's home.
 */
import type { Host } from './host.ts';
import { editSettings, parseSettings } from './settings.ts';

export const API_UNIT = '/etc/systemd/system/nox-api.service';
export const OLD_VENV = '/home/nox/nox/.venv';

/** Is there an installation that was not hardened yet? */
export function isUnhardened(host: Host): boolean {
  const unit = host.text(API_UNIT);
  if (host.entry(OLD_VENV)?.kind === 'directory') return true;
  return unit !== undefined && !/^ProtectSystem=strict$/m.test(unit);
}

/** Settings that an older unit holds itself: the address on its command line, `Environment=`. */
export function inheritedSettings(host: Host): Record<string, string> {
  const unit = host.text(API_UNIT);
  if (unit === undefined || !unit.includes('uvicorn')) return {};
  const text = unit.replaceAll('\\\n', ' ');
  const found: Record<string, string> = {};
  for (const [, value = ''] of text.matchAll(/^Environment=(.*)$/gm)) {
    for (const word of value.match(/"[^"]*"|'[^']*'|\S+/g) ?? []) {
      const bare = word.replace(/^(["'])(.*)\1$/, '$2');
      Object.assign(found, parseSettings(bare));
    }
  }
  const command = /^ExecStart=(.*)$/m.exec(text)?.[1] ?? '';
  const address = /--host[= ](\S+)/.exec(command)?.[1];
  const port = /--port[= ](\d+)/.exec(command)?.[1];
  if (address !== undefined && !address.includes('$')) found['NOX_BIND_ADDR'] = address;
  if (port !== undefined) found['NOX_PORT'] = port;
  return Object.fromEntries(Object.entries(found).filter(([name]) => name.startsWith('NOX_')));
}

/** An interpreter that was named in the old environment will not be there: the default is the new one. */
export function withoutOldPython(settings: string): string {
  const python = parseSettings(settings)['NOX_PYTHON'] ?? '';
  return python.startsWith(`${OLD_VENV}/`) ? editSettings(settings, { NOX_PYTHON: undefined }) : settings;
}

/** `20250813105958`: the local time of the machine, as the reference names its backups. */
export function timestamp(now: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  return (
    String(now.getFullYear()) +
    two(now.getMonth() + 1) +
    two(now.getDate()) +
    two(now.getHours()) +
    two(now.getMinutes()) +
    two(now.getSeconds())
  );
}
