/** What a copy of a warm interpreter must not share with another copy, and what it must have like a new one. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { runPy, runSh, startServer, type Server } from '../support/server.ts';

/** Enough for each slot to have served several runs. */
const RUNS = 12;

async function output(server: Server, code: string, more: object = {}): Promise<string> {
  const { status, body } = await runPy(server, code, more);
  assert.deepEqual([status, body.returncode, body.stderr], [200, 0, ''], JSON.stringify(body));
  return body.stdout;
}

/** Each is an expression, after its imports, whose value no two runs may share. */
const NUMBERS: Readonly<Record<string, readonly [imports: string, value: string]>> = {
  'random.random': ['random', 'random.random()'],
  'random.getrandbits': ['random', 'random.getrandbits(64)'],
  'random.Random()': ['random', 'random.Random().random()'],
  'random.SystemRandom()': ['random', 'random.SystemRandom().random()'],
  'os.urandom': ['os', 'os.urandom(8)'],
  'os.getrandom': ['os', 'os.getrandom(8)'],
  'uuid.uuid4': ['uuid', 'uuid.uuid4()'],
  'uuid.uuid1': ['uuid', 'uuid.uuid1()'],
  'the clock sequence of uuid.uuid1, at one time': [
    'uuid',
    `(uuid.uuid1().clock_seq, uuid.uuid1().clock_seq, uuid.uuid1().clock_seq, uuid.uuid1().clock_seq)`,
  ],
  'secrets.token_hex': ['secrets', 'secrets.token_hex()'],
  'secrets.choice': ['secrets', '[secrets.choice(range(1000)) for _ in range(8)]'],
  'tempfile.mktemp': ['tempfile', 'tempfile.mktemp()'],
  'tempfile.NamedTemporaryFile': ['tempfile', 'tempfile.NamedTemporaryFile().name'],
  'ssl.RAND_bytes': ['ssl', 'ssl.RAND_bytes(8)'],
  'the authkey of multiprocessing': ['multiprocessing', 'bytes(multiprocessing.current_process().authkey)'],
  'the name of a shared memory': [
    'multiprocessing.shared_memory as m',
    '(lambda s: (s.name, s.close(), s.unlink())[0])(m.SharedMemory(create=True, size=10))',
  ],
  'a boundary of email': ['email.generator as g', 'g.Generator._make_boundary()'],
  'random in a thread': [
    'random, concurrent.futures as f',
    'f.ThreadPoolExecutor(1).submit(random.random).result()',
  ],
  'random in a child': ['random, multiprocessing as m', `m.get_context('fork').Pool(1).apply(random.random)`],
};

const PRELOADED: Readonly<Record<string, readonly [imports: string, value: string]>> = {
  'numpy.random.random': ['numpy', 'numpy.random.random()'],
  'numpy.random.randint': ['numpy', 'numpy.random.randint(0, 2**62)'],
  'numpy.random.default_rng': ['numpy', 'numpy.random.default_rng().random()'],
  'numpy.random.RandomState': ['numpy', 'numpy.random.RandomState().random()'],
  'numpy.random.get_state': ['numpy', 'numpy.random.get_state()[1].tolist()[:4]'],
  'numpy.random.SeedSequence': ['numpy', 'numpy.random.SeedSequence().entropy'],
  'pandas.DataFrame.sample': ['pandas', 'pandas.DataFrame({"x": range(100000)}).sample(8)["x"].tolist()'],
};

/** Every run prints all of them, a line each; a line that two runs have in common is one that they share. */
async function assertAllDiffer(
  server: Server,
  numbers: Readonly<Record<string, readonly [imports: string, value: string]>>,
): Promise<void> {
  const names = Object.keys(numbers);
  const code = Object.values(numbers)
    .map(([imports, value]) => `import ${imports}\nprint(${value})`)
    .join('\n');
  // At once and one after the other: copies that stood ready together, and copies that were made in turn.
  const seen = await Promise.all(Array.from({ length: RUNS / 2 }, () => output(server, code)));
  for (let n = 0; n < RUNS / 2; n += 1) seen.push(await output(server, code));
  const lines = seen.map((text) => text.trimEnd().split('\n'));
  for (const [at, name] of names.entries()) {
    const values = lines.map((each) => each[at]);
    // A clock sequence has 14 bits (RFC 9562), and libuuid keeps one for each process: two of them may be equal by chance.
    const chance = name.startsWith('the clock sequence') ? 1 : 0;
    assert.ok(new Set(values).size >= RUNS - chance, `${name}: ${values.join(' ')}`);
  }
}

