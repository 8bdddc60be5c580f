/** `noxctl proxy`: prints the configuration of a reverse proxy. Changes nothing. */
import { parseArgs } from 'node:util';
import type { Config } from '../config.ts';
import { caddyText } from './proxy-caddy.ts';
import { nginxText } from './proxy-nginx.ts';
import { planProxy, type ProxyOptions } from './proxy-plan.ts';

const USAGE =
  'noxctl proxy caddy|nginx --lan NAME | --domain NAME [--cert FILE --key FILE] [--upstream 127.0.0.1:8080] [--port 443]';

/** @throws Error naming the value that cannot be used, and the remedy */
export function proxyText(options: ProxyOptions, config: Config): string {
  const plan = planProxy(options, config);
  return options.kind === 'caddy' ? caddyText(plan) : nginxText(plan);
}

/**
 * @param args what follows `noxctl proxy`
 * @throws Error for the administrator, usage included where that helps
 */
export function proxyCommand(args: readonly string[], config: Config): string {
  return proxyText(optionsOf(args), config);
}

function optionsOf(args: readonly string[]): ProxyOptions {
  const { values, positionals } = parse(args);
  const [kind, ...more] = positionals;
  const { lan, domain, cert, key, upstream, port } = values;
  if ((kind !== 'caddy' && kind !== 'nginx') || more.length > 0) throw usage('name one of caddy and nginx');
  if ((lan === undefined) === (domain === undefined)) throw usage('give one of --lan and --domain');
  if ((cert === undefined) !== (key === undefined)) throw usage('--cert and --key go together');
  if (port !== undefined && !/^\d{1,5}$/.test(port))
    throw usage(`--port: ${JSON.stringify(port)} is no number`);
  return {
    kind,
    site: domain === undefined ? { lan: lan ?? '' } : { domain },
    certificate: cert === undefined || key === undefined ? undefined : { cert, key },
    upstream,
    port: port === undefined ? undefined : Number(port),
  };
}

function parse(args: readonly string[]) {
  const text = { type: 'string' } as const;
  const options = { lan: text, domain: text, cert: text, key: text, upstream: text, port: text };
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw usage((error as Error).message);
  }
}

function usage(fault: string): Error {
  return new Error(`proxy: ${fault}\nusage: ${USAGE}`);
}
