/** One try to deliver a webhook: a POST, signed, to an address that was checked; nothing of the answer but its status. */
import { createHmac } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Target } from './target.ts';

export interface Delivery {
  /** The same at each try. */
  readonly id: string;
  readonly run: string;
  readonly secret: string;
  readonly body: string;
}

/** For all of it, also where the other end is slow on purpose. */
const TIMEOUT_MS = 10_000;

/** `t=<seconds since 1970>,v1=<HMAC-SHA256 of "t.body", in hex>` */
export function signatureOf(secret: string, body: string, now: number): string {
  const t = String(Math.floor(now / 1000));
  return `t=${t},v1=${createHmac('sha256', secret).update(`${t}.${body}`).digest('hex')}`;
}

/** @returns the status. Redirects are not followed. @throws Error where there is none */
export async function send(
  { url, address, family }: Target,
  { id, run, secret, body }: Delivery,
  timeoutMs = TIMEOUT_MS,
): Promise<number> {
  const start = url.protocol === 'https:' ? httpsRequest : httpRequest;
  return new Promise((resolve, reject) => {
    const request = start(url, {
      method: 'POST',
      agent: false,
      signal: AbortSignal.timeout(timeoutMs),
      maxHeaderSize: 16 * 1024,
      // The name is for the certificate and `Host` alone.
      lookup: (_name, options, done) => {
        if (options.all === true) done(null, [{ address, family }]);
        else done(null, address, family);
      },
      headers: {
        'content-type': 'application/json; charset=utf-8',
        'content-length': Buffer.byteLength(body),
        'user-agent': 'Nox',
        'nox-signature': signatureOf(secret, body, Date.now()),
        'nox-run-id': run,
        'nox-delivery': id,
      },
    });
    request.on('error', reject);
    request.on('response', (response) => {
      resolve(response.statusCode ?? 0);
      // Its body is of no interest, however long.
      request.destroy();
    });
    request.end(body);
  });
}
