/** What runs here, and with which settings; for people, and true. */
import { describeConfig, parseConfig } from '../config.ts';
import { SETTINGS_FILE } from './desired.ts';
import type { Host } from './host.ts';
import { interrupted } from './journal.ts';
import { CURRENT } from './release.ts';
import { health } from './selftest.ts';
import { asEnvironment } from './settings.ts';
import { SERVICES } from './undo.ts';

/** @returns whether the service can be used */
export async function status(host: Host, say: (line: string) => void): Promise<boolean> {
  let up = true;
  for (const unit of SERVICES) {
    const names = [
      'ActiveState',
      'SubState',
      'MainPID',
      'ActiveEnterTimestamp',
      'NRestarts',
      'MemoryCurrent',
    ];
    const { stdout } = host.run(['systemctl', 'show', unit, ...names.map((name) => `--property=${name}`)]);
    const shown = Object.fromEntries(
      stdout.split('\n').map((line) => line.split(/=(.*)/s) as [string, string]),
    );
    const active = shown['ActiveState'] === 'active';
    up &&= active;
    const since = active
      ? ` since ${shown['ActiveEnterTimestamp'] ?? '?'}, pid ${shown['MainPID'] ?? '?'}`
      : '';
    const memory = Number(shown['MemoryCurrent']);
    const held = active && memory > 0 ? `, ${(memory / 2 ** 20).toFixed(0)} MiB` : '';
    say(
      `${unit.replace('.service', '').padEnd(12)} ${shown['ActiveState'] ?? 'unknown'} (${shown['SubState'] ?? '?'})${since}${held}, ${shown['NRestarts'] ?? '0'} restarts`,
    );
  }
  say(`${'program'.padEnd(12)} ${host.linkTarget(CURRENT)?.replace('releases/', '') ?? 'not installed'}`);
  const text = settingsText(host);
  if (text === null) {
    say(`${'API'.padEnd(12)} not asked: only root can read ${SETTINGS_FILE}`);
    return up;
  }
  for (const { verb, started } of interrupted(host))
    say(
      `interrupted  ${verb} of ${started}; the next install, harden, repair, restore or rollback undoes it`,
    );
  if (text === undefined) {
    say(`${'settings'.padEnd(12)} ${SETTINGS_FILE} is missing: noxctl install`);
    return false;
  }
  const env = asEnvironment(text);
  try {
    const config = parseConfig('gateway', env);
    const said = await health(config);
    up &&= said.ok;
    say(
      `${'API'.padEnd(12)} ${said.ok ? 'answers' : 'DOWN'} on ${config.bindAddress}:${String(config.port)}: ${said.said}`,
    );
    say('');
    say(describeConfig(env));
  } catch (error) {
    up = false;
    say(`${'settings'.padEnd(12)} ${(error as Error).message}`);
  }
  return up;
}

/** @returns null for whoever may not read it */
function settingsText(host: Host): string | undefined | null {
  try {
    return host.text(SETTINGS_FILE);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return null;
    throw error;
  }
}
