#!/usr/bin/env python3
"""Runs CPython's own test suite in a sandbox without and with the seccomp filter, and compares every single test.

  apt-get install libpython3.11-testsuite bubblewrap
  scripts/cpython-suite.py                          # everything, the filter as python3 runs get it
  scripts/cpython-suite.py --no-wxe test_socket test_os
  scripts/cpython-suite.py --baseline OUT/without.xml   # reuse an earlier run without the filter

A test that passes without the filter and does not pass (fails, errs, is skipped, is gone) with it is a
difference. Modules that differ are run again on both sides, alone, so that only what repeats is reported. Exit
code 0: every difference is named in EXPECTED. --sandbox replaces the command line that makes the sandbox: {out}
stands for the directory of results, {filter} for what switches the filter on (--filter-arguments). Some tests write
beside the library and fail on both sides where it is read-only: bind a writable copy over /usr/lib/python3.11.
"""
import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

SANDBOX = """bwrap --unshare-all --die-with-parent --new-session --uid 1000 --gid 1000 --clearenv
 --setenv PATH /usr/bin:/bin --setenv HOME /tmp --setenv LANG C.UTF-8
 --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64
 --symlink usr/sbin /sbin --ro-bind /etc /etc --proc /proc --dev /dev --tmpfs /tmp --bind {out} /out --chdir /tmp
 {filter}"""

# Graphical, or needing files that Debian does not package, or testing none of the kernel and slow.
EXCLUDED = """test_idle test_tk test_ttk_guionly test_ttk_textonly test_tcl test_tix test_tools test_peg_generator
 test_lib2to3 test_codecmaps_cn test_codecmaps_hk test_codecmaps_jp test_codecmaps_kr test_codecmaps_tw
 test_regrtest test_gdb test_ensurepip test_venv test_smtpnet test_nntplib test_robotparser test_urllib2net
 test_urllibnet test_xmlrpc_net test_timeout test_zipfile64 test_turtle test_curses test_devpoll test_kqueue
 test_msilib test_winreg test_winsound test_wmi test_ossaudiodev test_startfile test_winconsoleio test_largefile
 """.split()

# Left out on both sides: refused by the filter, and their failure ends the whole module.
IGNORED = {
    '*UDPLITE*': 'the filter lets sockets be TCP and UDP only',
}

# Pattern of a test's full name → why the filter is right and the test has to fail.
EXPECTED: dict[str, str] = {
    r'MemfdCreateTests': 'with --unaccounted-memory deny there is no memfd_create',
}


def filter_file(directory: str, wxe: bool, memory: str) -> str:
    path = os.path.join(directory, 'filter.bpf')
    node = os.path.join(ROOT, 'node_modules/.bin/node')
    module = os.path.join(ROOT, 'src/runner/seccomp/compile.ts')
    options = f"{{ writeXorExecute: {str(wxe).lower()}, unaccountedMemory: '{memory}' }}"
    script = f"""import {{ compileSeccomp, currentArch, loadProfile }} from {module!r}; import {{ writeFileSync }} from 'node:fs';
                 writeFileSync({path!r}, compileSeccomp(loadProfile(), currentArch(), {options}));"""
    subprocess.run([node, '--input-type=module', '-e', script], check=True)
    return path


def run(args, name: str, bpf: str | None, modules: list[str], jobs: int) -> str:
    """Runs the modules and returns the path of the results."""
    xml = f'{name}.xml'
    arguments = args.filter_arguments if bpf else ''
    command = shlex.split(args.sandbox.format(out=args.out, filter=arguments))
    command += [args.python, '-m', 'test', f'-j{jobs}', '--timeout', '600', '--junit-xml', f'/out/{xml}']
    command += [word for pattern in IGNORED for word in ('-i', pattern)]
    if args.use:
        command += ['-u', args.use]
    command += modules if modules else ['-x', *EXCLUDED]
    if os.geteuid() == 0:
        # As root, bubblewrap would leave the sandbox with powers that no run has.
        command = ['setpriv', f'--reuid={args.uid}', f'--regid={args.uid}', '--clear-groups', *command]
    descriptor = os.open(bpf, os.O_RDONLY) if bpf else -1
    with open(os.path.join(args.out, f'{name}.log'), 'wb') as log:
        keep = ()
        if bpf:
            os.dup2(descriptor, 9)
            keep = (9,)
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, pass_fds=keep)
    print(f'{name}: exit code {done.returncode}, see {log.name}', flush=True)
    return os.path.join(args.out, xml)


