/** Runtimes as data: what a definition may say, what is refused and how, and what becomes of it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import fc from 'fast-check';
import {
  findRuntime,
  findVersion,
  isCompiled,
  isPython,
  loadRuntimes,
  parseRuntime,
  planRuntime,
  planVersion,
  quote,
  RuntimeFileError,
  type CommandRuntime,
} from '../../src/runner/runtime.ts';
import { newMark } from '../../src/runner/stage.ts';

const MIB = 2 ** 20;
const ZIG: CommandRuntime = {
  name: 'zig',
  title: 'Zig',
  extension: 'zig',
  file: 'main.zig',
  detect: ['/usr/bin/zig'],
  version: { argv: ['zig', 'version'], pattern: '^\\S+' },
  compile: ['zig', 'build-exe', '{file}', '-femit-bin={out}'],
  run: ['{out}'],
  hello: 'hello',
};
const CALL = { file: '/w/a/main.zig', args: [], mark: newMark(), memoryBytes: 512 * MIB };

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nox-runtimes-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

const write = (name: string, value: unknown): void => {
  writeFileSync(join(dir, name), typeof value === 'string' ? value : JSON.stringify(value));
};
const refused = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof RuntimeFileError, String(error));
  assert.match(error.message, message);
  return true;
};

describe('the built-in ones', () => {
  const { runtimes, replaced } = loadRuntimes('/nonexistent/nox');

  test('what the API promises is there, by name, sorted', () => {
    const names = [...runtimes.keys()];
    const promised =
      'awk bash c cpp go java javascript lua perl php python ruby rust sqlite typescript'.split(' ');
    assert.deepEqual(names, promised);
    assert.deepEqual(replaced, []);
  });

  test('compilers are told from interpreters; Python keeps its warm way', () => {
    const all = [...runtimes.values()];
    const named = (which: typeof isPython | typeof isCompiled) => all.filter(which).map(({ name }) => name);
    assert.deepEqual(named(isCompiled), ['c', 'cpp', 'go', 'java', 'rust']);
    assert.deepEqual(named(isPython), ['python']);
  });

  test('each is found by its name and its aliases, and by nothing else', () => {
    for (const runtime of runtimes.values())
      for (const name of [runtime.name, ...(runtime.aliases ?? [])])
        assert.equal(findRuntime(runtimes, name), runtime, name);
    for (const name of ['', 'nothing', 'constructor', '__proto__', 'Python'])
      assert.equal(findRuntime(runtimes, name), undefined, name);
  });

  test('each hello world names its runtime, each default file has its extension', () => {
    for (const { name, hello, file, extension } of runtimes.values()) {
      assert.ok(hello.includes('Hello from'), name);
      assert.ok(file.endsWith(`.${extension}`), name);
    }
  });

  test('versions as the programs print them', () => {
    for (const [name, text, version] of [
      ['awk', 'mawk 1.3.4 20200120\nCopyright', '1.3.4'],
      ['awk', 'GNU Awk 5.2.1, API 3.2, PMA Avon', '5.2.1'],
      ['bash', 'GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)', '5.2.15(1)-release'],
      ['c', '12.2.0', '12.2.0'],
      ['go', 'go version go1.19.8 linux/amd64', '1.19.8'],
      ['java', '\nopenjdk version "17.0.15" 2025-04-15', '17.0.15'],
      ['javascript', 'v26.10.0', '26.10.0'],
      ['lua', 'Lua 5.4.4  Copyright (C) 1994-2022', '5.4.4'],
      ['php', 'PHP 8.2.29 (cli) (built: Jul  3 2025)', '8.2.29'],
      ['python', 'Python 3.11.2', '3.11.2'],
      ['rust', 'rustc 1.63.0', '1.63.0'],
      ['perl', 'sh: perl: not found', undefined],
    ] as const) {
      const runtime = runtimes.get(name);
      assert.ok(runtime);
      assert.equal(findVersion(runtime, text), version, name);
    }
  });
});

describe('the administrator’s', () => {
  test('one is added, one replaces ours, which is told; other files are not looked at', () => {
    write('zig.json', ZIG);
    write('c.json', { ...ZIG, name: 'c', aliases: ['cc'] });
    write('README', 'not a definition');
    write('zig.json.bak', '{');
    const { runtimes, replaced } = loadRuntimes(dir);
    assert.deepEqual(runtimes.get('zig'), ZIG);
    assert.equal(findRuntime(runtimes, 'cc')?.name, 'c');
    assert.equal(runtimes.get('c')?.title, 'Zig');
    assert.deepEqual(replaced, ['c']);
    assert.equal(runtimes.size, 16);
  });

  test('the names of one that is replaced are free', () => {
    write('javascript.json', { ...ZIG, name: 'javascript' });
    write('zig.json', { ...ZIG, aliases: ['js'] });
    assert.equal(findRuntime(loadRuntimes(dir).runtimes, 'js')?.name, 'zig');
  });

  const without = (name: keyof CommandRuntime) =>
    Object.fromEntries(Object.entries(ZIG).filter(([key]) => key !== name));
  const bad: Readonly<Record<string, readonly [value: unknown, message: RegExp]>> = {
    'no JSON': ['{"name": "zig",', /zig\.json: .*JSON/],
    'no object': [[], /zig\.json: .*must be object/],
    nothing: ['', /zig\.json: .*JSON/],
    null: ['null', /zig\.json: .*must be object/],
    'a member that is missing': [without('hello'), /zig\.json: hello: missing/],
    'no run and no builtin': [without('run'), /zig\.json: run: missing/],
    'a member that nobody knows': [{ ...ZIG, runn: ['x'] }, /zig\.json: runn: no such member/],
    'one below': [
      { ...ZIG, version: { ...ZIG.version, regex: '' } },
      /zig\.json: version\.regex: no such member/,
    ],
    'a builtin that is none': [{ ...without('run'), builtin: 'ruby' }, /zig\.json: (builtin|compile)/],
    'builtin and run': [{ ...without('compile'), builtin: 'python' }, /zig\.json: run: no such member/],
    'a name with a slash': [{ ...ZIG, name: '../zig' }, /zig\.json: name: "\.\.\/zig"/],
    'a name in capitals': [{ ...ZIG, name: 'Zig' }, /zig\.json: name: "Zig"/],
    'another name than the file': [
      { ...ZIG, name: 'zag' },
      /zig\.json: name: the file must be called zag\.json/,
    ],
    'a file in a directory': [{ ...ZIG, file: 'a/main.zig' }, /zig\.json: file: "a\/main\.zig"/],
    'a file that is an option': [{ ...ZIG, file: '-main.zig' }, /zig\.json: file/],
    'nothing to detect': [{ ...ZIG, detect: [] }, /zig\.json: detect/],
    'a relative path to detect': [{ ...ZIG, detect: ['bin/zig'] }, /zig\.json: detect\.0/],
    'a shell string': [{ ...ZIG, run: '{out}' }, /zig\.json: run: "\{out\}" must be array/],
    'an empty command': [{ ...ZIG, run: [] }, /zig\.json: run/],
    'a NUL in a command': [{ ...ZIG, run: ['a\0b'] }, /zig\.json: run\.0/],
    'a NUL in the environment': [{ ...ZIG, env: { A: '\0' } }, /zig\.json: env\.A/],
    'a name of the environment': [{ ...ZIG, env: { 'A=B': '' } }, /zig\.json: env\.A=B/],
    'a placeholder that nobody knows': [
      { ...ZIG, run: ['{fil}'] },
      /zig\.json: run: \{fil\} is none of \{file\}/,
    ],
    'one where there is none': [
      { ...ZIG, env: { A: '{file}' } },
      /zig\.json: env: \{file\} is none of \{heapMiB\}/,
    ],
    'no regular expression': [
      { ...ZIG, version: { ...ZIG.version, pattern: '(' } },
      /zig\.json: version\.pattern: .*regular expression/,
    ],
    'an alias of another': [{ ...ZIG, aliases: ['js'] }, /zig\.json: aliases: "js" means both/],
    'the name of another as alias': [
      { ...ZIG, aliases: ['python'] },
      /zig\.json: aliases: "python" means both/,
    ],
  };
  for (const [what, [value, message]] of Object.entries(bad))
    test(`refused by its name: ${what}`, () => {
      write('zig.json', value);
      assert.throws(() => loadRuntimes(dir), refused(message));
    });

  test('attack: a FIFO in its place does not stop the start', () => {
    execFileSync('mkfifo', [join(dir, 'zig.json')]);
    assert.throws(() => loadRuntimes(dir), refused(/zig\.json: is not a regular file/));
  });

  test('a directory that is a file, a definition that is a directory', () => {
    write('file', '');
    assert.throws(() => loadRuntimes(join(dir, 'file')), refused(/file: ENOTDIR/));
    mkdirSync(join(dir, 'zig.json'));
    assert.throws(() => loadRuntimes(dir), refused(/zig\.json: is not a regular file/));
  });
});

describe('planRuntime', () => {
  test('without a compiler the program is executed as it is, the client’s arguments last', () => {
    const interpreter = parseRuntime(
      'zig.json',
      JSON.stringify({ ...ZIG, compile: undefined, run: ['zig', '{file}', 'in {dir}', '{stem}'] }),
    );
    assert.ok(!isPython(interpreter));
    assert.deepEqual(planRuntime(interpreter, { ...CALL, args: ['-x', '{file}'] }), {
      argv: ['zig', '/w/a/main.zig', 'in /w/a', 'main', '-x', '{file}'],
      env: {},
      staged: false,
    });
  });

  test('memory for a heap is less than the memory of the run, in arguments and environment', () => {
    const runtime = { ...ZIG, run: ['x', '-m{heapMiB}'], env: { HEAP: '{heapMiB}m' } };
    const { argv, env } = planRuntime(runtime, CALL);
    assert.deepEqual([argv.at(-1), env], ['-m384', { HEAP: '384m' }]);
    const version = { ...runtime, version: { ...ZIG.version, argv: ['x', '{heapMiB}'] } };
    assert.deepEqual(planVersion(version, 16 * MIB), { argv: ['x', '12'], env: { HEAP: '12m' } });
  });

  test('what a placeholder stands for is not looked at again', () => {
    const { argv } = planRuntime({ ...ZIG, run: ['{file}'] }, { ...CALL, file: '/w/{out}{dir}$&$1.zig' });
    assert.equal(argv.at(-1), '/w/{out}{dir}$&$1.zig');
  });

  test('it is pure', () => {
    assert.deepEqual(planRuntime(ZIG, CALL), planRuntime(structuredClone(ZIG), structuredClone(CALL)));
  });

  /** What the driver does, with programs of the host in the place of compilers. */
  const drive = (compile: string[], run: string[], args: string[] = [], file = CALL.file, input = '') => {
    const { argv } = planRuntime({ ...ZIG, compile, run }, { ...CALL, args, file });
    const [program = '', ...rest] = argv;
    try {
      return {
        code: 0,
        stdout: execFileSync(program, rest, { input, stdio: 'pipe' }).toString(),
        stderr: '',
      };
    } catch (error) {
      const { status, stdout, stderr } = error as { status: number; stdout: Buffer; stderr: Buffer };
      return { code: status, stdout: stdout.toString(), stderr: stderr.toString() };
    }
  };
  const marked = `\0${CALL.mark}\0`;

  test('the driver: the compiler’s output goes to stderr, its input is empty, then the mark, then the program', () => {
    const ended = drive(
      ['/bin/sh', '-c', 'echo out; echo err >&2; cat; exit 0'],
      ['/bin/sh', '-c', 'cat; echo " $1" >&2; exit 3', 'sh'],
      ['arg'],
      CALL.file,
      'input',
    );
    assert.deepEqual(ended, { code: 3, stdout: `${marked}input`, stderr: `out\nerr\n${marked} arg\n` });
  });

  test('the driver: a compiler that fails ends it, with its own exit code and without a mark', () => {
    const ended = drive(['/bin/sh', '-c', 'echo no; exit 42'], ['/bin/echo', 'never']);
    assert.deepEqual(ended, { code: 42, stdout: '', stderr: 'no\n' });
    assert.equal(drive(['/bin/sh', '-c', 'kill -9 $$'], ['/bin/echo', 'never']).code, 128 + 9);
    assert.equal(drive(['/nonexistent/cc'], ['/bin/echo', 'never']).code, 127);
  });

  test('the driver: a program that is not there is the program’s failure', () => {
    const ended = drive(['/bin/true'], ['/nonexistent/program']);
    assert.deepEqual([ended.code, ended.stdout], [127, marked]);
    assert.ok(ended.stderr.startsWith(marked));
  });

  const hostile = fc
    .oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(
        "'",
        "''",
        `'"'"'`,
        '\\',
        '$(id)',
        '`id`',
        '\n',
        '*',
        '~',
        '-n',
        '{file}',
        '',
        '&',
        "'; id; '",
      ),
    )
    .map((text) => text.replaceAll('\0', ''));

  test('property: no argument and no name of a file is anything but itself', () => {
    fc.assert(
      fc.property(fc.array(hostile, { maxLength: 5 }), hostile, (args, name) => {
        const file = `/w/${name.replaceAll('/', '')}.zig`;
        const print = ['/usr/bin/printf', '%s\\0'];
        const { stdout } = drive(
          [
            '/bin/sh',
            '-c',
            `test "$1" = "$(printf %s. "$2")" && test $# = 2 || exit 9`,
            'sh',
            '{file}.',
            '{file}',
          ],
          [...print, '{file}'],
          args,
          file,
        );
        assert.equal(stdout, `${marked}${[file, ...args].join('\0')}\0`);
      }),
      { numRuns: 100 },
    );
  });

  test('property: a quoted word is that word to the shell', () => {
    fc.assert(
      fc.property(fc.array(hostile, { minLength: 1, maxLength: 5 }), (words) => {
        const script = `printf '%s\\0' ${words.map(quote).join(' ')}`;
        assert.equal(
          execFileSync('/bin/sh', ['-c', script]).toString(),
          words.map((each) => `${each}\0`).join(''),
        );
      }),
      { numRuns: 100 },
    );
  });
});
