/** The gateway as a process of its own: HTTP on one side, the runner's socket on the other. */
import { CLEANUP_SECONDS, fail, loadConfig, makeLog, onStop } from '../main.ts';
import { serviceManager } from '../notify.ts';
import { dropRoot, makeDirectoryFor, startedAsRoot } from '../privilege.ts';
import { connect } from '../transport/unix-socket.ts';
import { buildGateway } from './app.ts';
import { AuditFile } from './audit-file.ts';
import { listen, unlisten } from './listen.ts';
import { preloadGateway } from './preload.ts';
import { Store } from './store/store.ts';
import { startTelemetry } from './telemetry.ts';

/** A scrape does not wait for a runner that hangs. */
const STATUS_TIMEOUT_MS = 1000;

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
const executor = connect(config.runnerSocket);
const runnerStatus = () => executor.ask('status', {}, AbortSignal.timeout(STATUS_TIMEOUT_MS));
const telemetry = await startTelemetry(config, audit, runnerStatus, log).catch((error: unknown) =>
  fail((error as Error).message),
);
const { metrics, tracer } = telemetry;
const app = await buildGateway({ ...config, executor, store, log, audit, metrics, tracer });
try {
  app.book.resume();
} catch (error) {
  fail((error as Error).message);
}
const manager = serviceManager();
onStop(log, async () => {
  manager.stopping(config.stopGraceSeconds + CLEANUP_SECONDS);
  await Promise.all([app.calls.stop(config.stopGraceSeconds), app.book.stop(config.stopGraceSeconds)]);
  await unlisten(app);
  await audit?.close();
  store.close();
  await telemetry.close();
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
