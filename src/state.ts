/** Where a Nox that is not installed keeps what it needs: its workspaces, its state and its token. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import { readEnvironment, type Defaults } from './config.ts';
import { startedAsRoot } from './privilege.ts';

/** Root's home is closed to the user that the server becomes; everybody else keeps their own state. */
export function stateDir(): string {
  if (startedAsRoot) return '/var/lib/nox';
  return join(readEnvironment()['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state'), 'nox');
}

export function developmentDefaults(): Defaults {
  const dir = stateDir();
  return {
    NOX_SANDBOX: join(dir, 'sandbox'),
    NOX_WORKSPACES: join(dir, 'workspaces'),
    NOX_STATE: join(dir, 'state'),
  };
}
