/** The gateway as a process of its own: HTTP on one side, the runner's socket on the other. */
import { CLEANUP_SECONDS, fail, loadConfig, makeLog, onStop } from '../main.ts';
import { serviceManager } from '../notify.ts';
import { dropRoot, makeDirectoryFor, startedAsRoot } from '../privilege.ts';
import { connect } from '../transport/unix-socket.ts';
import { buildGateway } from './app.ts';
import { AuditFile } from './audit-file.ts';
import { listen } from './listen.ts';
import { preloadGateway } from './preload.ts';
import { Store } from './store/store.ts';

const config = loadConfig('gateway');
const log = makeLog(config.logLevel, 'nox-api');
// The runner's group is what opens its socket.
if (startedAsRoot) await preloadGateway(log);
if (startedAsRoot) makeDirectoryFor(config.apiUid, config.state, 0o700);
dropRoot(config.apiUid, config.runUid);
const audit = await AuditFile.open(config.auditFile, log).catch((error: unknown) =>
  fail((error as Error).message),
);
const store = openStore();
const app = await buildGateway({ ...config, executor: connect(config.runnerSocket), store, log, audit });
const manager = serviceManager();
onStop(log, async () => {
  manager.stopping(config.stopGraceSeconds + CLEANUP_SECONDS);
  await app.calls.stop(config.stopGraceSeconds);
  await app.close();
  await audit?.close();
  store.close();
});
try {
  log.info({ address: await listen(app, config.bindAddress, config.port) }, 'listening');
  manager.ready();
} catch (error) {
  fail((error as Error).message);
}

function openStore(): Store {
  try {
    return Store.open(config.state, config.keep, log);
  } catch (error) {
    fail((error as Error).message);
  }
}
