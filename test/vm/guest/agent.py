"""Runs commands for the test on the host: one JSON object a line over a virtio port, answers in any order.

    host → guest   {"id", "command", "stdin", "seconds"}
    guest → host   {"hello": <boot id>} once, then for each command {"id", "code", "stdout", "stderr", "timedOut"}
"""

import json
import os
import signal
import subprocess
import tempfile
import threading

PORT = "/dev/virtio-ports/nox.vm"
OUTPUT_MAX = 32 * 1024 * 1024
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}

port = os.open(PORT, os.O_RDWR | os.O_CLOEXEC)
write_lock = threading.Lock()


def send(message):
    data = memoryview(json.dumps(message).encode() + b"\n")
    with write_lock:
        while data:
            data = data[os.write(port, data[:32768]) :]


def be_ordinary():
    with open("/proc/self/oom_score_adj", "w") as f:
        f.write("0")


def run(request):
    # Files, not pipes: the answer must not wait for a daemon that the command left behind. In /run, because a
    # test may fill the disk.
    with tempfile.TemporaryFile(dir="/run") as out, tempfile.TemporaryFile(dir="/run") as err, tempfile.TemporaryFile(
        dir="/run"
    ) as stdin:
        stdin.write(request.get("stdin", "").encode())
        stdin.seek(0)
        process = subprocess.Popen(
            ["/bin/bash", "-eo", "pipefail", "-c", request["command"]],
            stdin=stdin,
            stdout=out,
            stderr=err,
            cwd="/root",
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=be_ordinary,
        )
        timed_out = False
        try:
            process.wait(request["seconds"])
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        answer = {"id": request["id"], "code": process.returncode, "timedOut": timed_out}
        for name, file in (("stdout", out), ("stderr", err)):
            file.seek(0)
            answer[name] = file.read(OUTPUT_MAX).decode(errors="replace")
        send(answer)


def run_or_say_why(request):
    try:
        run(request)
    except Exception as e:
        send({"id": request["id"], "code": -1, "timedOut": False, "stdout": "", "stderr": f"agent: {e!r}"})


with open("/proc/sys/kernel/random/boot_id") as f:
    send({"hello": f.read().strip()})

pending = b""
while True:
    data = os.read(port, 65536)
    if not data:
        break
    *lines, pending = (pending + data).split(b"\n")
    for line in lines:
        threading.Thread(target=run_or_say_why, args=(json.loads(line),), daemon=True).start()
