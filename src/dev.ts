/**
 * `make run`: gateway and runner in one process, with all of the isolation and no installation.
 *
 * Started as root it prepares what only root can (a directory, a token file, a cgroup), then becomes NOX_RUN_UID for
 * good before it opens a port or takes a byte from anybody.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { readEnvironment, type Defaults } from './config.ts';
import { buildGateway } from './gateway/app.ts';
import { AuditFile } from './gateway/audit-file.ts';
import { listen, unlisten } from './gateway/listen.ts';
import { preloadGateway } from './gateway/preload.ts';
import { Store } from './gateway/store/store.ts';
import { startTelemetry } from './gateway/telemetry.ts';
import { fail, loadConfig, makeLog, onStop } from './main.ts';
import { makeDirectoryFor, startedAsRoot } from './privilege.ts';
import { explainFailure, prepareRunner, startRunner } from './runner/start.ts';
import { developmentDefaults, stateDir } from './state.ts';
import { connect } from './transport/in-process.ts';

/** The token of the last start, or a new one, in a file that only the user can read. */
function ownToken(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
    const token = randomBytes(32).toString('hex');
    writeFileSync(file, `${token}\n`, { mode: 0o600, flag: 'wx' });
    return token;
  }
}

const tokenFile = join(stateDir(), 'token');
const given = readEnvironment()['NOX_API_TOKEN'];
const defaults: Defaults = {
  ...developmentDefaults(),
  ...(given === undefined ? { NOX_API_TOKEN: ownToken(tokenFile) } : {}),
};
const config = loadConfig('gateway', defaults);
const log = makeLog(config.logLevel, 'nox');
if (startedAsRoot) {
  await preloadGateway(log);
  makeDirectoryFor(config.runUid, config.state, 0o700);
}
prepareRunner(config);

try {
  const { executor } = await startRunner(config, log);
  const audit = await AuditFile.open(config.auditFile, log);
  const store = Store.open(config.state, config.keep, log);
  const runnerStatus = () => Promise.resolve(executor.status());
  const telemetry = await startTelemetry(config, audit, runnerStatus, log);
  const { metrics, tracer } = telemetry;
  const parts = { executor: connect(executor), store, log, audit, metrics, tracer };
  const app = await buildGateway({ ...config, ...parts });
  app.book.resume();
  onStop(log, async () => {
    await Promise.all([app.calls.stop(config.stopGraceSeconds), app.book.stop(config.stopGraceSeconds)]);
    await executor.close();
    await unlisten(app);
    await audit?.close();
    store.close();
    await telemetry.close();
  });
  const address = await listen(app, config.bindAddress, config.port);
  const token = given === undefined ? `$(cat ${tokenFile})` : '$NOX_API_TOKEN';
  process.stdout.write(`Nox is listening on ${address}
${given === undefined ? `The token is in ${tokenFile}\n` : ''}Try it:

  curl -H "Authorization: Bearer ${token}" -d '{"code": "print(6 * 7)"}' ${address}/run_py

`);
} catch (error) {
  fail(explainFailure(error));
}
