"""What every server process does before anything else: logs that never fail, and no core dumps.

Invariants:

- A log line that can't be written (a full disk, a closed pipe) is lost, and nothing else with it: what was decided is
  still answered.
- After `forbid_core_dumps` the kernel writes no image of this process anywhere, and no other user may trace it.

Example:
    >>> log_to_stderr()
    >>> forbid_core_dumps()
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import resource
import sys
from typing import TextIO, cast

import structlog

_PR_SET_DUMPABLE = 4  # linux/prctl.h


class _Stderr(io.TextIOBase):
    """Standard error, as it is at each moment."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def log_to_stderr() -> None:
    """Write this process's log as one JSON object a line to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
    )


def forbid_core_dumps() -> None:
    """Keep prompts, weights and keys in this process's memory out of core dumps, piped ones too."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(AttributeError, OSError):  # elsewhere than on Linux the limit has to do
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
