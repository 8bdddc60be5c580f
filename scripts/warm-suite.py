#!/usr/bin/env python3
"""Runs CPython's own test suite in new interpreters and in copies of a warm one, and compares every single test.

  apt-get install libpython3.11-testsuite bubblewrap && npm run build
  scripts/warm-suite.py                             # everything
  scripts/warm-suite.py test_sys test_gc            # these modules
  NOX_PYTHON_JIT=on scripts/warm-suite.py           # settings of the server, as ever

Starts a server of its own with generous limits and sends it each module twice: with `fresh: true` (a new interpreter,
by exec, in the same sandbox) and without (a copy of the warm one). The module runs in the very process that is
compared, not in a worker of the suite. A test that passes fresh and does not pass (fails, errs, is skipped, is gone)
warm is a difference; so is another verdict of the suite on the module, and another exit code. Modules that differ are
run again --repeat times on both sides, alone, and what differs every time is reported. Exit code 0: every difference
is named in EXPECTED. In --out are the output (MODULE.fresh.log, MODULE.warm.log) and the results (fresh.json,
warm.json). Tests that fail on both sides are only counted: most write beside the library, which is read-only.
"""
import argparse
import concurrent.futures
import json
import os
import re
import runpy
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUITE = runpy.run_path(os.path.join(ROOT, 'scripts/cpython-suite.py'))

SETTINGS = {
    'NOX_BIND_ADDR': '127.0.0.1',
    'NOX_PORT': '0',
    'NOX_TIMEOUT': '1200',
    'NOX_MAX_CPU': '7200',
    'NOX_MAX_MEMORY': '8G',
    'NOX_MAX_TMP': '4G',
    'NOX_MAX_PROCESSES': '2048',
    'NOX_MAX_OPEN_FILES': '4096',
    'NOX_MAX_FILE_SIZE': '64G',
    'NOX_MAX_WORKSPACE': '64G',
    'NOX_LOG_LEVEL': 'warn',
}

# Those most likely to tell first, then those that take longest.
FIRST = """test_sys test_site test_cmd_line test_cmd_line_script test_gc test_atexit test_signal test_threading test_io
 test_fileio test_builtin test_import test_importlib test_warnings test_runpy test_traceback test_inspect test_random
 test_hash test_locale test_os test_posix test_subprocess test_concurrent_futures test_asyncio
 test_multiprocessing_fork test_multiprocessing_forkserver test_multiprocessing_spawn test_multiprocessing_main_handling
 test_ssl test_uuid test_tempfile test_ctypes test_faulthandler test_resource test_weakref test_codecs test_zipimport
 """.split()

# Pattern of a test's full name → why it passes in a new interpreter and has to fail in a copy.
EXPECTED: dict[str, str] = {}

# Arguments: the module, a file for the results, options of the suite. A line a result: `OUTCOME NAME`; the first says
# where the C library is.
PROGRAM = r'''
import os
import sys


def main():
    module, path, *options = sys.argv[1:]
    sys.argv[1:] = [*options, module]
    # A test may replace, close or break anything: nothing is kept open, no name is looked up later.
    write, open_, close, getpid, mode = os.write, os.open, os.close, os.getpid, os.O_WRONLY | os.O_CREAT | os.O_APPEND
    process = getpid()

    def record(outcome, name):
        if getpid() == process:
            descriptor = open_(path, mode, 0o644)
            write(descriptor, f'{outcome} {name}\n'.encode('utf-8', 'backslashreplace'))
            close(descriptor)

    names = {}

    def note(outcome, test, err=None):
        test = getattr(test, 'test_case', test)
        # Remembered from its start: some tests have an `id` of their own later.
        name = names.get(id(test))
        if name is None:
            name = test.id() if callable(getattr(test, 'id', None)) else str(test)
            name = name.replace('\n', ' ')
        if outcome == 'started':
            names[id(test)] = name
        record(outcome, name)
        if err is not None:
            record('why', f'{name}: {err[0].__name__}: {err[1]}'.replace('\n', ' ')[:500])

    with open('/proc/self/maps') as maps:
        record('layout', next(line for line in maps if 'libc.so' in line).partition('-')[0])

    import test.libregrtest.main
    from test.support import testresult

    # The package has a function of that name.
    regrtest = sys.modules['test.libregrtest.main']

    class Result(testresult.RegressionTestResult):
        def startTest(self, test):
            note('started', test)
            super().startTest(test)

        def stopTest(self, test):
            super().stopTest(test)
            names.clear()

        def addSuccess(self, test):
            note('passed', test)
            super().addSuccess(test)

        def addExpectedFailure(self, test, err):
            note('passed', test)
            super().addExpectedFailure(test, err)

        def addSkip(self, test, reason):
            note('skipped', test)
            super().addSkip(test, reason)

        def addError(self, test, err):
            note('failed', test, err)
            super().addError(test, err)

        def addFailure(self, test, err):
            note('failed', test, err)
            super().addFailure(test, err)

        def addUnexpectedSuccess(self, test):
            note('failed', test)
            super().addUnexpectedSuccess(test)

        def addSubTest(self, test, subtest, err):
            if err is not None:
                note('failed', test, err)
            super().addSubTest(test, subtest, err)

    runtest = regrtest.runtest

    def judged(ns, name):
        result = runtest(ns, name)
        verdict = {'Passed': 'passed', 'Skipped': 'skipped', 'ResourceDenied': 'skipped'}
        record(verdict.get(type(result).__name__, 'failed'), f'{module}: verdict of the suite')
        return result

    testresult.RegressionTestResult, regrtest.runtest = Result, judged
    try:
        regrtest.main()
    except SystemExit as end:
        # Without an exception is how most programs end.
        if end.code:
            raise


if __name__ == '__main__':
    main()
'''

