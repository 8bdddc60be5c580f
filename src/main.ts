/** What every program of Nox does at its start and its end: settings, log, signals, one way to fail. */
import { destination, pino, type Logger } from 'pino';
import {
  ConfigError,
  describeConfig,
  parseConfig,
  readEnvironment,
  type Config,
  type Defaults,
  type Role,
} from './config.ts';

/**
 * What is logged in one turn of the event loop is written at its end, in one go, when the answers are on their way: to
 * write wakes whoever reads the log. An exit, also by an exception, writes what is left.
 */
export function makeLog(level: string, name: string): Logger {
  const out = destination({ fd: 2, sync: true, minLength: LOG_BUFFER });
  let turn: NodeJS.Immediate | undefined;
  process.on('exit', () => {
    out.flushSync();
  });
  const stream = {
    write: (line: string) => {
      out.write(line);
      turn ??= setImmediate(() => {
        turn = undefined;
        out.flushSync();
      });
    },
  };
  return pino({ name, level, timestamp: pino.stdTimeFunctions.isoTime }, stream);
}

const LOG_BUFFER = 16 * 1024 - 1;

/** Reads the settings; answers `--check-config`; ends the process with 2 and each fault on a line where they are bad. */
export function loadConfig(role: Role, defaults: Defaults = {}): Config {
  const env = readEnvironment();
  try {
    const config = parseConfig(role, env, defaults);
    if (process.argv.includes('--check-config')) {
      process.stdout.write(`${describeConfig(env, defaults)}\n`);
      process.exit(0);
    }
    return config;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    fail(`settings cannot be used:\n${error.message}`, 2);
  }
}

export function fail(message: string, code = 1): never {
  process.stderr.write(`nox: ${message}\n`);
  process.exit(code);
}

/** A stop takes no longer than this after its grace: answers are read, processes die. */
export const CLEANUP_SECONDS = 15;

/**
 * Runs `stop` at the first SIGTERM or SIGINT and then exits; a second signal exits at once, which ends the runs too
 * (they die with the runner).
 */
export function onStop(log: Logger, stop: () => Promise<void>): void {
  let stopping = false;
  const handle = (signal: NodeJS.Signals) => {
    if (stopping) process.exit(1);
    stopping = true;
    log.info({ signal }, 'stopping');
    stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, 'stop failed');
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', handle);
  process.on('SIGINT', handle);
}
