/**
 * Every runtime of this machine, for real: its hello world, arguments of every kind, standard input, what fails when it
 * is compiled and what fails when it runs. What a machine lacks is skipped by name; REQUIRED must be there.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { parseConfig } from '../../src/config.ts';
import type { LimitsRequest } from '../../src/protocol/limits.ts';
import type { RunResult } from '../../src/protocol/messages.ts';
import type { RuntimeInfo } from '../../src/protocol/runtimes.ts';
import { isCompiled, loadRuntimes } from '../../src/runner/runtime.ts';
import type { Stage } from '../../src/runner/stage.ts';
import { explainFailure, prepareRunner, startRunner, type StartedRunner } from '../../src/runner/start.ts';
import { makeDirectory } from '../support/server.ts';

const REQUIRED = ['python', 'bash', 'javascript', 'typescript', 'c', 'cpp', 'perl', 'awk'];

/** Arguments that a shell, a getopt or a careless hand would make something else of. */
const HOSTILE = [
  ...[
    '',
    ' ',
    '-h',
    '--version',
    '--',
    '-e',
    '-',
    '@args',
    "it's",
    '"',
    '\\',
    '\\n',
    '$HOME',
    '$(touch pwned)',
  ],
  ...[
    '`touch pwned`',
    '; touch pwned',
    "'; touch pwned; '",
    '&& exit 9',
    '*',
    '~',
    '%s%n',
    'a=b',
    '$@',
    '{file}',
  ],
  ...['two\nlines', '\t', '\x7f\x1b[31m', 'é€😀', '{out}', '-XX:Foo', 'x'.repeat(100_000)],
];
/** What a mark looks like. */
const FORGED = `\0${'0123456789abcdef'.repeat(2)}\0`;
/** What stands behind each of them in the output. */
const END = '\u0001';

interface Programs {
  /** Prints each argument and END, then the first line of its input. */
  readonly echo: string;
  /** Prints `boom` to stderr and exits with 3. */
  readonly fail: string;
  /** What a compiler refuses. */
  readonly broken?: string;
}

const PROGRAMS: Readonly<Record<string, Programs>> = {
  python: {
    echo: `import sys\nfor a in sys.argv[1:]: print(a, end='\\x01')\nprint(input())`,
    fail: `import sys\nprint('boom', file=sys.stderr)\nsys.exit(3)`,
  },
  bash: {
    echo: `for a in "$@"; do printf '%s\\1' "$a"; done; IFS= read -r line; printf '%s\\n' "$line"`,
    fail: 'echo boom >&2; exit 3',
  },
  javascript: {
    echo: `const {readFileSync} = require('fs');
for (const a of process.argv.slice(2)) process.stdout.write(a + '\\x01');
console.log(readFileSync(0, 'utf8').split('\\n')[0]);`,
    fail: `console.error('boom'); process.exit(3);`,
  },
  typescript: {
    echo: `import { readFileSync } from 'node:fs';
const args: readonly string[] = process.argv.slice(2);
for (const a of args) process.stdout.write(a + '\\x01');
console.log(readFileSync(0, 'utf8').split('\\n')[0] as string);`,
    fail: `const code: number = 3; console.error('boom'); process.exit(code);`,
  },
  c: {
    echo: `#include <stdio.h>
int main(int c, char **v) { char line[100]; for (int i = 1; i < c; i++) printf("%s\\001", v[i]);
  if (fgets(line, sizeof line, stdin)) fputs(line, stdout); }`,
    fail: `#include <stdio.h>\nint main(void) { fputs("boom\\n", stderr); return 3; }`,
    broken: 'int main(void) { return undeclared; }',
  },
  cpp: {
    echo: `#include <iostream>
#include <string>
int main(int c, char **v) { for (int i = 1; i < c; i++) std::cout << v[i] << '\\001';
  std::string line; std::getline(std::cin, line); std::cout << line << std::endl; }`,
    fail: `#include <iostream>\nint main() { std::cerr << "boom\\n"; return 3; }`,
    broken: 'int main() { return undeclared; }',
  },
  perl: {
    echo: `print "$_\\x01" for @ARGV; print scalar <STDIN>;`,
    fail: `print STDERR "boom\\n"; exit 3;`,
  },
  awk: {
    echo: `BEGIN { for (i = 1; i < ARGC; i++) printf "%s\\001", ARGV[i]; getline line < "-"; print line }`,
    fail: `BEGIN { print "boom" > "/dev/stderr"; exit 3 }`,
  },
  java: {
    echo: `import java.util.Scanner;
public class Main { public static void main(String[] args) {
  var out = new java.io.PrintStream(System.out, true, java.nio.charset.StandardCharsets.UTF_8);
  for (String a : args) out.print(a + "\\u0001");
  out.println(new Scanner(System.in).nextLine()); } }`,
    fail: `public class Main { public static void main(String[] args) { System.err.println("boom"); System.exit(3); } }`,
    broken: 'public class Main { public static void main(String[] args) { int x = "text"; } }',
  },
  go: {
    echo: `package main
import ("bufio"; "fmt"; "os")
func main() { for _, a := range os.Args[1:] { fmt.Print(a, "\\x01") }
  line, _ := bufio.NewReader(os.Stdin).ReadString('\\n'); fmt.Print(line) }`,
    fail: `package main\nimport ("fmt"; "os")\nfunc main() { fmt.Fprintln(os.Stderr, "boom"); os.Exit(3) }`,
    broken: 'package main\nfunc main() { unused := 1 }',
  },
  rust: {
    echo: `use std::io::BufRead;
fn main() { for a in std::env::args().skip(1) { print!("{}\\u{1}", a); }
  println!("{}", std::io::stdin().lock().lines().next().unwrap().unwrap()); }`,
    fail: `fn main() { eprintln!("boom"); std::process::exit(3); }`,
    broken: 'fn main() { let x: i32 = "text"; }',
  },
  ruby: {
    echo: `ARGV.each { |a| print a, "\\x01" }; print $stdin.gets`,
    fail: `$stderr.puts 'boom'; exit 3`,
  },
  php: {
    echo: `<?php foreach (array_slice($argv, 1) as $a) echo $a, "\\x01"; echo fgets(STDIN);`,
    fail: `<?php fwrite(STDERR, "boom\\n"); exit(3);`,
  },
  lua: {
    echo: `for i = 1, #arg do io.write(arg[i], "\\1") end print(io.read())`,
    fail: `io.stderr:write("boom\\n") os.exit(3)`,
  },
};

