/** The four calls as CONTRACT.md has them, over HTTP with real clients, in both forms of the server. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { post, put, runPy, runSh, startServer, type Server } from '../support/server.ts';

async function curl(...args: string[]): Promise<string> {
  return (await promisify(execFile)('curl', ['--silent', '--show-error', '--max-time', '60', ...args]))
    .stdout;
}

/** Sends bytes as they are and returns what comes back until the server closes or `until` has been seen. */
function raw(server: Server, request: string, until: RegExp): Promise<string> {
  const { hostname, port } = new URL(server.url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(request));
    let answer = '';
    const timer = setTimeout(() => socket.destroy(new Error(`no ${until.source} in ${answer}`)), 20_000);
    socket.on('data', (data) => {
      answer += data.toString();
      if (until.test(answer)) socket.destroy();
    });
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(answer);
    });
  });
}

for (const split of [false, true]) {
  describe(split ? 'gateway --jitless and runner' : 'one process', () => {
    let server: Server;
    let auth: string;
    before(async () => {
      server = await startServer({
        split,
        env: { NOX_TIMEOUT: '3', NOX_MAX_BODY: '1M', NOX_MAX_UPLOAD: '8M' },
      });
      auth = `Authorization: Bearer ${server.token}`;
    });
    after(() => server.stop());

    test('GET and HEAD /health, without a token', async () => {
      assert.equal(await curl(`${server.url}/health`), '{"status":"ok"}');
      assert.match(await curl('--head', `${server.url}/health`), /^HTTP\/1.1 200 /);
    });

    test('the calls of the reference text, as they stand there', async () => {
      const file = join(server.workspace, '..', 'test.py');
      await writeFile(file, 'ANSWER = 42\n');
      const saved = await curl('-H', auth, '-F', `f=@${file}`, `${server.url}/put?path=test_hardened.py`);
      assert.deepEqual(JSON.parse(saved), { saved: `${server.workspace}/test_hardened.py` });
      const code = '{"code": "import sys; print(f\\"Python {sys.version}\\")"}';
      const answer = JSON.parse(await curl('-H', auth, '-d', code, `${server.url}/run_py`)) as Record<
        string,
        unknown
      >;
      assert.deepEqual(Object.keys(answer), ['returncode', 'stdout', 'stderr']);
      assert.equal(answer['returncode'], 0);
      assert.match(String(answer['stdout']), /^Python 3\./);
      assert.equal(
        (await runPy(server, 'import test_hardened; print(test_hardened.ANSWER)')).body.stdout,
        '42\n',
      );
    });

    test('a request without the token is refused before its body is read', async () => {
      const head = (authorization: string) =>
        `POST /put?path=x HTTP/1.1\r\nHost: x\r\n${authorization}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000000\r\n\r\n`;
      for (const authorization of [
        '',
        'Authorization: Bearer wrong\r\n',
        `Authorization: Basic ${server.token}\r\n`,
      ]) {
        const answer = await raw(server, head(authorization), /\}$/);
        assert.match(answer, /^HTTP\/1.1 401 Unauthorized\r\n/);
        assert.match(answer, /\r\nwww-authenticate: Bearer\r\n/i);
        assert.match(answer, /\{"detail":"Unauthorized","code":"unauthorized"/);
      }
      for (const path of ['/run_py', '/run_sh', '/put?path=x', '/nothing']) {
        const { status } = await fetch(`${server.url}${path}`, { method: 'POST', body: '{' });
        assert.equal(status, 401, path);
      }
    });

    test('an upload without the token is not invited by `100 Continue`', async () => {
      const head = (authorization: string) =>
        `POST /run_py HTTP/1.1\r\nHost: x\r\n${authorization}Expect: 100-continue\r\nContent-Length: 20\r\n\r\n`;
      assert.match(await raw(server, head(''), /\}$/), /^HTTP\/1.1 401 /);
      assert.match(await raw(server, head(`${auth}\r\n`), /\r\n\r\n/), /^HTTP\/1.1 100 Continue/);
    });

    test('an unauthenticated sender that goes on sending is cut off', async () => {
      const { hostname, port } = new URL(server.url);
      const sent = await new Promise<number>((resolve) => {
        const socket = connect(Number(port), hostname);
        let bytes = 0;
        const part = Buffer.alloc(64 * 1024);
        const send = () => {
          while (socket.writable && bytes < 500_000_000) {
            bytes += part.length;
            if (!socket.write(part)) return;
          }
        };
        socket.write('POST /put?path=x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n');
        socket
          .on('drain', send)
          .on('error', () => undefined)
          .on('close', () => {
            resolve(bytes);
          });
        socket.resume();
        send();
      });
      // What the kernel's buffers on both sides took; the server has read 64 KiB of it.
      assert(sent < 50_000_000, `${sent} bytes were taken`);
    });

    test('the scheme is case-insensitive', async () => {
      const headers = { authorization: `bEaReR ${server.token}` };
      const response = await fetch(`${server.url}/run_sh`, {
        method: 'POST',
        headers,
        body: '{"cmd":"true"}',
      });
      assert.equal(response.status, 200);
    });

    test('run_py: compact JSON, exactly three keys, tracebacks as Python prints them', async () => {
      const response = await fetch(`${server.url}/run_py`, {
        method: 'POST',
        headers: { authorization: `Bearer ${server.token}` },
        body: JSON.stringify({ code: 'print("é")\n1/0\n', unknown: 1 }),
      });
      const stderr = `Traceback (most recent call last):\n  File "${server.workspace}/run.py", line 2, in <module>\n    1/0\n    ~^~\nZeroDivisionError: division by zero\n`;
      assert.equal(await response.text(), JSON.stringify({ returncode: 1, stdout: 'é\n', stderr }));
    });

    test('run_py: args, stdin, filename', async () => {
      const code = 'import sys; print(sys.argv[1:], sys.stdin.read(), __file__)';
      const { body } = await runPy(server, code, {
        args: ['a b', ''],
        stdin: 'in',
        filename: '/pkg/main.py',
      });
      assert.equal(body.stdout, `['a b', ''] in ${server.workspace}/pkg/main.py\n`);
      assert.equal(await readFile(join(server.workspace, 'pkg/main.py'), 'utf8'), code);
    });

    test('run_py: without a filename nothing is left behind', async () => {
      const before = await readdir(server.workspace);
      assert.equal((await runPy(server, 'import os; print("run.py" in os.listdir())')).body.stdout, 'True\n');
      await runPy(server, 'import time; time.sleep(60)');
      assert.deepEqual(await readdir(server.workspace), before);
    });

    test('run_py: simultaneous calls with one filename each run their own code', async () => {
      const calls = Array.from({ length: 24 }, (_, index) =>
        runPy(
          server,
          `import time; time.sleep(0.02); print(${index}, open(__file__).read()[-4:])`,
          index % 2 ? { filename: 'same.py' } : {},
        ),
      );
      for (const [index, { body }] of (await Promise.all(calls)).entries())
        assert.match(body.stdout, new RegExp(`^${index} `));
    });

    test('a death by signal is a negative return code', async () => {
      assert.equal((await runPy(server, 'import os; os.kill(os.getpid(), 15)')).body.returncode, -15);
      assert.equal((await runSh(server, 'bash -c "kill -9 $$"')).body.returncode, -9);
    });

    test('run_sh: words are split as a shell splits them, and no shell sees them', async () => {
      assert.equal(
        (await runSh(server, `printf '%s|' a "b c" d\\ e '$HOME' * ;`)).body.stdout,
        'a|b c|d e|$HOME|*|;|',
      );
      assert.equal((await runSh(server, ['printf', '%s|', 'a b', '', '$HOME'])).body.stdout, 'a b||$HOME|');
      assert.equal((await runSh(server, 'bash -c "echo x | tr x y"')).body.stdout, 'y\n');
      assert.equal((await runSh(server, 'cat', { stdin: 'typed' })).body.stdout, 'typed');
    });

    test('run_sh: an unknown program is 127 with a message', async () => {
      const { status, body } = await runSh(server, 'no-such-program --x');
      assert.deepEqual(
        [status, body.returncode, body.stderr],
        [200, 127, 'nox: command not found: no-such-program\n'],
      );
      assert.equal((await runSh(server, ['/etc'])).body.returncode, 126);
    });

    test('run_sh: courtesies', async () => {
      for (const cmd of ['rm -rf /', ['sudo', 'true'], 'kill 1', 'mkfs', 'dd if=x']) {
        const { status, body } = await post(server, '/run_sh', { cmd });
        assert.deepEqual(
          [status, body['detail'], body['code']],
          [400, 'Forbidden command', 'forbidden_command'],
        );
      }
      for (const cmd of ['', '   ', '""', [], ['']]) {
        const { status, body } = await post(server, '/run_sh', { cmd });
        assert.deepEqual(
          [status, body['detail'], body['code']],
          [400, 'Empty command', 'empty_command'],
          JSON.stringify(cmd),
        );
      }
      const { status, body } = await post(server, '/run_sh', { cmd: 'echo "x' });
      assert.deepEqual([status, body['code']], [400, 'unbalanced_quote']);
    });

    test('a timeout is 408 with what was printed until then', async () => {
      const { status, body } = await post(server, '/run_py', {
        code: 'print("so far", flush=True)\nwhile True: pass',
      });
      assert.equal(status, 408);
      assert.deepEqual(
        [body['detail'], body['code'], body['stdout'], body['stderr']],
        ['Timeout', 'timeout', 'so far\n', ''],
      );
    });

    test('output that is no UTF-8 becomes U+FFFD, control characters survive', async () => {
      const { body } = await runSh(server, ['printf', '\\xff\\x00\\x01\\xc3(']);
      assert.equal(body.stdout, '\ufffd\0\u0001\ufffd(');
    });

    test('large output keeps head and tail', async () => {
      const { body } = await runPy(server, 'print("A" * 12_000_000 + "Z")');
      assert.match(body.stdout.slice(0, 10), /^A{10}$/);
      assert.match(body.stdout, /\n\[nox: \d+ bytes left out\]\n/);
      assert.equal(body.stdout.slice(-2), 'Z\n');
      assert(body.stdout.length < 10 * 1024 * 1024 + 100);
    });

    test('wrong bodies: 422 naming the field and the value', async () => {
      const cases: [path: string, body: unknown, detail: RegExp][] = [
        ['/run_py', '{"code": ', /^body: not JSON/],
        ['/run_py', '', /^body/],
        ['/run_py', [], /^body: \[\] must be object/],
        ['/run_py', {}, /^code: missing/],
        ['/run_py', { code: 5 }, /^code: 5 must be string/],
        ['/run_py', { code: '', args: ['a', 1] }, /^args\.1: 1 must be string/],
        ['/run_py', { code: '', stdin: {} }, /^stdin: \{\} must be string/],
        ['/run_py', { code: '', filename: null }, /^filename: null must be string/],
        ['/run_py', { code: '', args: ['a\0b'] }, /^args\.0: contains NUL/],
        ['/run_sh', {}, /^cmd: missing/],
        ['/run_sh', { cmd: 7 }, /^cmd: 7 must be string or must be array/],
        ['/run_sh', { cmd: ['x', null] }, /^cmd/],
        ['/run_sh', { cmd: ['x', 'y'.repeat(200_000)] }, /^cmd\.1/],
      ];
      for (const [path, body, detail] of cases) {
        const answer = await post(server, path, body);
        assert.equal(
          answer.status,
          422,
          `${path} ${JSON.stringify(body).slice(0, 80)}: ${JSON.stringify(answer.body)}`,
        );
        assert.equal(answer.body['code'], 'invalid_request');
        assert.match(String(answer.body['detail']), detail);
      }
    });

    test('a JSON body is taken whatever its Content-Type says', async () => {
      for (const type of [
        'application/x-www-form-urlencoded',
        'text/plain',
        'application/json',
        'image/png',
        'application/json; charset=utf-8',
      ]) {
        const headers = { authorization: `Bearer ${server.token}`, 'content-type': type };
        const response = await fetch(`${server.url}/run_sh`, {
          method: 'POST',
          headers,
          body: '{"cmd":"true"}',
        });
        assert.equal(response.status, 200, type);
      }
    });

    test('put: wrong paths are 400, and nothing is written', async () => {
      await symlink('/etc', join(server.workspace, 'out'));
      await mkdir(join(server.workspace, 'adir'));
      for (const path of [
        '',
        '/',
        '..',
        '../x',
        'a/../../x',
        'x\0y',
        'a'.repeat(300),
        'a/'.repeat(2100),
        'out/passwd',
        'adir',
        'adir/',
        '.',
      ]) {
        const { status, body } = await put(server, path, 'x');
        assert.deepEqual([status, body['code']], [400, 'invalid_path'], JSON.stringify(path.slice(0, 20)));
      }
      const { status, body } = await post(server, '/run_py', { code: '', filename: '../x.py' });
      assert.deepEqual([status, body['code']], [400, 'invalid_path']);
    });

    test('put: a leading slash is stripped, parents are made, a file is replaced', async () => {
      assert.equal(
        (await put(server, '/deep/er/file', 'one')).body['saved'],
        `${server.workspace}/deep/er/file`,
      );
      await put(server, 'deep/er/file', 'two');
      assert.equal(await readFile(join(server.workspace, 'deep/er/file'), 'utf8'), 'two');
    });

    test('put: no `f`, no form, no path: 422; too large: 413', async () => {
      const headers = { authorization: `Bearer ${server.token}` };
      const wrong = new FormData();
      wrong.set('g', new Blob(['x']), 'x');
      const text = new FormData();
      text.set('f', 'no file');
      for (const [query, body] of [
        ['?path=x', wrong],
        ['?path=x', new FormData()],
        ['?path=x', 'text'],
        ['', wrong],
        ['?path=x', text],
      ] as const) {
        const response = await fetch(`${server.url}/put${query}`, { method: 'POST', headers, body });
        const answer = (await response.json()) as Record<string, unknown>;
        assert.deepEqual([response.status, answer['code']], [422, 'invalid_request'], JSON.stringify(answer));
      }
      const large = await put(server, 'large', 'x'.repeat(9 * 1024 * 1024));
      assert.deepEqual([large.status, large.body['code']], [413, 'payload_too_large']);
      // Without a length beforehand the file is counted as it comes.
      const chunked = await curl(
        '-H',
        auth,
        '-H',
        'Transfer-Encoding: chunked',
        '-F',
        `f=@${process.execPath}`,
        `${server.url}/put?path=large`,
      );
      assert.equal((JSON.parse(chunked) as Record<string, unknown>)['code'], 'payload_too_large');
      assert(!(await readdir(server.workspace)).some((name) => name === 'large' || name.startsWith('.nox-')));
    });

    test('a body beyond NOX_MAX_BODY is 413', async () => {
      const { status, body } = await post(server, '/run_py', { code: '#'.repeat(1024 * 1024) });
      assert.deepEqual([status, body['code']], [413, 'payload_too_large']);
    });

    test('no such call, wrong method, no HTTP', async () => {
      const headers = { authorization: `Bearer ${server.token}` };
      const missing = await fetch(`${server.url}/nothing`, { headers });
      assert.deepEqual(
        [missing.status, ((await missing.json()) as Record<string, unknown>)['code']],
        [404, 'not_found'],
      );
      const wrong = await fetch(`${server.url}/run_py`, { headers });
      assert.deepEqual([wrong.status, wrong.headers.get('allow')], [405, 'POST']);
      assert.match(
        await raw(server, 'not http at all\r\n\r\n', /\}$/),
        /^HTTP\/1.1 400 .*"code":"bad_request"/s,
      );
      assert.match(
        await raw(server, `GET /health HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, /\}$/),
        /^HTTP\/1.1 431 .*"code":"headers_too_large"/s,
      );
    });

    test('every answer has a request id, a given one is kept, and the log has it without code or token', async () => {
      const response = await fetch(`${server.url}/run_py`, {
        method: 'POST',
        headers: { authorization: `Bearer ${server.token}`, 'x-request-id': 'my-id-77' },
        body: JSON.stringify({ code: 'print("SECRET-IN-CODE")' }),
      });
      assert.equal(response.headers.get('x-request-id'), 'my-id-77');
      await response.text();
      const idLines = () =>
        server
          .log()
          .split('\n')
          .filter((line) => line.includes('my-id-77'));
      while (idLines().length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
      for (const line of idLines()) JSON.parse(line);
      assert(!server.log().includes('SECRET-IN-CODE'));
      assert(!server.log().includes(server.token));
    });

    test('health answers at once while everything is busy', async () => {
      const busy = Array.from({ length: 6 }, () => runPy(server, 'while True: pass'));
      for (let round = 0; round < 20; round += 1) {
        const began = performance.now();
        assert.equal((await fetch(`${server.url}/health`)).status, 200);
        assert(performance.now() - began < 1000);
      }
      await Promise.all(busy);
    });

    test('a client that goes away ends its run', async () => {
      const abort = new AbortController();
      const code =
        'import time\nwhile True:\n  open("alive", "w").write(str(time.time_ns()))\n  time.sleep(0.01)';
      const call = post(server, '/run_py', { code }, abort.signal).catch(() => undefined);
      const alive = () => readFile(join(server.workspace, 'alive'), 'utf8').catch(() => '');
      while ((await alive()) === '') await new Promise((resolve) => setTimeout(resolve, 20));
      abort.abort();
      await call;
      const deadline = Date.now() + 2000;
      for (let last = '', now = await alive(); last !== now; now = await alive()) {
        assert(Date.now() < deadline, 'the run goes on');
        last = now;
        await runSh(server, 'sleep 0.1');
      }
    });
  });
}

test('descriptors: output that ended early is not read again, when its number is another connection', async () => {
  const server = await startServer({ split: true });
  try {
    const code = (word: string) =>
      `import os, time; os.write(1, b'${word}'); os.close(1); os.close(2); time.sleep(0.02)`;
    const client = async (number: number) => {
      for (let round = 0; round < 12; round += 1) {
        const word = `${String(number)}-${String(round)}`;
        const { status, body } = await runPy(server, code(word));
        assert.deepEqual([status, body.stdout, body.stderr], [200, word, '']);
      }
    };
    await Promise.all(Array.from({ length: 16 }, (_, number) => client(number)));
  } finally {
    await server.stop();
  }
});
