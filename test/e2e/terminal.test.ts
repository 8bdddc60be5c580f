/** /v1/terminal on real servers: a real terminal, and attacks on it from both sides. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { eventually, post, put, startServer, type Server } from '../support/server.ts';
import { call, mark, sleeping } from '../support/v1.ts';

interface End {
  readonly id: string;
  readonly outcome: string | null;
  readonly exitCode?: number | null;
  readonly signal?: number | null;
}

class Terminal {
  readonly socket: WebSocket;
  shown = '';
  readonly said: { type: string; run?: unknown; code?: string }[] = [];
  closed: number | undefined;

  constructor(server: Server, query: Record<string, string | string[]> = {}, token = server.token) {
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query))
      for (const each of [value].flat()) search.append(name, each);
    this.socket = new WebSocket(`${server.url.replace('http', 'ws')}/v1/terminal?${search.toString()}`, {
      headers: { authorization: `Bearer ${token}` },
    });
    this.socket.on('error', () => undefined);
    this.socket.on('message', (data, binary) => {
      const text = (data as Buffer).toString('utf8');
      if (binary) this.shown += text;
      else this.said.push(JSON.parse(text) as { type: string });
    });
    this.socket.on('close', (code) => {
      this.closed = code;
    });
  }

  async sees(what: string | RegExp): Promise<void> {
    const found = () => (typeof what === 'string' ? this.shown.includes(what) : what.test(this.shown));
    await eventually(`the terminal shows ${String(what)}`, found).catch((error: unknown) => {
      throw new Error(
        `${String(error)}; it shows ${JSON.stringify(this.shown.slice(-2000))} ${JSON.stringify(this.said)}`,
      );
    });
  }

  type(keys: string): void {
    this.#send(Buffer.from(keys));
  }

  tell(message: unknown): void {
    this.#send(JSON.stringify(message));
  }

  #send(data: Buffer | string): void {
    if (this.socket.readyState === this.socket.OPEN) this.socket.send(data);
    else
      this.socket.once('open', () => {
        this.socket.send(data);
      });
  }

  async end(): Promise<End> {
    await eventually('the end', () => this.closed !== undefined);
    const end = this.said.find(({ type }) => type === 'end');
    assert.ok(end !== undefined, JSON.stringify(this.said));
    return end.run as End;
  }
}

/** The status with which a handshake is refused. */
async function refusal(server: Server, path: string, headers: Record<string, string>): Promise<number> {
  const request = httpRequest(`${server.url}${path}`, { headers });
  request.end();
  const [response] = (await Promise.race([
    once(request, 'response'),
    once(request, 'upgrade').then(([answer, socket]: { statusCode: number; destroy(): void }[]) => {
      socket?.destroy();
      return [answer];
    }),
  ])) as [{ statusCode: number; resume?(): void }];
  response.resume?.();
  return response.statusCode;
}

const HANDSHAKE = {
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-version': '13',
  'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
};