interface Ran {
  readonly stage: Stage;
  readonly stdout: string;
  readonly stderr: string;
  readonly compiler: string;
  readonly result: RunResult;
}

const { runtimes } = loadRuntimes('/nonexistent/nox');
const dir = await makeDirectory();
const workspace = join(dir, 'sandbox');
const settings = { NOX_SANDBOX: workspace, NOX_TIMEOUT: '60', NOX_SLOTS: '2' };
const config = parseConfig('runner', settings);
const log = pino({ level: 'silent' });
let runner: StartedRunner;
let infos: RuntimeInfo[];

prepareRunner(config);
before(async () => {
  runner = await startRunner(config, log);
  infos = await runner.runtimes.list();
});
after(async () => {
  await runner.executor.close();
  rmSync(dir, { recursive: true, force: true });
});

interface More {
  readonly args?: readonly string[];
  readonly stdin?: string;
  readonly limits?: LimitsRequest;
  /** Of the source, in the workspace. */
  readonly file?: string;
}

async function run(name: string, code: string, more: More = {}): Promise<Ran> {
  const { args = [], file, ...rest } = more;
  const entry = file === undefined ? {} : { entry: file };
  const program = { kind: 'runtime' as const, runtime: name, code, args: [...args], ...entry };
  const texts = { compile: '', stdout: '', stderr: '' };
  const decoder = { compile: new TextDecoder(), stdout: new TextDecoder(), stderr: new TextDecoder() };
  let result: RunResult | undefined;
  for await (const event of runner.executor.run(
    { id: 'r', program, ...rest },
    new AbortController().signal,
  )) {
    if (event.type === 'end') result = event.result;
    else if (event.type === 'output')
      texts[event.stream] += decoder[event.stream].decode(event.data, { stream: true });
  }
  assert.ok(result);
  const { compile: compiler, ...output } = texts;
  return { stage: result.stage ?? 'run', ...output, compiler, result };
}

const said = ({ compiler, stdout, stderr, result }: Ran) =>
  JSON.stringify({ compiler, stdout, stderr, result }).slice(0, 2000);

test('what the tests need is there, and really works', () => {
  for (const name of REQUIRED) {
    const info = infos.find((each) => each.name === name);
    assert.equal(info?.available, true, `${name}: ${info?.reason ?? 'unknown'}`);
    assert.match(info.version ?? '', /^\d/, name);
  }
  for (const { name, available, reason } of infos) assert.equal(available, reason === undefined, name);
});

test('none of it has left anything in the workspace', () => {
  runner.context.workspaces.get('default').placeholder.remove();
  assert.deepEqual(readdirSync(workspace), []);
});

