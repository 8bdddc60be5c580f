/** Every shell command of docs/operations.md, as it is written and in its order; other pages have no others. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeOriginal, start, TREE } from './nox.ts';

const HOURS = 3_600_000;
const PROGRAMS = /^(make|noxctl|apt-get|journalctl|systemctl|logrotate|ls|tail|echo) [^…]*$/;
/** What this machine is not made for, and who executes it. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  'make run': 'the whole of test/e2e starts it',
  'make test': 'is what runs the tests',
  'make test-vm': 'is what runs this test',
  'make bench': 'is measured on a whole machine',
  'make check': '.ci/run',
  'make help': 'test/unit/docs.test.ts',
  'make repair': 'is noxctl repair, which this test executes',
  'make repair-v2': 'is noxctl repair-v2, which this test executes',
  'make deb': 'needs git and the tools of a build machine: test/vm/deb.test.ts',
  'apt-get install ./dist-deb/nox_*.deb': 'test/vm/deb.test.ts',
  'noxctl validate': 'test/vm/deb.test.ts',
  'noxctl install':
    'after the package, on a machine that has one: test/vm/packages.test.ts, by its whole path',
  'apt-get purge -y nox': 'test/vm/deb.test.ts',
};
/** What a reader puts in the place of a name. */
const INSTEAD: readonly (readonly [string, string])[] = [
  ['/opt/nox/releases/ID', '$(readlink -f /opt/nox/current)'],
  // Debian's own packages come from the network, which this machine does not have: none but what is there.
  ['NOX_PYTHON_PACKAGES="numpy pandas"', 'NOX_PYTHON_PACKAGES="python3-venv"'],
];

/** Commands of a page: lines of its `sh` blocks, and what stands between backquotes and begins with a program. */
function commands(page: string): string[] {
  const text = readFileSync(join(import.meta.dirname, '../..', page), 'utf8');
  const found: string[] = [];
  let block: string | undefined;
  for (const line of text.split('\n')) {
    if (line.startsWith('```')) block = block === undefined ? line.slice(3) : undefined;
    else if (
      block === 'sh' ||
      (block === '' && line.startsWith('$ ')) ||
      (block === '' && PROGRAMS.test(line))
    )
      found.push(line);
    else if (block === undefined)
      for (const [, code = ''] of line.matchAll(/`([^`]+)`/g)) if (PROGRAMS.test(code)) found.push(code);
  }
  return found.map((line) => line.replace(/\s+#.*$/, '').replace(/^(\$ )?(sudo )?/, '')).filter(Boolean);
}

test('every command of docs/operations.md does what it should', { timeout: 4 * HOURS }, async (t) => {
  const here = commands('docs/operations.md');
  assert(here.length > 25, here.join('\n'));
  // The blocks of docs/api.md are a client's: test/e2e/docs.test.ts executes them.
  for (const page of ['LISEZMOI.md', 'SECURITY.md', 'docs/configuration.md'])
    for (const command of commands(page))
      assert(here.includes(command) || command in ELSEWHERE, `${page}: ${command}: is executed nowhere`);

  const m = await start();
  t.after(() => m.stop());
  await makeOriginal(m);
  for (const written of here.filter((command) => !(command in ELSEWHERE)))
    await t.test(written, async () => {
      const command = INSTEAD.reduce((text, [from, to]) => text.replaceAll(from, to), written);
      const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
      // Whoever has installed it may have just taken it away.
      await m.succeed(`cd ${TREE}; export ${path}; ${command}`, { seconds: 1800 });
    });
});