for (const split of [false, true]) {
  describe(split ? 'gateway --jitless and runner' : 'one process', () => {
    let server: Server;
    let audit: () => Record<string, unknown>[];
    before(async () => {
      const file = `/tmp/nox-terminal-audit-${String(process.pid)}-${String(split)}`;
      server = await startServer({ split, env: { NOX_SLOTS: '2', NOX_TIMEOUT: '60', NOX_AUDIT_FILE: file } });
      audit = () =>
        readFileSync(file, 'utf8')
          .trimEnd()
          .split('\n')
          .filter((line) => line !== '')
          .map((line) => JSON.parse(line) as Record<string, unknown>);
    });
    after(() => server.stop());

    test('a shell: echo, size, resize, ^C, exit', async () => {
      const terminal = new Terminal(server, { rows: '33', columns: '101' });
      terminal.type('tty; stty size; echo $TERM; echo $((6*7))é\n');
      await terminal.sees('/dev/pts/0');
      await terminal.sees('33 101');
      await terminal.sees('xterm-256color');
      await terminal.sees('42é');
      terminal.type('trap "echo changed; stty size" WINCH; echo rea""dy\n');
      await terminal.sees('ready');
      terminal.tell({ type: 'resize', rows: 50, columns: 65_535 });
      await terminal.sees('50 65535');
      terminal.type('sleep 100\n');
      await sleep(300);
      terminal.type('\x03');
      terminal.type('echo st=$?\n');
      await terminal.sees('st=130');
      terminal.type('exit 7\n');
      const end = await terminal.end();
      assert.deepEqual([end.outcome, end.exitCode, terminal.closed], ['failed', 7, 1000]);
      assert.equal(terminal.said[0]?.type, 'started');
      assert.equal(terminal.said[0].run, end.id);
      await eventually('audited', () => audit().some(({ route }) => route === '/v1/terminal'));
      const entry = audit().find(({ route }) => route === '/v1/terminal');
      assert.deepEqual(
        [entry?.['outcome'], entry?.['status'], entry?.['what']],
        ['failed', 101, { command: 'bash' }],
      );
      await eventually('logged', () => /"route":"\/v1\/terminal","status":101/.test(server.log()));
    });

    test('every runtime, in scratch and named workspaces', async () => {
      for (const workspace of [undefined, 'default']) {
        const where = workspace === undefined ? {} : { workspace };
        for (const [runtime, code] of [
          ['python', 'import sys, os; print(sys.stdin.isatty(), os.get_terminal_size().columns)'],
          ['bash', 'test -t 0 && echo True $(tput cols)'],
          [
            'c',
            '#include <unistd.h>\n#include <stdio.h>\nint main(){printf("%s 80\\n",isatty(0)?"True":"");}',
          ],
        ] as const) {
          const terminal = new Terminal(server, { runtime, code, ...where });
          const end = await terminal.end();
          assert.equal(end.outcome, 'ok', `${runtime}: ${terminal.shown}`);
          assert.equal(terminal.shown, 'True 80\r\n');
        }
      }
      await put(server, 'told.py', 'import sys; print(sys.argv[1:], input())');
      const terminal = new Terminal(server, {
        runtime: 'python',
        entry: 'told.py',
        args: ['a b', 'é'],
        workspace: 'default',
      });
      terminal.type('typed\n');
      await terminal.end();
      assert.match(terminal.shown, /\['a b', 'é'\] typed/);
    });

    test('signals, environment, and how programs end', async () => {
      const signalled = new Terminal(server, {
        command: ['sh', '-c', 'echo "$A=b"; exec sleep 50'],
        env: ['A=x=y'],
      });
      await signalled.sees('x=y=b');
      signalled.tell({ type: 'signal', signal: 'SIGTERM' });
      assert.deepEqual([(await signalled.end()).signal, signalled.closed], [15, 1000]);
      const killed = new Terminal(server, { command: ['sh', '-c', 'kill -9 $$'] });
      assert.equal((await killed.end()).signal, 9);
      const nothing = new Terminal(server, { command: 'no-such-program' });
      assert.equal((await nothing.end()).exitCode, 127);
      assert.equal(nothing.shown, 'nox: command not found: no-such-program\r\n');
    });

    test('a background process that holds the terminal does not keep the run', async () => {
      const terminal = new Terminal(server, {
        command: ['bash', '-c', "(trap '' HUP; while :; do echo noise; done) & sleep 0.2; exit 3"],
      });
      assert.equal((await terminal.end()).exitCode, 3);
    });

    test('all of a large output arrives, in order', async () => {
      const terminal = new Terminal(server, { command: ['seq', '300000'] });
      assert.equal((await terminal.end()).outcome, 'ok');
      const lines = terminal.shown.split('\r\n');
      assert.equal(lines.length, 300_001);
      assert.equal(lines[299_999], '300000');
    });

    test('attack: to type into the terminal for somebody else', async () => {
      const code = `
import fcntl, termios, os, struct
for name, request in (("TIOCSTI", 0x5412), ("TIOCSTI high bits", 0x5412 | 1 << 32), ("TIOCLINUX", 0x541c), ("TIOCSETD", 0x5423)):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(16 if os.uname().machine == "x86_64" else 29, 0, ctypes.c_ulong(request), ctypes.byref(ctypes.c_int(65)))
    print(name, result, ctypes.get_errno(), flush=True)
`;
      const terminal = new Terminal(server, { runtime: 'python', code });
      await terminal.end();
      for (const name of ['TIOCSTI', 'TIOCSTI high bits', 'TIOCLINUX', 'TIOCSETD'])
        assert.ok(terminal.shown.includes(`${name} -1 1\r\n`), terminal.shown);
    });

    test('attack: a client that does not read stops the run, and costs no memory', async () => {
      const terminal = new Terminal(server, { command: 'yes' });
      await terminal.sees('y');
      terminal.socket.pause();
      const { pid } = server.processes.at(-1) ?? {};
      const resident = () =>
        Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${String(pid)}/status`, 'utf8'))?.[1]) / 1024;
      await sleep(500);
      const first = resident();
      await sleep(2000);
      assert.ok(resident() - first < 64, `${String(first)} → ${String(resident())} MiB`);
      terminal.socket.terminate();
      await eventually('its run has ended', async () => (await alive()) === 0);
    });

    test('attack: input that nobody reads holds up the client, not the server, nor the end of its run', async () => {
      const seconds = mark();
      const script = `stty raw -echo; echo up; sleep ${seconds}`;
      const terminal = new Terminal(server, { command: ['sh', '-c', script] });
      await terminal.sees('up');
      for (let count = 0; count < 64; count += 1) terminal.socket.send(Buffer.alloc(200_000, 120));
      await sleep(1500);
      assert.ok(terminal.socket.bufferedAmount > 4_000_000, String(terminal.socket.bufferedAmount));
      assert.equal(terminal.closed, undefined);
      assert.equal(sleeping(seconds), 1);
      const id = String(terminal.said[0]?.run);
      assert.equal((await call(server, 'POST', `/v1/runs/${id}/cancel`)).status, 200);
      assert.equal(sleeping(seconds), 0, 'nothing of it is alive when that is answered');
      terminal.socket.terminate();
      await eventually('its run has ended', async () => (await alive()) === 0);
    });

    test('a client that goes away ends its run', async () => {
      const terminal = new Terminal(server, { command: ['sleep', '50'] });
      await eventually('it runs', async () => (await alive()) === 1);
      terminal.socket.close();
      await eventually('its run has ended', async () => (await alive()) === 0);
    });

    test('what a client must not say ends the connection', async () => {
      for (const message of [
        'no json',
        '{}',
        '{"type":"resize","rows":0,"columns":1}',
        '{"type":"resize","rows":65536,"columns":1}',
        '{"type":"resize","rows":1.5,"columns":1}',
        '{"type":"signal","signal":"SIGNOTHING"}',
        '{"type":"signal","signal":9}',
        '{"type":"end"}',
        '[]',
        'null',
      ]) {
        const terminal = new Terminal(server, { command: ['sleep', '50'] });
        await eventually('it runs', () => terminal.said.length > 0);
        terminal.socket.send(message);
        await eventually('closed', () => terminal.closed !== undefined);
        assert.equal(terminal.closed, 1008, message);
        assert.equal(
          terminal.said.at(-1)?.code ?? terminal.said.find(({ code }) => code)?.code,
          'invalid_request',
        );
      }
      const large = new Terminal(server, { command: ['sleep', '50'] });
      await eventually('it runs', () => large.said.length > 0);
      large.socket.send(Buffer.alloc(1_000_000));
      await eventually('closed', () => large.closed !== undefined);
      assert.equal(large.closed, 1009);
      await eventually('all have ended', async () => (await alive()) === 0);
    });

    test('attack: no token, a wrong one, one in the address; what is no handshake', async () => {
      const bearer = { authorization: `Bearer ${server.token}` };
      const path = '/v1/terminal';
      assert.equal(await refusal(server, path, HANDSHAKE), 401);
      assert.equal(await refusal(server, path, { ...HANDSHAKE, authorization: 'Bearer no' }), 401);
      assert.equal(await refusal(server, `${path}?token=${server.token}`, HANDSHAKE), 401);
      const wrong = { ...HANDSHAKE, 'sec-websocket-protocol': 'nox.terminal, nox.bearer.wrong' };
      assert.equal(await refusal(server, path, wrong), 401);
      assert.equal(await refusal(server, path, bearer), 400);
      const version = { 'sec-websocket-version': '8' };
      assert.equal(await refusal(server, path, { ...HANDSHAKE, ...bearer, ...version }), 400);
      assert.equal(await refusal(server, path, { ...HANDSHAKE, ...bearer, 'sec-websocket-key': 'x' }), 400);
      for (const query of ['rows=0', 'columns=x', 'workspace=..', 'env=1=2', 'nope=1', 'command=a&code=b'])
        assert.equal(await refusal(server, `${path}?${query}`, { ...HANDSHAKE, ...bearer }), 422, query);
      // Others that ask for a WebSocket, or for HTTP/2, are answered as ever.
      assert.equal(await refusal(server, '/health', HANDSHAKE), 200);
      assert.equal(
        await refusal(server, '/health', { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c' }),
        200,
      );
      assert.equal((await post(server, '/run_py', { code: 'print(1)' })).status, 200);
      const files = await post(server, '/v1/tokens', { name: 'f', scopes: ['files'] });
      const other = { ...HANDSHAKE, authorization: `Bearer ${String(files.body['secret'])}` };
      assert.equal(await refusal(server, path, other), 403);
    });

    test('a browser gives its token as a subprotocol, and does not get it back', async () => {
      const url = `${server.url.replace('http', 'ws')}/v1/terminal?command=true`;
      const socket = new WebSocket(url, ['nox.terminal', `nox.bearer.${server.token}`], {
        origin: 'https://evil.test',
      });
      const [response] = (await once(socket, 'upgrade')) as [{ headers: object }];
      assert.ok(!JSON.stringify(response.headers).includes(server.token));
      await once(socket, 'close');
      assert.equal(socket.protocol, 'nox.terminal');
      assert.ok(!server.log().includes(server.token));
    });

    async function alive(): Promise<number> {
      const headers = { authorization: `Bearer ${server.token}` };
      const answer = await fetch(`${server.url}/v1/runs?limit=20`, { headers });
      const { runs } = (await answer.json()) as { runs: { state: string }[] };
      return runs.filter(({ state }) => state !== 'ended').length;
    }
  });
}