for (const [name, programs] of Object.entries(PROGRAMS))
  describe(name, () => {
    const here = (t: { skip(reason: string): void }): boolean => {
      const info = infos.find((each) => each.name === name);
      if (info?.available === true) return true;
      assert.ok(!REQUIRED.includes(name), info?.reason ?? 'unknown');
      t.skip(info?.reason ?? 'unknown');
      return false;
    };

    test('arguments are exactly the client’s, the input is the program’s', async (t) => {
      if (!here(t)) return;
      const ran = await run(name, programs.echo, { args: HOSTILE, stdin: 'a line $(id)\nanother\n' });
      assert.deepEqual([ran.stage, ran.result.outcome, ran.stderr], ['run', 'ok', ''], said(ran));
      assert.deepEqual(ran.stdout.split(END), [...HOSTILE, 'a line $(id)\n']);
      assert.ok(!existsSync(join(workspace, 'pwned')));
    });

    test('a program that fails is a run that fails', async (t) => {
      if (!here(t)) return;
      const ran = await run(name, programs.fail);
      const { outcome, exitCode } = ran.result;
      assert.deepEqual([ran.stage, outcome, exitCode, ran.stderr], ['run', 'failed', 3, 'boom\n'], said(ran));
    });

    const { broken } = programs;
    if (broken === undefined) return;
    test('what the compiler refuses has never run', async (t) => {
      if (!here(t)) return;
      const ran = await run(name, broken, { stdin: 'input' });
      assert.deepEqual([ran.stage, ran.result.outcome], ['compile', 'failed'], said(ran));
      assert.deepEqual([ran.stdout, ran.stderr], ['', '']);
      assert.match(ran.compiler, /error|declared/, said(ran));
    });
  });

test('every runtime that is compiled has a test of what its compiler refuses', () => {
  for (const runtime of runtimes.values())
    if (isCompiled(runtime)) assert.ok(PROGRAMS[runtime.name]?.broken, runtime.name);
});

test('sqlite: statements in memory, or in the file that the first argument names; an error ends them', async (t) => {
  if (infos.find((each) => each.name === 'sqlite')?.available !== true) {
    t.skip('no sqlite3');
    return;
  }
  const make = 'create table t(x); insert into t values (1), (2);\n';
  const first = await run('sqlite', `${make}select sum(x) from t;`);
  assert.deepEqual([first.stdout, first.result.outcome], ['3\n', 'ok'], said(first));
  const args = [`it's "a" $(touch pwned) file`];
  await run('sqlite', make, { args });
  const second = await run('sqlite', 'select max(x) from t;', { args });
  assert.equal(second.stdout, '2\n', said(second));
  assert.ok(existsSync(join(workspace, args[0] ?? '')));
  const third = await run('sqlite', 'select * from nothing;\nselect 9;');
  assert.deepEqual([third.stdout, third.result.exitCode], ['', 1], said(third));
});

test('names of files of every kind, for a compiler and an interpreter', async () => {
  for (const stem of [`it's "a" $(touch pwned)`, '-o pwned', 'two\nlines', '{out}', '*', 'é😀', '@a', '%s'])
    for (const [name, code] of [
      ['c', '#include <stdio.h>\nint main(void) { puts("ok"); }'],
      ['perl', 'print "ok\\n"'],
    ] as const) {
      const ran = await run(name, code, { file: `${stem}.${name === 'c' ? 'c' : 'pl'}` });
      assert.deepEqual([ran.stage, ran.stdout, ran.stderr], ['run', 'ok\n', ''], said(ran));
    }
  assert.ok(!existsSync(join(workspace, 'pwned')));
});

test('a compiler that warns, and a program that prints on both streams: each gets its own', async () => {
  const code = `#include <stdio.h>\n#warning careful\nint main(void) { fputs("err", stderr); puts("out"); }`;
  const ran = await run('c', code);
  assert.match(ran.compiler, /careful/);
  assert.deepEqual([ran.stdout, ran.stderr, ran.result.outcome], ['out\n', 'err', 'ok']);
});

test('attack: the compiler is asked to print the driver with the mark in it', async () => {
  for (const pid of ['1', '2', 'self', 'thread-self']) {
    const ran = await run('c', `#include "/proc/${pid}/cmdline"\n#error stop\nint main(void) { return 0; }`);
    assert.deepEqual([ran.stage, ran.stdout, ran.stderr], ['compile', '', ''], said(ran));
  }
});

test('attack: a program looks for the mark in all processes that it sees, and prints what marks look like', async () => {
  const code = `#include <stdio.h>
#include <string.h>
int main(void) {
  static char text[1 << 20]; char path[64];
  for (int pid = 1; pid < 50; pid++) for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "/proc/%d/%s", pid, i ? "environ" : "cmdline");
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    for (size_t k = 0; k + 40 < n; k++)
      if (strspn(text + k, "0123456789abcdef") >= 32) { puts("found"); break; }
    if (f) fclose(f);
  }
  fwrite("\\0000123456789abcdef0123456789abcdef\\0", 1, 34, stdout);
}`;
  const ran = await run('c', code);
  assert.deepEqual([ran.stage, ran.stdout], ['run', FORGED], said(ran));
});

