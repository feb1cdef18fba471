"""Fuzz target: records of data capsules, what a host submits and configures, and the messages within a worker.

Run with atheris: `python tests/fuzz/fuzz_train_worker.py`.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from pathlib import Path

import msgspec

from mitai.capsule import MemorySource
from mitai.errors import TrainError
from mitai.train import history, peers
from mitai.train.config import SubmitRequest, TrainConfig
from mitai.train.data import read
from mitai.train.job import Job
from mitai.train.relay import TO_JOB, TO_WORKER, Relay


def one_input(data: bytes) -> None:
    """Parse as everything that strangers and the host can send; only the tree's errors may come out."""
    text = data.decode("utf-8", "replace")
    for work in (
        lambda: read([MemorySource({"a.jsonl": data})]),
        lambda: Job.parse(text),
        lambda: TrainConfig.parse(text),
        lambda: _message(data),
        lambda: peers.decode(data),
    ):
        try:
            work()
        except TrainError:
            continue
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert all(each.state in history.ENDED for each in history.read(Path(file.name), 5).values())
    try:
        msgspec.json.decode(data, type=SubmitRequest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return


def _message(data: bytes) -> None:
    for decoder in (TO_JOB, TO_WORKER):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data[:4] + len(data).to_bytes(4, "big") + data)
            theirs.shutdown(socket.SHUT_WR)
            relay = Relay(ours)
            while relay.receive(decoder) is not None:
                continue


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
