/** A gigabyte through the server, next to programs that do nothing but hand it on: a bare Node server, and nginx. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, link, mkdir, mkdtemp, open, rm, stat } from 'node:fs/promises';
import { createWriteStream } from 'node:fs';
import { createServer, type Server as HttpServer } from 'node:http';
import { createServer as createSocketServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort, startNginx } from '../test/support/proxies.ts';
import { RUN_UID, type Server } from '../test/support/server.ts';
import { until } from '../test/support/tools.ts';
import { peakOf } from './memory.ts';
import { atLeast, atMost, mb, noneWrong, times, type Section } from './report.ts';
import type { Guard } from './servers.ts';
import { summarize } from './stats.ts';

const exec = promisify(execFile);
const BUDGET = 250e6;
const LINE = 'A line of text, as a program prints it while it works: step 0123456789 of many.\n';

/** What moves all of the bytes once. @throws Error for a wrong answer */
type Turn = () => Promise<void>;
interface Race {
  readonly ours: string;
  readonly theirs: string;
  readonly bound: number;
  readonly turns: Readonly<Record<'ours' | 'theirs', Turn>>;
}

/** @param bytes of the file; @param turns of each, one after the other */
export async function measureTransfer(bytes: number, turns: number, guard: Guard): Promise<Section> {
  const dir = await mkdtemp(join(tmpdir(), 'nox-bench-transfer-'));
  await chmod(dir, 0o755);
  // Its workers are nobody.
  await mkdir(join(dir, 'up'));
  await chmod(join(dir, 'up'), 0o777);
  const server = await guard.start('warm', {
    ...{ NOX_TIMEOUT: '600', NOX_MAX_UPLOAD: '2G', NOX_MAX_WORKSPACE: '8G' },
  });
  const bare = createServer((_, response) => {
    spawn('cat', [file], { stdio: ['ignore', 'pipe', 'inherit'] }).stdout.pipe(response);
  });
  const file = join(dir, 'big');
  const relay = await startRelay(dir, file, bytes, guard);
  const nginxPort = await freePort();
  const nginx = await startNginx(dir, nginxText(dir, nginxPort));
  try {
    await writeText(file, bytes);
    // The same blocks for all: none of them reads from a disk.
    await link(file, join(server.workspace, 'big')).catch(() =>
      writeText(join(server.workspace, 'big'), bytes),
    );
    await until('nginx listens', () => fetch(`http://127.0.0.1:${String(nginxPort)}/none`).then(() => true));
    bare.listen(0, '127.0.0.1');
    await once(bare, 'listening');
    const place = {
      server,
      bare,
      relay: relay.url,
      nginx: `http://127.0.0.1:${String(nginxPort)}`,
      file,
      bytes,
    };
    const found: { race: Race; ours: number[]; theirs: number[] }[] = [];
    const wrong: string[] = [];
    for (const race of racesOf(place)) {
      const took: { ours: number[]; theirs: number[] } = { ours: [], theirs: [] };
      for (let turn = 0; turn < turns; turn += 1)
        for (const who of ['theirs', 'ours'] as const) {
          // What the turn before has left for the disk is not this one's.
          await exec('sync');
          const began = performance.now();
          await race.turns[who]().catch((error: unknown) => wrong.push(`${race[who]}: ${String(error)}`));
          took[who].push((performance.now() - began) / 1000);
        }
      found.push({ race, ...took });
    }
    return section(bytes, found, peakOf(server).together, wrong);
  } finally {
    bare.close();
    await relay.stop();
    nginx.child.kill('SIGTERM');
    await once(nginx.child, 'exit');
    await guard.stop(server);
    await rm(dir, { recursive: true, force: true });
  }
}

function section(
  bytes: number,
  found: readonly { race: Race; ours: readonly number[]; theirs: readonly number[] }[],
  peak: number,
  wrong: readonly string[],
): Section {
  const rate = (seconds: readonly number[]) => bytes / summarize(seconds).p50;
  const rows = found.flatMap(({ race, ours, theirs }) => [
    [race.theirs, mb(rate(theirs)), ''],
    [race.ours, mb(rate(ours)), times()(rate(ours) / rate(theirs))],
  ]);
  return {
    name: 'transfer',
    tables: [
      {
        title: `${mb(bytes)} MB through the server (MB/s, the median of ${String(found[0]?.ours.length ?? 0)})`,
        columns: ['', 'MB/s', 'ratio'],
        rows,
      },
    ],
    promises: [
      ...found.map(({ race, ours, theirs }) =>
        atLeast({
          promise: `${race.ours} / ${race.theirs}, rates`,
          value: rate(ours) / rate(theirs),
          bound: race.bound,
          show: times(),
        }),
      ),
      atMost({
        promise: 'memory of gateway and runner meanwhile',
        value: peak,
        bound: BUDGET,
        show: (value) => `${mb(value)} MB`,
      }),
      ...noneWrong('transfer', wrong),
    ],
    data: {
      bytes,
      found: found.map(({ race, ...seconds }) => ({ ...race, turns: undefined, ...seconds })),
      peak,
    },
  };
}

interface Place {
  readonly server: Server;
  readonly bare: HttpServer;
  /** Its address. */
  readonly relay: string;
  /** Its address. */
  readonly nginx: string;
  readonly file: string;
  readonly bytes: number;
}

