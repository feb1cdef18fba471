"""Start, watch and stop the processes of a platform on one machine.

Each process writes to its own log file and outlives its starter when it is detached. A process counts as up when its
health address answers; one that dies while starting is reported with the end of its log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from mitai.errors import FleetError

_LOG_TAIL_BYTES = 1500


@dataclass
class Process:
    """One running process of the platform."""

    name: str
    module: str
    arguments: Sequence[str]
    health: str  # the address that answers 200 when it is up; empty: it has none
    pid: int
    log: Path
    log_start: int  # where its own words begin, in bytes
    popen: subprocess.Popen[bytes]
    secret: bytes = field(default=b"", repr=False)

    def wait_healthy(self, timeout_s: float = 60.0) -> None:
        """Return when the health address answers; raise `FleetError` when the process dies or stays silent."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            try:
                if httpx2.get(self.health, timeout=2.0).status_code == 200:
                    return
            except httpx2.HTTPError:
                time.sleep(0.05)
        raise FleetError(
            "fleet.process-silent", f"the {self.name} did not come up in {timeout_s:.0f} s", hint=f"see {self.log}"
        )

    def check(self) -> None:
        """Raise `FleetError` when the process has died."""
        if self.popen.poll() is not None:
            raise FleetError(
                "fleet.process-died",
                f"the {self.name} stopped while starting (status {self.popen.returncode}): {self.last_words()}",
                hint=f"its whole log is {self.log}",
            )

    def last_words(self) -> str:
        """Return the end of what this process has logged."""
        return self.log.read_bytes()[self.log_start :][-_LOG_TAIL_BYTES:].decode(errors="replace").strip()


def start(name: str, module: str, arguments: Sequence[str], health: str, logs: Path, *, secret: bytes = b"") -> Process:
    """Start `python -m module arguments…` in a session of its own, with a short secret on its standard input."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    log_start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as sink, _pipe(secret) as source:
        popen = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=source,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    return Process(name, module, arguments, health, popen.pid, log, log_start, popen, secret)


@contextlib.contextmanager
def _pipe(content: bytes) -> Iterator[int]:
    """Give the end of a pipe that has this content, which is in no file."""
    source, sink = os.pipe()
    try:
        with os.fdopen(sink, "wb") as file:
            file.write(content)
        yield source
    finally:
        os.close(source)


@contextlib.contextmanager
def late_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM have their effect when this ends; in the main thread, as they interrupt no other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    former = {
        number: signal.signal(number, lambda it, _: came.append(it)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for it in came:
            signal.raise_signal(it)


def stop(pids: Sequence[int], timeout_s: float = 10.0) -> None:
    """Ask the processes to end, and make those end that don't; a pid that is no process of ours is left alone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        ours = [pid for pid in pids if _is_ours(pid)]
        for pid in ours:
            _signal(pid, number)
        deadline = time.monotonic() + timeout_s
        while any(_is_ours(pid) for pid in ours) and time.monotonic() < deadline:
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Tell whether `pid` is a running process of the platform."""
    return _is_ours(pid)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _is_ours(pid: int) -> bool:
    """Tell whether `pid` runs one of our modules: pids are reused, so the command line is looked at."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of this very process that has ended would stay a zombie
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"\0mitai." in command


def free_port(preferred: int = 0) -> int:
    """Return `preferred` when nothing listens there, else any free port of the loopback address."""
    with bound(preferred) as probe:
        return int(probe.getsockname()[1])


def bound(preferred: int = 0) -> socket.socket:
    """Return a socket at `preferred` when nothing listens there, else at any free port of the loopback address."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind(("127.0.0.1", preferred))
    except OSError:
        own.bind(("127.0.0.1", 0))
    return own
