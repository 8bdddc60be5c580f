/**
 * The programs of the differential tests: one for each file of programs/, and those whose bytes matter (line
 * ends, NUL, byte order mark), which an editor or formatter would change.
 *
 * The first part of a name is its topic.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { ENDINGS } from './endings.ts';

export interface Case {
  readonly name: string;
  readonly kind: 'python' | 'shell';
  readonly code: string;
  /** Where the code runs and stays in the workspace; `run.py`, which does not stay, when left out. */
  readonly filename?: string;
  readonly args?: readonly string[];
  readonly stdin?: string;
  /** Files to put first. All cases share one workspace, so no two may name the same path. */
  readonly files?: Readonly<Record<string, string>>;
}

type Options = Pick<Case, 'args' | 'stdin' | 'files'>;

const LINES = 'first line\nzweite größe 漢字 😀\n\n  indented\nlast without newline';

/** What the programs of programs/ need besides their own text. */
export const OPTIONS: Readonly<Record<string, Options>> = {
  'import-package.py': {
    files: {
      'differential_package/__init__.py':
        "from pathlib import Path\n\nfrom .sub import answer\n\nDATA = (Path(__file__).parent / 'data.txt').read_text()\n",
      'differential_package/data.txt': 'größe of the data\n',
      'differential_package/sub/__init__.py':
        'from ..sibling import answer\n\n\ndef relative():\n    return __name__, __package__\n',
      'differential_package/sibling.py': 'answer = 42\n',
    },
  },
  'import-error.py': {
    files: {
      'differential_broken.py':
        'def load():\n    raise RuntimeError("while importing")\n\n\nprint("loading")\nload()\n',
    },
  },
  'import-syntax-error.py': { files: { 'differential_syntax.py': 'x = 1\ndef (:\n    pass\n' } },
  'import-warning.py': {
    files: {
      'differential_warns.py':
        'import warnings\n\n\ndef old():\n    warnings.warn("shown", UserWarning)\n    warnings.warn("hidden", DeprecationWarning)\n    warnings.warn("in main", DeprecationWarning, stacklevel=2)\n',
    },
  },
  'import-data-file.py': {
    files: {
      'differential_data/values.json': '{"größe": [1, 2.5, null]}\n',
      'differential_data/table.csv': 'name,note\r\nbob,"two\r\nlines"\r\nann,ü\r\n',
    },
  },
  'import-namespace.py': { files: { 'differential_namespace/part.py': 'NAME = __name__\n' } },
  'import-circular.py': {
    files: {
      'differential_circular_a.py': 'from differential_circular_b import b\n\na = 1\n',
      'differential_circular_b.py': 'from differential_circular_a import a\n\nb = 2\n',
    },
  },
  'import-main.py': {
    files: {
      'differential_looks_at_main.py':
        'import sys\n\n\ndef seen():\n    import __main__\n\n    return __main__.f(), sys.modules["__main__"].__name__, __name__\n',
    },
  },
  'import-runpy.py': {
    files: {
      'differential_runpy/script.py':
        'import os\n\nvalue = globals().get("given", 1) * 2\nname = os.path.basename(__file__)\n',
    },
  },
  'import-python-m.py': {
    files: {
      'differential_module/__init__.py': 'print("package", __name__)\n',
      'differential_module/__main__.py': 'import sys\n\nprint(__name__, sys.argv[1:])\nraise SystemExit(4)\n',
    },
  },
  'import-shadows-stdlib.py': { files: { 'colorsys.py': 'WHO = "the workspace comes first"\n' } },
  'main-arguments.py': {
    args: [
      '',
      ' ',
      '-x',
      '--',
      '--help',
      'two words',
      'größe',
      '漢字😀',
      '*',
      '$HOME',
      "it's",
      '"',
      '\\',
      'a\nb',
      '\t',
    ],
  },
  'main-argparse.py': { args: ['-n', '5', '--flag', 'ünï'] },
  'stdin-text.py': { stdin: LINES, args: ['with', 'arguments'] },
  'stdin-big.py': { stdin: 'größe 0123456789\n'.repeat(120_000) },
  'stdin-unread.py': { stdin: 'x'.repeat(400_000) },
  'stdin-closed-early.py': { stdin: 'x'.repeat(400_000) },
  'stdin-partly-read.py': { stdin: '123456rest\nmore\n' },
  'stdin-binary.py': {
    stdin: '\0\x01\x02\x7f\x80\x85ÿ\ufeff\uffff\u{10ffff}\r\n\r\x1a\x04\x0b\x0c\x1c\u2028end',
  },
  'stdin-universal-newlines.py': { stdin: 'unix\ndos\r\nmac\rend' },
  'stdin-child.py': { stdin: '10\n9\n-1\n' },
  'stdin-select.py': { stdin: 'é'.repeat(100_000) },
  'stdin-dev-stdin.py': { stdin: LINES },
  'stdin-is-program.py': { stdin: 'x + 1\nfor n in range(2):\n  print(n)\n\n1/0\ny = (\n1)\ny\n' },
  'stdin-asyncio.py': { stdin: LINES },
  'shell-stdin.sh': { stdin: LINES },
  'shell-stdin-cat.sh': { stdin: '\0\x01 ü\r\n\ttab\x7f' },
  'shell-case-and-select.sh': { stdin: 'x\n2\n' },
  'interpreter-arguments.py': { args: ['-c', '', 'größe 漢字', '--', '-W', 'error'] },
  'interpreter-streams-stdin.py': { stdin: LINES },
  'interpreter-descriptors-stdin.py': { stdin: LINES },
  'main-pdb.py': { stdin: 'p x, y\nwhere\nn\nq\n' },
};

