/** Answers that do not end soon: lines of events, as they come, to a client that may be slow, or be gone. */
import { once } from 'node:events';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { takeOver } from './answer-bytes.ts';
import { headOf, linesOf } from './runs/events.ts';

/** Proxies end a connection that is silent for long: nginx after 60 s (proxy_read_timeout). */
const HEARTBEAT_MS = 15_000;

export type StreamFormat = 'sse' | 'ndjson';

const FORMATS: Readonly<Record<StreamFormat, string>> = {
  sse: 'text/event-stream',
  ndjson: 'application/x-ndjson',
};

export const streamHeaders = (format: StreamFormat) => ({
  'content-type': `${FORMATS[format]}; charset=utf-8`,
  'cache-control': 'no-store',
  // nginx would otherwise collect the answer (ngx_http_proxy_module, proxy_buffering).
  'x-accel-buffering': 'no',
});

/** RFC 9110, section 12.4.2. */
const NOT_WANTED = /;[ \t]*q=0(\.0*)?[ \t]*(;|$)/i;

/** What a client asks for by `Accept`; undefined: no stream. */
export function formatWanted(request: FastifyRequest): StreamFormat | undefined {
  return (['sse', 'ndjson'] as const).find((format) => accepts(request, FORMATS[format]));
}

/** Whether a client names a media type in `Accept`. */
export function accepts({ headers }: FastifyRequest, media: string): boolean {
  return (headers.accept ?? '')
    .split(',')
    .some((each) => !NOT_WANTED.test(each) && each.split(';')[0]?.trim().toLowerCase() === media);
}

/**
 * @param lines events with their ids, whole lines in each piece; is not asked for the next while the client is slow
 * @returns when all has been sent, or the client has gone
 */
export async function sendEvents(
  reply: FastifyReply,
  format: StreamFormat,
  lines: AsyncIterable<Buffer>,
): Promise<void> {
  return sendPieces(reply, format, lines, format === 'sse' ? toSse : undefined);
}

/**
 * The same for what is in its format already.
 *
 * @param pieces between two of one event nothing is waited for
 */
export async function sendPieces<T extends string | Buffer>(
  reply: FastifyReply,
  format: StreamFormat,
  pieces: AsyncIterable<T>,
  encode: (piece: T) => string | Buffer = (piece) => piece,
): Promise<void> {
  const { raw } = reply;
  takeOver(reply.code(200).headers(streamHeaders(format)));
  raw.flushHeaders();
  const heartbeat = format === 'sse' ? ': \n\n' : '{"type":"heartbeat"}\n';
  const beat = setInterval(() => {
    // A client that does not read needs no more to read.
    if (!raw.writableNeedDrain) raw.write(heartbeat);
  }, HEARTBEAT_MS);
  const gone = new AbortController();
  raw.once('close', () => {
    gone.abort();
  });
  try {
    for await (const piece of pieces) {
      if (raw.destroyed) return;
      beat.refresh();
      if (!raw.write(encode(piece))) await once(raw, 'drain', { signal: gone.signal });
    }
  } catch (error) {
    // An abort is the end of the client. What else fails leaves the answer without its end, which says so.
    if (!gone.signal.aborted) {
      raw.destroy();
      throw error;
    }
  } finally {
    clearInterval(beat);
    raw.end();
  }
}

/** The event stream of HTML (section 9.2.6): lines hold JSON, and so no line break. */
function toSse(lines: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (const line of linesOf(lines)) {
    const { id, type } = headOf(line);
    parts.push(Buffer.from(`id: ${String(id)}\nevent: ${type}\ndata: `), line, Buffer.from('\n'));
  }
  return Buffer.concat(parts);
}
