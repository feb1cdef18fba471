"""A request's head has a limit in every process of the host that strangers reach."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mitai.fleet.processes import free_port
from mitai.identity import Identity
from mitai.ledger.note import vkey


def gateway(folder: Path, port: int) -> list[str]:
    config = folder / "gateway.toml"
    config.write_text(
        f'port = {port}\nbroker = "http://127.0.0.1:1"\nobjects = "{folder}"\n'
        f'upload_token = "{"u" * 20}"\noperator_token = "{"o" * 20}"\n[replicas]\n'
    )
    return ["mitai.fleet.gateway", "--config", str(config)]


def witness(folder: Path, port: int) -> list[str]:
    log = vkey("log.test", Identity.generate().public)
    files = ["--state", str(folder / "w.db"), "--key", str(folder / "w.pem")]
    return ["mitai.fleet.witness", *files, "--log-vkey", log, "--port", str(port)]


@contextlib.contextmanager
def running(arguments: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("module", [gateway, witness])
@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: "], ids=["endless path", "endless header"])
def test_a_head_without_end_is_cut(tmp_path, module, start):
    port = free_port()
    with running(module(tmp_path, port), port), socket.create_connection(("127.0.0.1", port), 10) as client:
        sent = 0
        with contextlib.suppress(OSError):
            client.sendall(start)
            for _ in range(64):
                sent += client.send(b"a" * (1 << 20))
        assert sent < 32 << 20  # what the system's buffers take, far from all of it
