/** What every program of Nox does at its start and its end: settings, log, signals, one way to fail. */
import { writeSync } from 'node:fs';
import { pino, type Logger } from 'pino';
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
  let waiting = '';
  let turn: NodeJS.Immediate | undefined;
  const flush = () => {
    const data = Buffer.from(waiting);
    waiting = '';
    writeWhole(STDERR, data);
  };
  process.on('exit', flush);
  const stream = {
    write: (line: string) => {
      waiting += line;
      if (waiting.length > LOG_BUFFER) flush();
      turn ??= setImmediate(() => {
        turn = undefined;
        flush();
      });
    },
  };
  return pino({ name, level, timestamp: pino.stdTimeFunctions.isoTime }, stream);
}

const STDERR = 2;
const LOG_BUFFER = 16 * 1024;
const FULL_PIPE_MS = 10;

/** Waits for a reader that is slow; does without one that is gone (EPIPE), of which nobody could be told. */
function writeWhole(fd: number, data: Buffer): void {
  for (let at = 0; at < data.length;)
    try {
      at += writeSync(fd, data, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_PIPE_MS);
    }
}

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