describe('a warm interpreter', () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(() => server.stop());

  test('two runs never see the same numbers', () => assertAllDiffer(server, NUMBERS));

  test('two runs in one slot share nothing that the first has changed', async () => {
    const one = await startServer({ env: { NOX_SLOTS: '1' } });
    const look = `import builtins, gc, os, signal, sys, warnings
print([hasattr(x, 'mine') for x in (builtins, sys, os)], 'MINE' in os.environ, '/mine' in sys.path, sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold())
print(warnings.filters, signal.getsignal(signal.SIGTERM), oct(os.umask(0)), os.nice(0), os.listdir('/tmp'), os.listdir('/dev/shm'))
print('mine' in sys.modules, len(sys.meta_path), len(sys.path_hooks), os.getcwd() == sys.path[0])
import json, random
print(hasattr(json, 'mine'))`;
    try {
      const expected = await output(one, look, { fresh: true });
      assert.match(expected, /^\[False, False, False\] False False 1000 True /);
      await output(
        one,
        `import builtins, gc, json, locale, os, random, signal, sys, warnings
random.seed(1); builtins.mine = sys.mine = os.mine = json.mine = 1; os.environ['MINE'] = '1'
sys.path.append('/mine'); sys.setrecursionlimit(5000); gc.disable(); gc.set_threshold(1)
warnings.simplefilter('error'); signal.signal(signal.SIGTERM, signal.SIG_IGN); os.umask(0o777); os.nice(3)
open('/tmp/mine', 'w').close(); open('/dev/shm/mine', 'w').close()
sys.modules['mine'] = sys; sys.meta_path.clear(); sys.path_hooks.clear(); os.chdir('/')`,
      );
      assert.equal(await output(one, look), expected);
    } finally {
      await one.stop();
    }
  });

  test('has the limits, rights and surroundings of a new one', async () => {
    const look = `import os, sys
skip = ('Name', 'Pid', 'Tgid', 'Ngid', 'PPid', 'NSpid', 'NStgid', 'NSpgid', 'NSsid', 'Vm', 'Rss', 'Hugetlb', 'voluntary', 'nonvoluntary', 'Speculation', 'State', 'Cpus_allowed', 'Mems_allowed', 'FDSize', 'SigQ', 'Seccomp_filters', 'HugetlbPages', 'CoreDumping', 'THP')
print([line for line in open('/proc/self/status') if not line.startswith(skip)])
print(open('/proc/self/limits').read())
print(sorted(line.split()[4:6] + line.split(' - ')[1].split()[:1] for line in open('/proc/self/mountinfo')))
print(os.getpid(), os.getppid(), sorted(os.listdir('/proc/self/fd')), [p for p in os.listdir('/proc') if p.isdigit()])
print(os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), open('/proc/self/oom_score_adj').read(), open('/proc/self/coredump_filter').read(), open('/proc/self/timerslack_ns').read() if os.access('/proc/self/timerslack_ns', 4) else '')
print(os.uname().nodename, os.getresuid(), os.getresgid(), os.getgroups(), os.umask(0), os.getsid(0), os.getpgid(0), os.getcwd())
print(open('/proc/self/personality').read() if os.access('/proc/self/personality', 4) else '', os.listdir('/tmp'), os.listdir('/run'), os.listdir('/dev/shm'), sorted(os.listdir('/dev')), sorted(os.listdir('/')))
print(sorted(os.readlink('/proc/self/ns/' + n).split(':')[0] for n in os.listdir('/proc/self/ns')))`;
    const warm = await output(server, look);
    assert.equal(warm, await output(server, look, { fresh: true }));
    for (const way of [{}, { fresh: true }])
      assert.match(await output(server, `print(open('/proc/self/status').read())`, way), /^NoNewPrivs:\t1$/m);
  });

  test('a file that nobody closed is whole in the next run', async () => {
    const files = `import gzip, os, zipfile
f = open('left-text', 'w'); f.write('text')
class Holder: held = open('left-class', 'w')
Holder.held.write('class')
cycle = [open('left-cycle', 'w')]; cycle.append(cycle); cycle[0].write('cycle')
def function(file=open('left-default', 'w')): file.write('default')
function()
os.held = open('left-module', 'w'); os.held.write('module')
z = zipfile.ZipFile('left-zip', 'w'); z.writestr('name', 'zip')
g = gzip.open('left-gzip', 'wt'); g.write('gzip')
`;
    const check = `import gzip, os, zipfile
for name in ('text', 'class', 'cycle', 'default', 'module'): print(open('left-' + name).read())
def attempt(read):
    try: return read()
    except Exception as error: return type(error).__name__
print(attempt(lambda: zipfile.ZipFile('left-zip').read('name')))
print(attempt(lambda: gzip.open('left-gzip').read()))
for name in os.listdir('.'):
    if name.startswith('left-'): os.unlink(name)`;
    for (const last of ['', 'raise SystemExit', 'import sys; sys.exit(0)']) {
      await output(server, files + last, { fresh: true });
      const expected = await output(server, check, { fresh: true });
      assert.match(expected, /^text\nclass\ncycle\ndefault\nmodule\nb'zip'\n/);
      await output(server, files + last);
      assert.equal(await output(server, check), expected, last);
    }
  });

  test('`fresh` is a process of its own, with its arguments and a hash seed', async () => {
    const look = `print(open('/proc/self/cmdline').read().split('\\0')[2:-1])`;
    assert.equal(await output(server, look, { args: ['a', 'b'], fresh: true }), `['a', 'b']\n`);
    const hashes = await Promise.all(
      Array.from({ length: 4 }, () => output(server, `print(hash('text'))`, { fresh: true })),
    );
    assert.equal(new Set(hashes).size, 4);
  });
});

