/** The limits of a run where cgroup v2 enforces them: a server as a unit with a delegated subtree, and hostile runs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { boot, type Machine } from './machine.ts';

const URL = 'http://127.0.0.1:8080';
const TOKEN = 'a-token-for-the-machine';
const NODE = '/opt/nox-src/node_modules/node/bin/node';
const SETTINGS = {
  NOX_API_TOKEN: TOKEN,
  NOX_CGROUP: 'required',
  NOX_MAX_MEMORY: '128M',
  NOX_MAX_PROCESSES: '24',
  // Emulation is ten times slower than a machine: enough to fill the memory, and to start Python.
  NOX_MAX_CPU: '15',
  NOX_TIMEOUT: '100',
  NOX_SLOTS: '2',
};

/** Takes memory without spending the CPU time that a loop over it would. */
const hog = (mebibytes: number) =>
  `import mmap\nx = mmap.mmap(-1, ${mebibytes} << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)`;

interface Run {
  readonly outcome: string | undefined;
  readonly status: number;
  readonly body: { returncode?: number; stdout?: string; stderr?: string; detail?: string };
}

async function python(m: Machine, code: string): Promise<Run> {
  const answer = await m.succeed(
    `curl -sS -i -H 'Authorization: Bearer ${TOKEN}' --data-binary @- ${URL}/run_py`,
    {
      stdin: JSON.stringify({ code }),
    },
  );
  const [head = '', body = ''] = answer.split('\r\n\r\n', 2);
  return {
    outcome: /^nox-outcome: (.*)$/im.exec(head)?.[1]?.trim(),
    status: Number(/^HTTP\/1.1 (\d+)/.exec(head)?.[1]),
    body: JSON.parse(body) as Run['body'],
  };
}

test('limits by cgroup', { timeout: 1_800_000 }, async (t) => {
  const m = await boot({ suite: 'bookworm' });
  t.after(() => m.stop());
  const settings = Object.entries(SETTINGS).map(([name, value]) => `--setenv=${name}=${value}`);
  await m.succeed(
    `systemd-run --unit=nox-dev -p Delegate=yes ${settings.join(' ')} ${NODE} /opt/nox-src/dist/dev.js`,
  );
  try {
    await m.waitUntilSucceeds(`systemctl is-active nox-dev >/dev/null && curl -fsS ${URL}/health`);
  } catch (error) {
    // What a server that does not start says is in its log, not in curl's message.
    throw new Error(await m.succeed('journalctl --no-pager -o cat -u nox-dev'), { cause: error });
  }

  const subtree = `/sys/fs/cgroup/system.slice/nox-dev.service`;
  async function nothingIsLeft(): Promise<void> {
    assert.equal(await m.succeed(`find ${subtree} -mindepth 1 -name 'run-*'`), '', 'cgroups of runs');
    assert.equal(await m.succeed('curl -fsS --max-time 10 ' + `${URL}/health`), '{"status":"ok"}');
    const next = await python(m, 'print(6 * 7)');
    assert.deepEqual([next.outcome, next.body.stdout], ['ok', '42\n'], JSON.stringify(next));
  }

  await t.test('an ordinary run is ok', nothingIsLeft);

  await t.test('one process that takes too much memory', async () => {
    const run = await python(m, `${hog(256)}\nprint("survived")`);
    assert.equal(run.outcome, 'memory_limit', JSON.stringify(run));
    assert.equal(run.body.stdout, '');
    await nothingIsLeft();
  });

  await t.test('several processes that take too much only together', async () => {
    const run = await python(
      m,
      `import os, time\nfor _ in range(4):\n  if os.fork() == 0: break\n${hog(48)}\ntime.sleep(60)`,
    );
    assert.equal(run.outcome, 'memory_limit', JSON.stringify(run));
    await nothingIsLeft();
  });

  await t.test('files in /tmp and anonymous files are memory too', async () => {
    for (const file of ['open("/tmp/x", "wb")', 'os.fdopen(os.memfd_create("x"), "wb")']) {
      const run = await python(m, `import os\nf = ${file}\nfor _ in range(200): f.write(bytes(1 << 20))`);
      assert.equal(run.outcome, 'memory_limit', `${file}: ${JSON.stringify(run)}`);
      await nothingIsLeft();
    }
  });

  await t.test('a fork bomb', async () => {
    const bomb = python(m, 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass');
    const neighbour = await python(m, 'print("hello")');
    assert.equal(neighbour.outcome, 'ok', JSON.stringify(neighbour));
    const run = await bomb;
    // A bomb that swallows the refusal burns its CPU time; one that does not fails of it.
    assert.equal(run.outcome, 'cpu_limit', JSON.stringify(run));
    await nothingIsLeft();
  });

  await t.test('a run that is refused a process and fails of it', async () => {
    const run = await python(m, 'import os\nwhile os.fork() > 0: pass\nos.read(os.pipe()[0], 1)');
    assert.equal(run.outcome, 'process_limit', JSON.stringify(run));
    await nothingIsLeft();
  });

  await t.test('CPU time, of all processes together', async () => {
    const run = await python(m, 'import os\nos.fork(); os.fork()\nwhile True: pass');
    assert.equal(run.outcome, 'cpu_limit', JSON.stringify(run));
    await nothingIsLeft();
  });

  await t.test('a server that is killed takes its runs with it', async () => {
    const started = m.execute(`curl -sS -H 'Authorization: Bearer ${TOKEN}' --data-binary @- ${URL}/run_py`, {
      stdin: JSON.stringify({ code: 'import time\ntime.sleep(50)' }),
    });
    await m.waitUntilSucceeds(`find ${subtree} -name 'run-*' | grep -q .`, 30);
    await m.succeed('kill -9 $(systemctl show -P MainPID nox-dev)');
    await started;
    await m.waitUntilSucceeds('! pgrep -u 60600', 30);
    await m.fail(`test -e ${subtree}`);
  });
});