const python = (name: string, code: string, options: Omit<Case, 'name' | 'kind' | 'code'> = {}): Case => ({
  name,
  kind: 'python',
  code,
  ...options,
});
const shell = (name: string, code: string, options: Omit<Case, 'name' | 'kind' | 'code'> = {}): Case => ({
  name,
  kind: 'shell',
  code,
  ...options,
});

const EXITS: readonly (readonly [string, string])[] = [
  ['0', '0'],
  ['1', '1'],
  ['2', '2'],
  ['127', '127'],
  ['137', '137'],
  ['139', '139'],
  ['255', '255'],
  ['256', '256'],
  ['300', '300'],
  ['minus-1', '-1'],
  ['minus-9', '-9'],
  ['huge', '1 << 70'],
  ['none', 'None'],
  ['nothing', ''],
  ['true', 'True'],
  ['float', '2.5'],
  ['empty-string', "''"],
];

const SIGNALS = ['HUP', 'QUIT', 'ILL', 'TRAP', 'ABRT', 'BUS', 'FPE', 'KILL', 'SEGV', 'TERM', 'USR1', 'SYS'];
const IGNORED_SIGNALS = ['PIPE', 'CHLD', 'WINCH', 'URG', 'CONT', 'XFSZ'];

const dies = (signal: string) =>
  `import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIG${signal})\nprint('after')\n`;

const NESTED = 400;

/** Modules that an interpreter has loaded for itself or for us, or that many programs load. */
const SHADOWED = [
  'ctypes',
  'select',
  'socket',
  'random',
  'threading',
  'sitecustomize',
  'struct',
  'numpy',
  'string',
];

