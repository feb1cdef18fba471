"""A process that gave up the network has none, in any thread and any child."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In a process of its own: what is given up does not come back.
PROGRAM = """
import ctypes, json, socket, subprocess, sys, threading
from mitai.errors import TrainError
from mitai.train.sandbox import drop_network

def attempt(family, kind=socket.SOCK_STREAM):
    try:
        socket.socket(family, kind).close()
        return "got it"
    except OSError as error:
        return type(error).__name__

results, go = {}, threading.Event()
def waits():
    go.wait()
    results["older thread"] = attempt(socket.AF_INET)
thread = threading.Thread(target=waits)
thread.start()

held = socket.socket()
try:
    drop_network()
except TrainError as error:
    results["held"] = error.code
results["before"] = attempt(socket.AF_INET)
if sys.argv[1:] == ["keep"]:
    drop_network(keep=[held.fileno()])
else:
    held.close()
    drop_network()
go.set()
thread.join()
results["tcp"] = attempt(socket.AF_INET)
results["udp6"] = attempt(socket.AF_INET6, socket.SOCK_DGRAM)
results["vsock"] = attempt(socket.AF_VSOCK)
results["unix"] = attempt(socket.AF_UNIX)
libc = ctypes.CDLL(None, use_errno=True)
results["ring"] = [libc.syscall(425, 1, ctypes.create_string_buffer(120)), ctypes.get_errno()]
code = "import socket; socket.socket()"
results["child"] = subprocess.run([sys.executable, "-c", code], capture_output=True).returncode
drop_network(keep=[held.fileno()] if sys.argv[1:] else [])  # twice does no harm
print(json.dumps(results))
"""


@pytest.mark.parametrize("arguments", [[], ["keep"]])
def test_the_network_is_gone_for_good(arguments):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {
        "held": "train.network-open",
        "before": "got it",
        "older thread": "PermissionError",
        "tcp": "PermissionError",
        "udp6": "PermissionError",
        "vsock": "PermissionError",
        "unix": "got it",
        "ring": [-1, 1],
        "child": 1,
    }


def test_a_machine_that_can_not_refuses(monkeypatch):
    from mitai.errors import TrainError
    from mitai.train.sandbox import confine, drop_network, network

    monkeypatch.setattr(network, "_network_sockets", list)
    monkeypatch.setattr(confine, "_MACHINES", {})
    with pytest.raises(TrainError) as caught:
        drop_network()
    assert caught.value.code == "train.network-kept"


def test_a_filter_without_effect_is_found_out(monkeypatch):
    from mitai.errors import TrainError
    from mitai.train.sandbox import confine, drop_network, network

    monkeypatch.setattr(network, "_network_sockets", list)
    monkeypatch.setattr(confine, "forbid_network", lambda: None)
    with pytest.raises(TrainError) as caught:
        drop_network()
    assert caught.value.code == "train.network-kept"
