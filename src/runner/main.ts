/** The runner as a process of its own, behind a unix socket. */
import { CLEANUP_SECONDS, fail, loadConfig, makeLog, onStop } from '../main.ts';
import { serviceManager } from '../notify.ts';
import { serve } from '../transport/unix-socket.ts';
import { explainFailure, prepareRunner, startRunner } from './start.ts';

/** A request as JSON is as long as the body that it came in, but for the names around it. */
const ENVELOPE_BYTES = 64 * 1024;

const config = loadConfig('runner');
const log = makeLog(config.logLevel, 'nox-runner');
prepareRunner(config);
try {
  const { executor } = await startRunner(config, log);
  const server = await serve(executor, config.runnerSocket, 2 * config.maxBodyBytes + ENVELOPE_BYTES);
  const manager = serviceManager();
  onStop(log, async () => {
    manager.stopping(config.stopGraceSeconds + CLEANUP_SECONDS);
    await executor.drain(config.stopGraceSeconds);
    await executor.close();
    await server.close();
  });
  log.info({ socket: config.runnerSocket }, 'listening');
  manager.ready();
} catch (error) {
  fail(explainFailure(error));
}
