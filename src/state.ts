/** Where a Nox that is not installed keeps what it needs: its workspaces, its state, its token, its Node. */
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
  return {
    NOX_SANDBOX: join(stateDir(), 'sandbox'),
    NOX_WORKSPACES: join(stateDir(), 'workspaces'),
    NOX_STATE: join(stateDir(), 'state'),
  };
}

/** A second name of Nox's own Node, outside of root's home. */
export function ownNode(): string {
  return join(stateDir(), 'node');
}