def read(path: str) -> dict[str, str]:
    """Test name → passed, skipped, failed."""
    results = {}
    for case in ElementTree.parse(path).getroot().iter('testcase'):
        kinds = {child.tag for child in case}
        name = f"{case.get('classname', '')}.{case.get('name', '')}".lstrip('.')
        bad = kinds & {'failure', 'error'} or case.get('result') not in (None, 'completed')
        results[name] = 'failed' if bad else 'skipped' if 'skipped' in kinds else 'passed'
    return results


def differences(without: dict[str, str], within: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {
        name: (before, within.get(name, 'gone'))
        for name, before in without.items()
        if within.get(name, 'gone') != before and (before == 'passed' or within.get(name) == 'failed')
    }


def module_of(name: str) -> str | None:
    found = re.search(r'\btest\.(test_\w+)', name) or re.search(r'\b(test_\w+)', name)
    return found.group(1) if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('modules', nargs='*', help='modules of the suite; default: all but the excluded')
    parser.add_argument('--python', default='/usr/bin/python3')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1)
    parser.add_argument('--uid', type=int, default=60600, help='host uid of the sandbox when started as root')
    parser.add_argument('--no-wxe', dest='wxe', action='store_false')
    parser.add_argument('--unaccounted-memory', choices=['allow', 'deny'], default='allow')
    parser.add_argument('--baseline', help='results of an earlier run without the filter')
    parser.add_argument('--only-baseline', action='store_true')
    parser.add_argument('--use', help='resources for the suite (python3 -m test -u), such as network,subprocess')
    parser.add_argument('--sandbox', default=SANDBOX)
    parser.add_argument('--filter-arguments', default='--seccomp 9', help='the filter is on descriptor 9')
    parser.add_argument('--out', help='directory for results')
    args = parser.parse_args()
    args.out = os.path.abspath(args.out) if args.out else tempfile.mkdtemp(prefix='cpython-suite-')
    # A shell's background job ignores it, and tests of it would fail on both sides.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.makedirs(args.out, exist_ok=True)
    os.chmod(args.out, 0o777)

    without = read(args.baseline or run(args, 'without', None, args.modules, args.jobs))
    if args.only_baseline:
        return 0
    bpf = filter_file(args.out, args.wxe, args.unaccounted_memory)
    within = read(run(args, 'with', bpf, args.modules, args.jobs))
    found = differences(without, within)
    print(f'{len(without)} tests without, {len(within)} with the filter, {len(found)} differences at first')

    again = sorted({module for module in map(module_of, found) if module})
    if again:
        before = read(run(args, 'without-again', None, again, 1))
        after = read(run(args, 'with-again', bpf, again, 1))
        repeated = differences(before, after)
        found = {name: found[name] for name in found if name in repeated or module_of(name) is None}

    unexpected = 0
    for name, (before, after) in sorted(found.items()):
        reason = next((why for pattern, why in EXPECTED.items() if re.search(pattern, name)), None)
        unexpected += reason is None
        print(f'{"expected" if reason else "UNEXPECTED"}: {name}: {before} → {after}' + (f': {reason}' if reason else ''))
    counts = {kind: list(within.values()).count(kind) for kind in ('passed', 'skipped', 'failed')}
    print(f'with the filter: {counts}; {len(found)} differences that repeat, {unexpected} unexpected')
    return 1 if unexpected else 0


if __name__ == '__main__':
    sys.exit(main())
