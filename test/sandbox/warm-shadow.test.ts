/** A workspace that turns on the warm interpreter: it imports and runs what bare Python would. */
import assert from 'node:assert/strict';
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runPy, startServer, withServer, type Server } from '../support/server.ts';
import { inside, until } from './attack.ts';
import { zygoteOf, isAlive, plant, clean, assertAsBare, bare } from './warm.ts';

let server: Server;
/** With a package that was loaded ahead, and many others for its sake. */
let loaded: Server;
before(async () => {
  server = await startServer({ env: { NOX_TIMEOUT: '10', NOX_MAX_PROCESSES: '64', NOX_SLOTS: '4' } });
  loaded = await startServer({ env: { NOX_TIMEOUT: '15', NOX_PYTHON_PRELOAD: 'numpy' } });
});
after(async () => {
  await Promise.all([server.stop(), loaded.stop()]);
});

const SHOUT = `print('taken in', __name__)\n`;
const HOSTILE: Readonly<Record<string, string>> = Object.fromEntries(
  [
    ...[
      'sitecustomize',
      'usercustomize',
      'ctypes',
      'select',
      'socket',
      'os',
      'zipimport',
      'posix',
      '_signal',
      '_socket',
      'gc',
    ],
    ...[
      'site',
      'io',
      'abc',
      'codecs',
      'stat',
      'genericpath',
      'posixpath',
      '_weakref',
      'importlib/__init__',
      'encodings/__init__',
    ],
    ...[
      'encodings/utf_8',
      'ctypes/__init__',
      '_ctypes',
      'struct',
      'types',
      'warnings',
      '_warnings',
      'random',
      'secrets',
    ],
  ].map((name) => [`${name}.py`, SHOUT]),
);
const CONFIGS: Readonly<Record<string, string>> = {
  'python311._pth': '/evil\nimport site\n',
  'python3._pth': '/evil\n',
  'pyvenv.cfg': 'home = /evil\ninclude-system-site-packages = false\n',
  'evil.pth': `import sys; print('pth')\n`,
  'setup.cfg': '[install]\n',
  '.local/lib/python3.11/site-packages/usercustomize.py': SHOUT,
  '.local/lib/python3.11/site-packages/evil.pth': `import sys; print('pth')\n`,
  '__pycache__/sitecustomize.cpython-311.pyc': 'garbage',
  '__pycache__/ctypes.cpython-311.pyc': 'garbage',
  '__pycache__/run.cpython-311.pyc': 'garbage',
};

test('plants modules with the names of what the interpreter loads: nothing is imported that bare Python would not', async () => {
  for (const each of [server, loaded]) {
    const of = each;
    await assertAsBare(
      of,
      { ...HOSTILE, ...CONFIGS },
      `import sys\nprint(sorted(m for m in sys.modules if 'sandbox' in str(getattr(sys.modules[m], '__file__', ''))), sys.path)`,
    );
    await assertAsBare(
      of,
      CONFIGS,
      `import ctypes, select, socket, os, random; print(ctypes.__file__, socket.__file__, sorted(os.environ))`,
    );
    for (const name of [
      'ctypes',
      'select',
      'socket',
      'os',
      'random',
      'usercustomize',
      'gc',
      '_signal',
      'zipimport',
      'struct',
    ])
      await assertAsBare(
        of,
        { [`${name}.py`]: SHOUT },
        `import ${name}\nprint(getattr(${name}, '__file__', None), getattr(${name}, '__name__'))`,
      );
  }
});

test('plants them while the zygote of the workspace is started', async () => {
  await withServer({ env: { NOX_SLOTS: '2', NOX_PYTHON_PRELOAD: 'json decimal' } }, async (of) => {
    const files = {
      ...HOSTILE,
      ...CONFIGS,
      'json.py': SHOUT,
      'decimal.py': SHOUT,
      '_decimal.py': SHOUT,
      'numbers.py': SHOUT,
    };
    plant(of, files);
    const { bwrap, zygote } = await zygoteOf(of);
    process.kill(bwrap, 'SIGKILL');
    await until('the zygote is gone', () => !isAlive(zygote));
    await sleep(100);
    assert.equal(
      await inside(
        of,
        `import sys; print(len([m for m in sys.modules if 'sandbox' in str(getattr(sys.modules[m], '__file__', ''))]) - 1)`,
      ),
      '0',
    );
    assert.doesNotMatch(of.log(), /taken in/);
    clean(of);
    await assertAsBare(of, { 'json.py': SHOUT }, `import json, sys; print(json.__file__)`);
    await assertAsBare(
      of,
      { 'numbers.py': SHOUT },
      `import decimal, sys; print(decimal.Decimal(1), decimal.__file__)`,
    );
    await assertAsBare(
      of,
      {},
      `import decimal, json, sys; print(decimal.Decimal(1), json.loads('[1]'), decimal.__spec__.origin, json.__spec__.name, json.__path__)`,
    );
  });
});

