/** The loop of machine code that makes lists of system calls (src/runner/inside/nox_calls.py). */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const INSIDE = fileURLToPath(new URL('../../src/runner/inside/', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'nox-calls-'));
after(() => {
  rmSync(dir, { recursive: true });
});

for (const arch of ['x86_64', 'aarch64']) {
  test(`${arch}: the bytes are what an assembler makes of the text beside them`, () => {
    const source = readFileSync(join(INSIDE, 'nox_calls.py'), 'utf8');
    const listing = new RegExp(`'${arch}': """\n(.*?)"""`, 's').exec(source)?.[1] ?? '';
    const lines = listing.split('\n').filter((line) => line.trim() !== '');
    const code = lines.filter((line) => !line.endsWith(':'));
    const bytes = Buffer.from(code.map((line) => line.slice(8, 23).replaceAll(' ', '')).join(''), 'hex');
    const text = lines.map((line) => (line.endsWith(':') ? line : line.slice(23))).join('\n');
    assert.ok(code.length > 20 && bytes.length > 80, 'the listing was found');
    const [object, binary] = [join(dir, `${arch}.o`), join(dir, `${arch}.bin`)];
    execFileSync(`${arch}-linux-gnu-as`, ['-o', object, '-'], { input: `${text}\n` });
    execFileSync(`${arch}-linux-gnu-objcopy`, ['-O', 'binary', '-j', '.text', object, binary]);
    // The assembler fills the section up to its alignment.
    assert.equal(readFileSync(binary).subarray(0, bytes.length).toString('hex'), bytes.toString('hex'));
  });
}

function python(code: string): unknown {
  const prelude = `import json, os, sys
sys.path.insert(0, ${JSON.stringify(INSIDE)})
from nox_calls import *
sys.dont_write_bytecode = True
address, run = load()
`;
  const output = execFileSync('/usr/bin/python3', ['-c', prelude + code], { encoding: 'utf8' });
  return JSON.parse(output);
}

describe('the loop', () => {
  test('makes each call in turn, with up to six arguments, and keeps its result', () => {
    const got = python(`
r, w = os.pipe()
calls = List()
calls.add('write', w, b'one ', 4)
calls.add('write', Hole('where'), b'two', 3)
calls.add('umask', 0o27)
calls.add('umask', 0o22)
copy = Copy(calls, where=w)
failed = run(copy.address)
print(json.dumps([failed, os.read(r, 100).decode(), [copy.memory[at] for at in (7, 15, 31)], copy.failure()]))`);
    assert.deepEqual(got, [null, 'one two', [4, 3, 0o27], null]);
  });

  test('stops at a call that fails, and tells which; goes on where one may', () => {
    const got = python(`
r, w = os.pipe()
calls = List()
calls.add('close', 999, flags=MAY_FAIL)
calls.add('write', w, b'a', 1)
calls.add('chdir', b'/does/not/exist')
calls.add('write', w, b'b', 1)
copy = Copy(calls)
failed = run(copy.address)
print(json.dumps([failed == copy.address + 2 * ENTRY, os.read(r, 100).decode(), copy.failure(), copy.errors()]))`);
    assert.deepEqual(got, [true, 'a', 'chdir: No such file or directory', [9, 0, 2, 0]]);
  });

  test('repeats a call while it finds something, and goes where it is told', () => {
    const got = python(`
for _ in range(3):
    if os.fork() == 0: os._exit(0)
r, w = os.pipe()
calls = List()
calls.mark('start')
calls.add('wait4', -1, 0, WALL, 0, flags=MAY_FAIL | AGAIN)
calls.add('write', w, b'.', 1)
calls.go_to(Hole('next'))
calls.mark('end')
calls.add('write', w, b'!', 1)
copy = Copy(calls)
copy.fill(next=copy.at('end'))
failed = run(copy.address)
try: os.waitpid(-1, os.WNOHANG); left = True
except ChildProcessError: left = False
print(json.dumps([failed, os.read(r, 100).decode(), left]))`);
    assert.deepEqual(got, [null, '.!', false]);
  });

  test('does not repeat a call that finds nothing', () => {
    const got = python(`
import time
pid = os.fork()
if pid == 0: time.sleep(30); os._exit(0)
calls = List()
calls.add('wait4', -1, 0, WALL | WNOHANG, 0, flags=MAY_FAIL | AGAIN)
copy = Copy(calls)
failed = run(copy.address)
os.kill(pid, 9)
print(json.dumps([failed, copy.memory[7]]))`);
    assert.deepEqual(got, [null, 0]);
  });

  test('runs in a process that shares the memory', () => {
    const got = python(`
r, w = os.pipe()
calls = List()
calls.add('write', w, b'from the other', 14)
calls.add('chdir', b'/')
copy = Copy(calls)
stack = ctypes.create_string_buffer(512)
where = os.getcwd()
pid = must(clone(address, ctypes.addressof(stack) + 496 & ~15, CLONE_VM | SIGCHLD, copy.address, None, None, None), 'clone')
_, status = os.waitpid(pid, 0)
print(json.dumps([status, os.read(r, 100).decode(), os.getcwd() == where, copy.memory[7]]))`);
    assert.deepEqual(got, [0, 'from the other', true, 14]);
  });

  test('an argument that nobody has filled in fails closed, not open', () => {
    const got = python(`
calls = List()
calls.add('dup3', Hole('from'), 5, 0)
copy = Copy(calls)
os.close(0)
print(json.dumps([run(copy.address) is not None, copy.failure()]))`);
    assert.deepEqual(got, [true, 'dup3: Bad file descriptor']);
  });
});