VERDICT, EXIT = ': verdict of the suite', ': exit code'
SIDES = ('fresh', 'warm')
RANK = ('passed', 'skipped', 'failed')


class Server:
    """A server of our own, stopped at the end of the `with`; its workspace is OUT/workspace."""

    def __init__(self, command: list[str], out: str, jobs: int):
        self.out = out
        self.workspace = os.path.join(out, 'workspace')
        self.token = secrets.token_hex(16)
        own = {
            'NOX_API_TOKEN': self.token,
            'NOX_SANDBOX': self.workspace,
            'NOX_WORKSPACES': os.path.join(out, 'workspaces'),
            'NOX_SLOTS': str(jobs),
        }
        self.env = {**SETTINGS, **os.environ, **own}
        self.command = command
        self.layouts: dict[bool, list[str]] = {True: [], False: []}

    def __enter__(self) -> 'Server':
        self.log = open(os.path.join(self.out, 'server.log'), 'w')
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        for line in self.process.stdout:
            if found := re.search(r'listening on (http://\S+)', line):
                self.url = found.group(1)
                return self
        self.__exit__()
        raise SystemExit(f'the server did not start, see {self.log.name}')

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()

    def run_py(self, code: str, args: list[str], fresh: bool) -> dict:
        body = json.dumps({'code': code, 'args': args, **({'fresh': True} if fresh else {})}).encode()
        request = urllib.request.Request(f'{self.url}/run_py', body, {'Authorization': f'Bearer {self.token}'})
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            answer = json.load(error)
            return {'stdout': '', 'stderr': '', **answer, 'returncode': answer['code']}


def run(server: Server, module: str, fresh: bool, args, tag: str = '') -> dict[str, str]:
    """Runs one module and returns test name → outcome, with the suite's verdict and the exit code among them."""
    name = f'{module}.{SIDES[not fresh]}{tag}'
    path = os.path.join(server.workspace, f'{name}.results')
    options = [word for pattern in SUITE['IGNORED'] for word in ('-i', pattern)]
    if args.use:
        options += ['-u', args.use]
    began = time.monotonic()
    answer = server.run_py(PROGRAM, [module, path, *options], fresh)
    results: dict[str, str] = {}
    reasons = []
    if os.path.exists(path):
        with open(path, encoding='utf-8') as file:
            for line in file:
                outcome, test = line.rstrip('\n').split(' ', 1)
                if outcome == 'layout':
                    server.layouts[fresh].append(test)
                    continue
                if outcome == 'why':
                    reasons.append(test)
                    continue
                test = re.sub(r'0x[0-9a-f]+', '0x…', test)
                before = results.get(test, 'started')
                # Of several with one name (parameters, subtests) the worst counts; what began and never ended is gone.
                results[test] = max(before, outcome, key=('started', *RANK).index)
        os.unlink(path)
    results = {test: 'gone' if outcome == 'started' else outcome for test, outcome in results.items()}
    results[module + EXIT] = 'passed' if answer['returncode'] == 0 else 'failed'
    with open(os.path.join(args.out, f'{name}.log'), 'w', encoding='utf-8', errors='backslashreplace') as log:
        log.write(f'{module} {SIDES[not fresh]}: {answer["returncode"]} in {time.monotonic() - began:.1f} s\n')
        log.writelines(f'{outcome}: {test}\n' for test, outcome in results.items() if outcome in ('failed', 'gone'))
        log.writelines(f'{reason}\n' for reason in reasons)
        log.write(answer['stdout'] + answer['stderr'])
    return results