test('shadows a package that was loaded ahead, or what that one imports', async () => {
  const use = `import numpy\nprint(numpy.__file__, getattr(numpy, 'arange', str)(3))`;
  await assertAsBare(loaded, {}, use);
  await assertAsBare(loaded, { 'numpy.py': SHOUT }, use);
  await assertAsBare(loaded, { 'numpy/__init__.py': SHOUT }, use);
  await assertAsBare(loaded, { 'numpy/core.py': SHOUT }, use);
  await assertAsBare(loaded, { 'random.py': SHOUT }, `import random; print(random.__file__)`);
  await assertAsBare(loaded, { 'random.py': `${SHOUT}raise SystemExit('no')` }, use);
  await assertAsBare(loaded, { 'secrets.py': `${SHOUT}import sys\nsys.exit(3)` }, use);
});

test('shadows what a package imports from the directory that a link leads to', async () => {
  plant(loaded, { 'sub/random.py': `${SHOUT}raise SystemExit('no')`, 'sub/real.py': '' });
  try {
    await inside(loaded, `import os; os.symlink('sub/real.py', 'link.py')`);
    const code = `import sys\nprint(sys.path[0])\nimport numpy\nprint('numpy')`;
    const { body } = await runPy(loaded, code, { filename: 'link.py' });
    assert.deepEqual(body, bare(loaded, 'link.py'));
  } finally {
    clean(loaded);
  }
});

test('runs in a directory that may be entered and not read', async () => {
  for (const each of [server, loaded]) {
    const of = each;
    plant(of, { 'dark/x.py': `print('old')` });
    try {
      chmodSync(join(of.workspace, 'dark'), 0o311);
      const { body } = await runPy(of, `import sys; print('seen', sys.path[0])`, { filename: 'dark/x.py' });
      chmodSync(join(of.workspace, 'dark'), 0o311);
      assert.deepEqual(body, bare(of, 'dark/x.py'));
    } finally {
      chmodSync(join(of.workspace, 'dark'), 0o755);
      clean(of);
    }
  }
});

for (const [what, make] of [
  ['a link to a file', `os.symlink('other.txt', 'run.py')`],
  ['a link that leads out', `os.symlink('/etc/passwd', 'run.py')`],
  ['a link to itself', `os.symlink('run.py', 'run.py')`],
  ['a FIFO', `os.mkfifo('run.py')`],
  [
    'a directory with a __main__.py',
    `os.mkdir('run.py'); open('run.py/__main__.py', 'w').write('print("wrong")')`,
  ],
  ['a socket', `import socket; socket.socket(socket.AF_UNIX).bind('run.py')`],
  ['a file that may not be read', `open('run.py', 'w').write('print("wrong")'); os.chmod('run.py', 0)`],
  ['a file', `open('run.py', 'w').write('print("wrong")')`],
] as const) {
  test(`makes run.py ${what}`, async () => {
    try {
      await inside(server, `import os\nos.path.lexists('run.py') and os.unlink('run.py')\n${make}`, {
        filename: 'maker.py',
      });
      assert.equal(await inside(server, `print(6 * 7)`), '42');
      assert.equal(await inside(server, `print(open(__file__).read())`), 'print(open(__file__).read())');
    } finally {
      clean(server);
    }
  });
}

test('has 5,000 files in its workspace', async () => {
  const many = Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`file-${n}.txt`, '']));
  for (const each of [server, loaded]) {
    const of = each;
    try {
      plant(of, many);
      const began = performance.now();
      const name =
        of === loaded ? 'import numpy; print(numpy.arange(3))' : 'import os; print(len(os.listdir(".")))';
      assert.equal(await inside(of, name), of === loaded ? '[0 1 2]' : '5001');
      assert.ok(performance.now() - began < 3000);
    } finally {
      clean(of);
    }
  }
});

test('keeps being what it was asked: arguments, environment, traceback, exit code as bare', async () => {
  for (const each of [server, loaded]) {
    const of = each;
    await assertAsBare(
      of,
      {},
      `import sys, os; print(sys.argv, sys.orig_argv, sys.path, sys.flags, sorted(os.environ.items()), __file__, __name__, sys.executable)`,
    );
    await assertAsBare(of, {}, `def f(): raise ValueError('x')\nf()`);
    await assertAsBare(of, {}, `import atexit, sys\natexit.register(print, 'bye')\nsys.exit(3)`);
    await assertAsBare(of, {}, `import os, sys; sys.stdout.write('x'); os._exit(5)`);
    await assertAsBare(of, {}, `syntax error here`);
    await assertAsBare(of, {}, `print(open('/proc/self/environ').read().strip(chr(0)).split(chr(0)))`);
    await assertAsBare(
      of,
      { 'pkg/mod.py': 'x = 1' },
      `import pkg.mod, sys; print(pkg.mod.x, sys.path[0])`,
      'sub/dir/prog.py',
    );
  }
});
