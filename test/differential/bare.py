"""Runs one program as a plain child process and prints what it did: the reference side of the differential tests.

Reads one JSON job from standard input:
    directory  made for the program, its working directory, removed afterwards
    files      {relative path: text} to put there first
    argv, env  what to run
    stdin      text, or null for /dev/null
    uid        the user to become first, or null to stay
Prints {"returncode", "stdout", "stderr"}.

Python and not Node, because Node gives its children socket pairs, which cannot be opened again by /dev/stderr.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

TIMEOUT_SECONDS = 30


def become(uid):
    # Before the pipes are made: a pipe can only be opened again (/dev/stdout) by the user who made it.
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def neutral():
    """What a program inherits does not depend on who started the tests."""
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o022)


def write(directory, files):
    for path, text in files.items():
        full = os.path.join(directory, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, 'wb') as file:
            file.write(text.encode())


def run(job):
    given = job['stdin']
    process = subprocess.Popen(
        job['argv'],
        cwd=job['directory'],
        env=job['env'],
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(None if given is None else given.encode(), TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return {
        'returncode': process.returncode,
        'stdout': out.decode(errors='replace'),
        'stderr': err.decode(errors='replace'),
    }


def main():
    job = json.load(sys.stdin)
    if job['uid'] is not None:
        become(job['uid'])
    neutral()
    os.mkdir(job['directory'])
    try:
        write(job['directory'], job['files'])
        print(json.dumps(run(job)))
    finally:
        shutil.rmtree(job['directory'], ignore_errors=True)


main()
