/** What a proxy answers itself, in the shape and with the codes of the server's own errors. */
import { ERRORS } from '../protocol/errors.ts';

const body = (code: 'payload_too_large' | 'shutting_down', detail: string): string =>
  JSON.stringify({ detail, code, hint: ERRORS[code].hint });

// Stands between quotes in both configurations: no backslash, no single quote, no dollar sign (test/unit/proxy.test.ts).
// The server refuses by itself what is a little too large; beyond that it need not be asked.
export const TOO_LARGE = body('payload_too_large', 'The body is too large');
// A restart takes a moment, and clients know this code as one to try again.
export const NOT_REACHED = body('shutting_down', 'The reverse proxy cannot reach the server');
export const RETRY_AFTER = '1';
