"""A server's log can fail without the server, and its memory never becomes a core dump."""

from __future__ import annotations

import signal
import subprocess
import sys

LOG = """
import os, resource, sys
from mitai.process import log_to_stderr
import structlog
log_to_stderr()
log = structlog.get_logger()
log.info("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (os.fstat(2).st_size, resource.RLIM_INFINITY))  # the disk is full now
log.error("lost", size=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.info("after")
print("went on")
"""
DUMP = """
import ctypes, resource
from mitai.process import forbid_core_dumps
forbid_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
import os; os.abort()
"""


def run(code, **options):
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, **options)


def test_a_line_that_can_not_be_written_is_lost_alone(tmp_path):
    with (tmp_path / "log").open("w") as log:
        done = run(LOG, stderr=log)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    lines = (tmp_path / "log").read_text()
    assert '"event": "before"' in lines
    assert '"event": "after"' in lines
    assert "lost" not in lines


def test_a_crash_leaves_no_core(tmp_path):
    assert run("import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))").stdout == "1\n"  # one without it would
    done = run(DUMP, cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGABRT
    assert done.stdout == "(0, 0) 0\n"
    assert list(tmp_path.iterdir()) == []
