"""Starts programs and measures them; runs as a small process of its own, see ``runner.py``.

The kernel counts into a program's peak memory what the process that started it held at that
moment (``exec_mmap`` in fs/exec.c keeps the high-water mark). So programs are started by this
process, which imports next to nothing, and never by the bench itself.

Reads one JSON job per line: ``{"argv": [...], "stdin": PATH, "stdout": PATH, "env": {...}}``, and
answers each with ``{"seconds", "cpu_seconds", "peak_kib", "status", "stderr"}``. ``status`` is as
``os.waitstatus_to_exitcode`` has it, ``stderr`` its end. ``peak_kib`` and ``cpu_seconds`` cover
the program and the children it waited for.
"""

import json
import os
import signal
import sys
import tempfile
import time


def _run(job):
    with tempfile.TemporaryFile() as errors:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, job["stdin"], os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, job["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
        ]
        begin = time.perf_counter()
        pid = os.posix_spawnp(
            job["argv"][0],
            job["argv"],
            job["env"],
            file_actions=actions,
            setsigdef=[signal.SIGINT],
        )
        try:
            _, status, usage = os.wait4(pid, 0)
        except SystemExit:
            os.kill(pid, signal.SIGKILL)
            raise
        seconds = time.perf_counter() - begin
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 600))
        stderr = errors.read().decode(errors="replace")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_kib": usage.ru_maxrss,
        "status": os.waitstatus_to_exitcode(status),
        "stderr": stderr,
    }


# Ctrl-C ends the program that is measured and the bench, which then ends this process.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
for line in sys.stdin:
    print(json.dumps(_run(json.loads(line))), flush=True)