describe('packages that were loaded ahead', () => {
  let server: Server;
  before(async () => {
    server = await startServer({ env: { NOX_PYTHON_PRELOAD: 'numpy pandas' } });
  });
  after(() => server.stop());

  test('two runs never see the same numbers', () => assertAllDiffer(server, { ...NUMBERS, ...PRELOADED }));

  test('they are found where they are imported, not before, and work', async () => {
    const code = `import sys
print(sorted(m for m in sys.modules if m.split('.')[0] in ('numpy', 'pandas', 'threading', 'json')))
import numpy, pandas
print(numpy.__name__, numpy.__spec__.origin, type(numpy.__loader__).__name__, sys.modules['numpy'] is numpy, 'numpy.linalg' in sys.modules)
print(numpy.linalg.solve([[2, 0], [0, 4]], [2, 4]).tolist(), (numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum())
print(pandas.DataFrame({'a': [1, 2], 'b': ['x', 'y']}).groupby('b').sum().to_csv())
import numpy.random, threading
print(threading.active_count(), threading.main_thread().native_id == __import__('os').getpid())`;
    assert.equal(await output(server, code), await output(server, code, { fresh: true }));
  });

  test('a module of the workspace with their name comes first', async () => {
    const code = `import numpy\nprint(numpy.MINE)`;
    const made = await runSh(server, ['bash', '-c', `echo 'MINE = 1' > numpy.py`]);
    assert.equal(made.body.returncode, 0);
    assert.equal(await output(server, code), '1\n');
    await runSh(server, ['bash', '-c', 'unlink numpy.py']);
    assert.match(await output(server, `import numpy\nprint(numpy.__file__)`), /dist-packages|site-packages/);
  });
});
