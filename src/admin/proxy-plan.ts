/**
 * A reverse proxy in front of the gateway, before it is text for Caddy or nginx: every value checked.
 *
 * What both keep: the body limit is the server's own plus the form around a file, so that the server refuses by name;
 * a pause of the server's may be as long as the longest wait and run together; nothing is gathered before it is passed
 * on, in either direction; the client's address is that of its connection, whatever headers it sent.
 */
import { reachedAt } from '../addresses.ts';
import type { Config } from '../config.ts';
import { checkAddress, checkDomain, checkFile, checkName, checkPort } from './proxy-names.ts';

export interface ProxyOptions {
  readonly kind: 'caddy' | 'nginx';
  /** A name or address of the own network, or a public name. */
  readonly site: { readonly lan: string } | { readonly domain: string };
  /** Certificate files, where the proxy does not get them itself. */
  readonly certificate?: { readonly cert: string; readonly key: string } | undefined;
  /** Where the gateway listens. Default: what the settings say. */
  readonly upstream?: string | undefined;
  /** Default: 443 */
  readonly port?: number | undefined;
  /** Where clear text is sent on to TLS. Default: 80, but none for an odd `port`. */
  readonly httpPort?: number | undefined;
}

/** What a proxy's text is made of, every value checked. */
export interface ProxyPlan {
  readonly host: string;
  readonly isPublic: boolean;
  readonly isAddress: boolean;
  readonly certificate: { readonly cert: string; readonly key: string } | undefined;
  readonly upstream: string;
  readonly port: number;
  readonly httpPort: number | undefined;
  readonly bodyBytes: number;
  readonly headerBytes: number;
  /** The longest that the server may say nothing. */
  readonly silenceSeconds: number;
  /** Headers of every answer. */
  readonly headers: readonly (readonly [string, string])[];
}

/** Boundaries and headers of a form around a file; the gateway's own allowance, and some. */
const FORM_BYTES = 128 * 1024;
/** Starting, ending and answering; the last bytes of an upload reach the disk in this time. */
const MARGIN_SECONDS = 60;
const UNENDING = 24 * 3600;

const HEADERS = [
  ['X-Content-Type-Options', 'nosniff'],
  ['X-Frame-Options', 'DENY'],
  ['Referrer-Policy', 'no-referrer'],
  ['Content-Security-Policy', "frame-ancestors 'none'"],
] as const;
// Only for a public name: a LAN's name may belong to another machine tomorrow, one without TLS.
const HSTS = ['Strict-Transport-Security', 'max-age=31536000'] as const;

/** @throws Error naming the value that cannot be used, and the remedy */
export function planProxy(options: ProxyOptions, config: Config): ProxyPlan {
  const { site } = options;
  const isPublic = 'domain' in site;
  const host = isPublic ? checkDomain(site.domain) : checkName(site.lan);
  const port = checkPort(options.port ?? 443);
  const httpPort = options.httpPort ?? (port === 443 ? 80 : undefined);
  const silence = config.limits.wallSeconds + config.queueWaitSeconds + MARGIN_SECONDS;
  return {
    host,
    isPublic,
    isAddress: /[:]|^[\d.]+$/.test(host),
    certificate: certificateOf(options, host, isPublic),
    upstream: checkAddress(options.upstream ?? reachedAt(config.bindAddress, config.port)),
    port,
    httpPort: httpPort === undefined ? undefined : checkPort(httpPort),
    bodyBytes: Math.max(config.maxBodyBytes, config.maxUploadBytes) + FORM_BYTES,
    headerBytes: 16 * 1024,
    silenceSeconds: Math.min(Math.ceil(silence), 2 * UNENDING + MARGIN_SECONDS),
    headers: isPublic ? [...HEADERS, HSTS] : HEADERS,
  };
}

function certificateOf(options: ProxyOptions, host: string, isPublic: boolean): ProxyPlan['certificate'] {
  if (options.certificate !== undefined) {
    const { cert, key } = options.certificate;
    return { cert: checkFile('--cert', cert), key: checkFile('--key', key) };
  }
  if (options.kind === 'caddy') return undefined;
  if (!isPublic) {
    throw new Error(
      `nginx in a LAN needs --cert and --key: files that your clients trust; or take caddy, which makes its own authority`,
    );
  }
  const directory = `/etc/letsencrypt/live/${host}`;
  return { cert: `${directory}/fullchain.pem`, key: `${directory}/privkey.pem` };
}