function racesOf({ server, bare, relay, nginx, file, bytes }: Place): Race[] {
  const bareUrl = `http://127.0.0.1:${String((bare.address() as AddressInfo).port)}/`;
  const content = (path: string) => `${server.url}/v1/workspaces/default/files/content?path=${path}`;
  const auth = ['-H', `Authorization: Bearer ${server.token}`];
  const run = JSON.stringify({ command: ['cat', 'big'], workspace: 'default' });
  const stream = (media: string) => async () => {
    const sent = await curl(...auth, '-H', `Accept: ${media}`, '-d', run, `${server.url}/v1/runs`);
    const { outcome } = (await (
      await fetch(`${server.url}/v1/runs/${sent.run}`, {
        headers: { authorization: `Bearer ${server.token}` },
      })
    ).json()) as { outcome?: unknown };
    if (sent.status !== 200 || sent.down < bytes || outcome !== 'ok')
      throw new Error(`${String(sent.status)}, ${String(sent.down)} bytes, ${String(outcome)}`);
  };
  const down =
    (url: string, head: readonly string[] = []) =>
    async () => {
      const sent = await curl(...head, url);
      if (sent.status !== 200 || sent.down !== bytes)
        throw new Error(`${String(sent.status)}, ${String(sent.down)}`);
    };
  const up =
    (url: string, head: readonly string[] = []) =>
    async () => {
      const { status, up: size } = await curl(...head, '-H', 'Expect:', '-T', file, url);
      if (![200, 201, 204].includes(status) || size !== bytes)
        throw new Error(`${String(status)}, ${String(size)}`);
    };
  return [
    {
      ...{ ours: 'POST /v1/runs: cat, its bytes', theirs: 'a bare Node server that pipes cat', bound: 0.5 },
      turns: { ours: stream('application/octet-stream'), theirs: down(bareUrl) },
    },
    {
      ...{ ours: 'POST /v1/runs: cat, its events', theirs: 'a bare Node server that pipes cat', bound: 0.5 },
      turns: { ours: stream('application/x-ndjson'), theirs: down(bareUrl) },
    },
    {
      ...{ ours: 'GET …/files/content', theirs: 'GET from nginx', bound: 0.6 },
      turns: { ours: down(content('big'), auth), theirs: down(`${nginx}/big`) },
    },
    {
      ...{ ours: 'GET …/files/content', theirs: 'the same way through two bare processes', bound: 0.6 },
      turns: { ours: down(content('big'), auth), theirs: down(relay) },
    },
    {
      ...{ ours: 'PUT …/files/content', theirs: 'PUT to nginx', bound: 0.6 },
      turns: { ours: up(content('up'), auth), theirs: up(`${nginx}/up/up`) },
    },
  ];
}

/**
 * The way of a download with nothing else on it: this process reads the file, as the runner does, another one without
 * a compiler hands it on (relay.js).
 */
async function startRelay(dir: string, file: string, bytes: number, guard: Guard) {
  const path = join(dir, 'relay.sock');
  const memory = Buffer.allocUnsafeSlow(256 * 1024);
  const source = createSocketServer((peer) => {
    void (async () => {
      const handle = await open(file);
      for (let read = -1; read !== 0;) {
        ({ bytesRead: read } = await handle.read(memory, 0, memory.length, null));
        await new Promise((resolve) => peer.write(memory.subarray(0, read), resolve));
      }
      await handle.close();
      peer.end();
    })();
  }).listen(path);
  const program = fileURLToPath(new URL('relay.js', import.meta.url));
  const child = spawn(process.execPath, ['--jitless', program, path, String(bytes)], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...guard.env },
  });
  const [port] = (await once(child.stdout, 'data')) as [Buffer];
  return {
    url: `http://127.0.0.1:${port.toString().trim()}/`,
    stop: async () => {
      source.close();
      child.stdin.end();
      await once(child, 'exit');
    },
  };
}

interface Curled {
  readonly status: number;
  readonly down: number;
  readonly up: number;
  readonly run: string;
}

async function curl(...args: readonly string[]): Promise<Curled> {
  const format = '%{http_code} %{size_download} %{size_upload} %header{nox-run-id}';
  const { stdout } = await exec('curl', ['-sS', '-o', '/dev/null', '-w', format, ...args]);
  const [status, down, up, run = ''] = stdout.split(' ');
  return { status: Number(status), down: Number(down), up: Number(up), run };
}

/** With what Debian's nginx has for files: sendfile down, WebDAV's PUT up. */
function nginxText(dir: string, port: number): string {
  return `server {
    listen ${String(port)};
    root ${dir};
    sendfile on;
    client_max_body_size 2g;
    location /up/ {
        dav_methods PUT;
        create_full_put_path on;
        dav_access user:rw group:r all:r;
    }
}
`;
}

async function writeText(file: string, bytes: number): Promise<void> {
  const block = Buffer.from(LINE.repeat(4096));
  const stream = createWriteStream(file, { mode: 0o644 });
  for (let left = bytes; left > 0; left -= block.length)
    if (!stream.write(block.subarray(0, Math.min(left, block.length)))) await once(stream, 'drain');
  stream.end();
  await once(stream, 'close');
  if ((await stat(file)).size !== bytes) throw new Error(`${file} is not whole`);
  if (process.getuid?.() === 0) await chown(file, RUN_UID, RUN_UID);
}
