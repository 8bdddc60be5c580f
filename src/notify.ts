/**
 * What the service manager is told (sd_notify(3)): that the program serves, that it stops, and, as long as its event
 * loop turns, that it is alive. deploy/notify.pl has opened the socket; without it, all of this does nothing.
 */
import { writeSync } from 'node:fs';
import { readEnvironment, type Environment } from './config.ts';

export interface ServiceManager {
  /** The program takes requests. From now on its life is watched, where the unit has a watchdog. */
  ready(): void;
  /** The program stops; it will need no more than so many seconds for it, whatever the unit says. */
  stopping(seconds: number): void;
}

/** Three signs of life in each period: one that comes late is no death. */
const SIGNS = 3;
const MICROSECONDS_PER_MS = 1000;

export function serviceManager(env: Environment = readEnvironment()): ServiceManager {
  const fd = Number(env['NOTIFY_FD'] ?? -1);
  if (fd < 0) return { ready: () => undefined, stopping: () => undefined };
  const watchdogMs = Number(env['WATCHDOG_USEC'] ?? 0) / MICROSECONDS_PER_MS;
  return {
    ready: () => {
      writeSync(fd, 'READY=1');
      if (watchdogMs > 0) setInterval(tell, watchdogMs / SIGNS, fd, 'WATCHDOG=1').unref();
    },
    stopping: (seconds) => {
      tell(fd, `STOPPING=1\nEXTEND_TIMEOUT_USEC=${Math.ceil(seconds * 1e6)}`);
    },
  };
}

/** A manager that has no room for a message will get the next one. */
function tell(fd: number, message: string): void {
  try {
    writeSync(fd, message);
  } catch {
    // Nobody is there to be told of it; without signs of life the manager acts by itself.
  }
}