const EXACT: readonly Case[] = [
  ...EXITS.map(([name, value]) =>
    python(`exit-sys-${name}`, `import sys\nprint('buffered')\nsys.exit(${value})\n`),
  ),
  ...[0, 1, 139, 255, 256, -1].map((code) => python(`exit-os-${code}`, `import os\nos._exit(${code})\n`)),
  ...SIGNALS.map((signal) => python(`death-${signal}`, dies(signal))),
  ...IGNORED_SIGNALS.map((signal) => python(`death-not-by-${signal}`, dies(signal))),
  ...['0', '1', '126', '127', '128', '255', '256', '300', '-1', 'word'].map((code) =>
    shell(`shell-exit-${code}`, `echo before; exit ${code}`),
  ),
  ...['HUP', 'INT', 'QUIT', 'ABRT', 'FPE', 'PIPE', 'USR2', 'ALRM', 'XCPU'].map((signal) =>
    shell(`shell-death-${signal}`, `echo before; kill -${signal} $$; echo after`),
  ),

  python('bytes-empty', ''),
  python('bytes-only-newlines', '\n\n\n'),
  python('bytes-only-spaces', '   '),
  python('bytes-only-comment', '# nothing but this'),
  python('bytes-no-newline-at-end', "print('a')\nprint('b')"),
  python('bytes-no-newline-after-block', "if True:\n    print('in the block')"),
  python('bytes-no-newline-traceback', "x = 'last line'\nraise ValueError(x)"),
  python(
    'bytes-crlf',
    "def f():\r\n    print('crlf')\r\n    return '''a\r\nb'''\r\n\r\nprint(repr(f()))\r\n1/0\r\n",
  ),
  python('bytes-cr-only', "print('old mac')\rprint('second')\r1/0\r"),
  python('bytes-mixed-newlines', 'print(1)\r\nprint(2)\nprint(3)\r1/0\n'),
  python('bytes-bom', "\ufeffprint('byte order mark')\nprint(__file__ == __import__('sys').argv[0])\n1/0\n"),
  python('bytes-bom-twice', '\ufeff\ufeffprint(1)\n'),
  python('bytes-bom-and-cookie', "\ufeff# coding: utf-8\nprint('ü')\n"),
  python('bytes-bom-against-cookie', "\ufeff# coding: latin-1\nprint('ü')\n"),
  python(
    'bytes-cookie-latin-1',
    "# -*- coding: latin-1 -*-\nprint('größe', len('ü'))\nraise ValueError('größe')  # ü\n",
  ),
  python(
    'bytes-cookie-cp1252',
    "#!/usr/bin/env python3\n# vim: set fileencoding=cp1252 :\nprint(ascii('€'))\n",
  ),
  python('bytes-cookie-ascii', "# coding: ascii\nprint('ü')\n"),
  python('bytes-cookie-unknown', "# coding: no-such-encoding\nprint('x')\n"),
  python('bytes-cookie-third-line', "#\n#\n# coding: latin-1\nprint('größe')\n"),
  python('bytes-cookie-utf-16', "# coding: utf-16\nprint('x')\n"),
  python('bytes-nul', "print('before')\nx = 'a\0b'\n"),
  python('bytes-nul-in-comment', "print('before')\n# a\0b\nprint('after')\n"),
  python('bytes-nul-at-end', "print('before')\n\0"),
  python(
    'bytes-form-feed',
    "print('one')\n\x0cprint('two')\n\x0c\ndef f():\n\x0c    return 3\nprint(f())\n1/0\n",
  ),
  python('bytes-vertical-tab', "print('one')\n\x0bprint('two')\n"),
  python('bytes-control-z', "print('one')\n\x1aprint('two')\n"),
  python('bytes-escape-in-string', "print('\x1b[1mbold\x07 \x7f \x80')\nraise ValueError('\x1b[31mred')\n"),
  python(
    'bytes-line-separator',
    "x = 'a\u2028b\u2029c\x85d'\nprint(ascii(x))\nraise ValueError('line\u2028separator')\n",
  ),
  python('bytes-zero-width', 'a\u200bb = 1\n'),
  python('bytes-no-break-space', 'print(\u00a01)\n'),
  python('bytes-right-to-left', "x = 'שלום'  # مرحبا\nprint(x)\nx.missing\n"),
  python('bytes-curly-quotes', 'print(“hello”)\n'),
  python('bytes-long-line', `x = [${'1, '.repeat(80_000)}]\nprint(len(x))\nx[${'0 + '.repeat(500)}'end']\n`),
  python('bytes-long-program', `${"x = 'größe'\n".repeat(40_000)}print(x)\nraise ValueError(x)\n`),
  python('bytes-long-string', `print(len('${'ü'.repeat(300_000)}'))\n`),
  python('bytes-nested-parentheses', `print(1)\nx = ${'('.repeat(NESTED)}1${')'.repeat(NESTED)}\n`),
  python(
    'bytes-nested-blocks',
    Array.from({ length: 30 }, (_, depth) => `${' '.repeat(depth)}for i in '1':\n`).join('') +
      `${' '.repeat(30)}pass\n`,
  ),
  python(
    'bytes-nested-indents',
    Array.from({ length: 120 }, (_, depth) => `${' '.repeat(depth)}if 1:\n`).join('') +
      `${' '.repeat(120)}pass\n`,
  ),
  python('bytes-backslash-at-end', 'x = 1 + \\'),
  python('bytes-unknown-name-escape', "print('\\N{NO SUCH CHARACTER}')\n"),
  python('bytes-shebang', "#!/usr/bin/env -S python3 -O\nassert False, 'the line is a comment'\n"),
  python('bytes-semicolons', "import sys; x = 1; print(x); raise ValueError(x); print('never')"),
  python('bytes-leading-space', " print('indented')\n"),
  python('bytes-leading-blank-lines', '\n\n\n1/0\n'),
  python('bytes-star-arguments', "print(*'abc', **{'sep': '-'})\nf(**1)\n"),
  python('bytes-future', 'print(1)\nfrom __future__ import annotations\n'),
  python('bytes-return-outside', 'return 5\n'),
  python('bytes-await-outside', 'await x\n'),
  python('bytes-python-2', "print 'hello'\n"),
  python('bytes-shell-by-mistake', '#!/bin/bash\necho "not python"\n'),

  python(
    'filename-nested',
    'import os, sys\nprint(__file__ == sys.argv[0], os.path.relpath(__file__), os.path.relpath(sys.path[0]), sys.argv[1:])\nfrom sibling import name\nprint(name)\nname.missing\n',
    {
      filename: 'differential_filename/nested.py',
      args: ['a', 'b'],
      files: { 'differential_filename/sibling.py': "name = 'beside the program'\n" },
    },
  ),
  python('filename-unicode', "raise ValueError('größe')\n", { filename: 'differential größe 漢字.py' }),
  python('filename-no-suffix', "print(__name__, __file__.rsplit('/')[-1])\n1/0\n", {
    filename: 'differential_program',
  }),
  python('filename-dash', "print('ran')\n1/0\n", { filename: '-differential.py' }),
  python('filename-syntax-error', 'def f(:\n', { filename: 'differential_filename_syntax.py' }),
  python(
    'filename-stays',
    "import os\nprint(os.path.exists('differential_stays.py'), open(__file__).read() == open('differential_stays.py').read())\n",
    {
      filename: 'differential_stays.py',
    },
  ),
  python(
    'filename-spawn',
    "import multiprocessing\n\n\ndef work(n):\n    return n * 2\n\n\nif __name__ == '__main__':\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.map(work, [1, 2]), __file__.rsplit('/')[-1])\n",
    {
      filename: 'differential_spawn.py',
    },
  ),

  python(
    'filename-shadows-what-was-loaded',
    SHADOWED.map(
      (name) => `import ${name}\nprint(${name}.__file__.rsplit('/', 2)[-2:], ${name}.MINE)\n`,
    ).join('') +
      "import os, sys\nprint(os.__name__, hasattr(os, 'MINE'), sys.path[0] == os.path.dirname(__file__))\n",
    {
      filename: 'differential_shadow/main.py',
      files: Object.fromEntries(
        SHADOWED.map((name) => [`differential_shadow/${name}.py`, `MINE = '${name}'\n`]),
      ),
    },
  ),
  python(
    'filename-shadows-by-package',
    'import ctypes, ctypes.util\nprint(ctypes.MINE, ctypes.util.MINE)\nimport multiprocessing\n',
    {
      filename: 'differential_shadow_package/main.py',
      files: {
        'differential_shadow_package/ctypes/__init__.py': "MINE = 'package'\n",
        'differential_shadow_package/ctypes/util.py': "MINE = 'module of the package'\n",
        'differential_shadow_package/multiprocessing.py': "raise ImportError('not today')\n",
      },
    },
  ),
  python('filename-arguments', 'import sys\nprint(sys.orig_argv, sys.argv, sys.path[0])\n', {
    filename: 'differential_arguments/größe.py',
    args: ['a', '', '-b'],
  }),

  shell('bytes-shell-empty', ''),
  shell('bytes-shell-crlf', 'echo one\r\nfalse\r\necho two\r\n'),
  shell('bytes-shell-no-newline', 'echo a; echo b >&2; false'),
  shell('bytes-shell-unicode', "größe=3; echo 'größe: 漢字 😀'; echo $'\\u00fc \\xff'; ünknown-cömmand"),
  shell('bytes-shell-control', "echo 'a\x01b\x1b[0m\x7f'; x='tab\tform\x0cfeed'; echo \"$x\" | cat -A"),
  shell('bytes-shell-long', `${': x; '.repeat(20_000)}echo end`),
  shell('bytes-shell-long-argument', `echo ${'x'.repeat(100_000)} | wc -c`),
];

const PROGRAMS = new URL('programs/', import.meta.url);

export const PROGRAM_FILES: readonly string[] = readdirSync(PROGRAMS).sort();

const FROM_FILES: readonly Case[] = PROGRAM_FILES.map((file) => ({
  name: file,
  kind: file.endsWith('.py') ? 'python' : 'shell',
  code: readFileSync(new URL(file, PROGRAMS), 'utf8'),
  ...OPTIONS[file],
}));

const ENDING: readonly Case[] = Object.entries(ENDINGS).map(([name, code]) =>
  python(`ending-${name}`, `${code}\n`),
);

export const CASES: readonly Case[] = [...FROM_FILES, ...EXACT, ...ENDING];