test('a program that a signal ends', async () => {
  const ran = await run('c', '#include <stdlib.h>\nint main(void) { abort(); }');
  assert.deepEqual([ran.stage, ran.result.outcome, ran.result.signal], ['run', 'signaled', 6], said(ran));
});

test('attack: a compiler that never comes to its end: it has not begun to run when its time is over', async () => {
  execFileSync('mkfifo', [join(workspace, 'fifo')]);
  const ran = await run('c', `#include "${join(workspace, 'fifo')}"\nint main(void) { return 0; }`, {
    limits: { wallSeconds: 1 },
  });
  assert.deepEqual([ran.stage, ran.result.outcome, ran.stdout], ['compile', 'timeout', ''], said(ran));
});

test('attack: the compiler is asked to take the input of the program', async () => {
  const ran = await run('c', '#include "/dev/stdin"', { stdin: 'int main(void) { return 0; }' });
  assert.deepEqual([ran.stage, ran.result.outcome], ['compile', 'failed'], said(ran));
});

test('Node: the file is Nox’s own, read-only, alone in its place; JIT and child processes work', async () => {
  const code = `const fs = require('fs'), {execFileSync} = require('child_process');
const write = () => { try { fs.writeFileSync(process.execPath, ''); return 'written'; } catch (e) { return e.code; } };
let sum = 0; for (let i = 0; i < 1e6; i++) sum += i % 7;
console.log(JSON.stringify([process.version, process.execPath, fs.readdirSync('/run'), fs.readdirSync('/run/nox'),
  write(), sum, execFileSync(process.execPath, ['-p', '6*7']).toString(), typeof WebAssembly]));`;
  const ran = await run('javascript', code);
  assert.deepEqual(JSON.parse(ran.stdout || said(ran)), [
    process.version,
    '/run/nox/node',
    ['nox'],
    ['node'],
    'EROFS',
    2999997,
    '42\n',
    'object',
  ]);
});

test('attack: a command touches the address space that it has beyond its memory', async () => {
  const code = `#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void) { for (int i = 0; i < 7; i++) { char *p = malloc(100 << 20); if (p) memset(p, 1, 100 << 20); }
  write(1, "touched", 7); sleep(30); }`;
  const ran = await run('c', code);
  assert.deepEqual([ran.stage, ran.result.outcome], ['run', 'memory_limit'], said(ran));
});

test('a program that outgrows its heap is told by its own runtime', async () => {
  const ran = await run('javascript', 'const a = []; for (;;) a.push(new Array(1e4).fill(a.length + 0.5));');
  assert.match(`${ran.stderr}${ran.result.outcome}`, /heap out of memory|memory_limit/, said(ran));
});

test('all that works does so with 16 processes and threads as well', async () => {
  const small = await startRunner(parseConfig('runner', { ...settings, NOX_MAX_PROCESSES: '16' }), log);
  try {
    const want = infos.map(({ name, available }) => [name, available]);
    const got = (await small.runtimes.list()).map(({ name, available }) => [name, available]);
    assert.deepEqual(got, want);
  } finally {
    await small.executor.close();
  }
});

describe('an administrator’s runtime', () => {
  const own = join(dir, 'runtimes');
  const define = (name: string, value: object) => {
    writeFileSync(join(own, `${name}.json`), JSON.stringify({ name, title: name, ...value }));
  };
  const BASE = { extension: 'x', file: 'main.x', version: { argv: ['bash', '--version'], pattern: '\\S+$' } };
  const start = () => startRunner(parseConfig('runner', { ...settings, NOX_RUNTIMES: own }), log);
  before(() => {
    mkdirSync(own);
    chmodSync(own, 0o755);
  });

  test('is tried as any other, and says why it does not work', async () => {
    define('works', { ...BASE, detect: ['bash'], run: ['bash', '{file}'], hello: 'echo Hello from works' });
    define('outside', {
      ...BASE,
      detect: [join(own, 'outside.json')],
      run: [join(own, 'x')],
      hello: 'x',
    });
    const started = await start();
    try {
      const found = await started.runtimes.list();
      assert.equal(found.find(({ name }) => name === 'works')?.available, true);
      const outside = found.find(({ name }) => name === 'outside');
      assert.equal(outside?.available, false);
      assert.match(outside.reason ?? '', /its hello world failed \(exit code 127\).*command not found/);
    } finally {
      await started.executor.close();
    }
  });

  test('that is not right stops the start: file, member, remedy', async () => {
    define('bad', { ...BASE, detect: ['bash'], run: 'bash {file}', hello: 'x' });
    await assert.rejects(start(), (error: unknown) => {
      const text = explainFailure(error);
      assert.match(
        text,
        /runtimes: .*\/runtimes\/bad\.json: run: "bash \{file\}" must be array\n {2}remedy: /,
      );
      return true;
    });
  });
});
