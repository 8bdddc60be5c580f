/** What a warm run has used, told honestly. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { runPy, startServer, type Server } from '../support/server.ts';
import { logged } from './warm.ts';

/** All its runs are of one slot, each in the place of the one before. */
let single: Server;
/** With a package that was loaded ahead, and many others for its sake. */
let loaded: Server;
before(async () => {
  single = await startServer({ env: { NOX_TIMEOUT: '10', NOX_SLOTS: '1', NOX_MAX_PROCESSES: '64' } });
  loaded = await startServer({ env: { NOX_TIMEOUT: '15', NOX_PYTHON_PRELOAD: 'numpy' } });
});
after(async () => {
  await Promise.all([single.stop(), loaded.stop()]);
});

test('says what a run has used: half a second of CPU, in itself, in children, in orphans', async () => {
  const burn = `import os, time\ndef burn(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n`;
  for (const [code, least, most] of [
    [`${burn}burn(0.5)`, 0.48, 0.75],
    [`${burn}if os.fork() == 0: burn(0.5); os._exit(0)\nos.wait()`, 0.48, 0.8],
    [
      `${burn}if os.fork() == 0:\n    if os.fork() == 0: burn(0.5); open('done', 'w').close(); os._exit(0)\n    os._exit(0)\nos.wait()\nwhile not os.path.exists('done'): time.sleep(0.01)\ntime.sleep(0.05)`,
      0.48,
      0.9,
    ],
    [
      `${burn}if os.fork() == 0: burn(0.5); os.kill(os.getppid(), 9); time.sleep(9)\ntime.sleep(9)`,
      0.48,
      0.8,
    ],
  ] as const) {
    const { usage } = await logged(single, () => runPy(single, code));
    rmSync(join(single.workspace, 'done'), { force: true });
    const cpu = usage.userSeconds + usage.systemSeconds;
    assert.ok(cpu >= least && cpu <= most, `${cpu} s for ${code}`);
    assert.ok(usage.wallSeconds >= 0.45 && usage.wallSeconds < 8, `${usage.wallSeconds} s of wall time`);
    assert.ok(usage.userSeconds >= 0 && usage.systemSeconds >= 0);
  }
});

test('says what print(1) has used: no more than bare, nothing negative, some memory, one process', async () => {
  for (const each of [single, loaded]) {
    const of = each;
    for (let round = 0; round < 5; round += 1) {
      const { usage, outcome: word } = await logged(of, () => runPy(of, 'print(1)'));
      assert.equal(word, 'ok');
      assert.ok(usage.userSeconds >= 0 && usage.systemSeconds >= 0, JSON.stringify(usage));
      assert.ok(usage.userSeconds + usage.systemSeconds <= 0.05, JSON.stringify(usage));
      assert.ok(usage.peakMemoryBytes > 1e6 && usage.peakMemoryBytes < 1e8, JSON.stringify(usage));
      assert.deepEqual([usage.peakProcesses, usage.stdoutBytes, usage.stderrBytes], [1, 2, 0]);
    }
  }
});

test('says how much memory and how many processes a run had at its peak', async () => {
  const hog = await logged(single, () =>
    runPy(single, `import time\nx = b'x' * (200 << 20)\ntime.sleep(0.3)`),
  );
  assert.ok(
    hog.usage.peakMemoryBytes > 200 * 1024 * 1024 && hog.usage.peakMemoryBytes < 260 * 1024 * 1024,
    JSON.stringify(hog.usage),
  );
  const many = await logged(single, () =>
    runPy(
      single,
      `import os, time\nfor _ in range(9):\n    if os.fork() == 0: time.sleep(0.4); os._exit(0)\ntime.sleep(0.4)`,
    ),
  );
  assert.equal(many.usage.peakProcesses, 10);
});