def differences(fresh: dict[str, str], warm: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {
        test: (before, warm.get(test, 'gone'))
        for test, before in fresh.items()
        if before == 'passed' and warm.get(test, 'gone') != 'passed'
    }


def modules_of_suite(server: Server) -> list[str]:
    """All that the Python of the runs has, but the excluded."""
    code = 'import os, test\nprint(*os.listdir(os.path.dirname(test.__file__)))'
    files = server.run_py(code, [], True)['stdout'].split()
    names = {name.removesuffix('.py') for name in files if re.fullmatch(r'test_\w+(\.py)?', name)}
    names -= set(SUITE['EXCLUDED'])
    return [name for name in FIRST if name in names] + sorted(names - set(FIRST))


def compare(server: Server, modules: list[str], args) -> tuple[dict, dict]:
    """Runs every module on both sides; returns side → module → test → outcome, and module → what differs."""
    results = {side: {} for side in SIDES}
    found = {}
    lock = threading.Lock()

    def both(number: int, module: str) -> None:
        # One after the other, so that both meet the same neighbours; which is first changes.
        for side in SIDES if number % 2 else SIDES[::-1]:
            results[side][module] = run(server, module, side == 'fresh', args)
        with lock:
            found[module] = differences(results['fresh'][module], results['warm'][module])
            if args.verbose or found[module]:
                print(f'{module}: {len(results["fresh"][module])} fresh, {len(results["warm"][module])} warm, '
                      f'{len(found[module])} differ at first', flush=True)

    pool = concurrent.futures.ThreadPoolExecutor(args.jobs)
    try:
        for each in [pool.submit(both, *pair) for pair in enumerate(modules)]:
            each.result()
    finally:
        # At a signal nothing is waited for: the server is stopped, and with it what runs.
        pool.shutdown(wait=False, cancel_futures=True)
    return results, {module: found[module] for module in modules if found[module]}


def repeated(server: Server, module: str, found: dict, args) -> dict[str, tuple[str, str]]:
    """What of it differs every time."""
    for count in range(args.repeat):
        fresh, warm = (run(server, module, side == 'fresh', args, f'.again{count}') for side in SIDES)
        again = differences(fresh, warm)
        found = {test: found[test] for test in found if test in again}
        if not found:
            break
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('modules', nargs='*', help='modules of the suite; default: all but the excluded')
    parser.add_argument('--server', default='node_modules/.bin/node dist/dev.js', help='command that starts the server')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1)
    parser.add_argument('--repeat', type=int, default=3, help='how often a difference has to be seen again')
    parser.add_argument('--use', help='resources for the suite (python3 -m test -u), such as network,subprocess')
    parser.add_argument('--out', help='directory for results')
    parser.add_argument('-v', '--verbose', action='store_true', help='a line for every module')
    args = parser.parse_args()
    # Below /var/tmp, for a run has a /tmp of its own.
    args.out = os.path.abspath(args.out) if args.out else tempfile.mkdtemp(prefix='warm-suite-', dir='/var/tmp')
    os.makedirs(args.out, exist_ok=True)
    os.chmod(args.out, 0o755)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    with Server(shlex.split(args.server), args.out, args.jobs) as server:
        modules = args.modules or modules_of_suite(server)
        results, found = compare(server, modules, args)
        print(f'{sum(map(len, found.values()))} differences at first in {len(found)} modules', flush=True)
        found = {module: repeated(server, module, tests, args) for module, tests in found.items()}
    for side in SIDES:
        with open(os.path.join(args.out, f'{side}.json'), 'w', encoding='utf-8') as file:
            json.dump(results[side], file, indent=1)

    unexpected = 0
    for test, (before, after) in sorted(pair for tests in found.values() for pair in tests.items()):
        reason = next((why for pattern, why in EXPECTED.items() if re.search(pattern, test)), None)
        unexpected += reason is None
        what = f'{test}: {before} → {after}'
        print(f'expected: {what}: {reason}' if reason else f'UNEXPECTED: {what}')
    for side in SIDES:
        outcomes = [
            outcome
            for tests in results[side].values()
            for test, outcome in tests.items()
            if not test.endswith((VERDICT, EXIT))
        ]
        counts = ', '.join(f'{outcomes.count(kind)} {kind}' for kind in (*RANK, 'gone'))
        print(f'{side}: {len(outcomes)} tests, {counts}')
    total = sum(map(len, found.values()))
    print(f'{len(modules)} modules, {total} differences that repeat, {unexpected} unexpected; see {args.out}')
    # The kernel gives every new interpreter another address layout; copies have that of the one they were copied from.
    layouts = [len(server.layouts[fresh]) - len(set(server.layouts[fresh])) for fresh in (True, False)]
    print(f'runs that had the address layout of another: {layouts[0]} fresh, {layouts[1]} warm')
    if len(server.layouts[False]) > 1 and layouts[1] == 0:
        print('the warm runs were not warm: nothing is shown')
        return 1
    return 1 if unexpected else 0


if __name__ == '__main__':
    sys.exit(main())
