"""Train, and be killed at the moment that the second argument names; what was made goes to FOLDER.out."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from train_rig import conversations, job, tiny_llama

from mitai.train.checkpoints import Checkpoints
from mitai.train.run import run

folder, (what, _, number) = Path(sys.argv[1]), sys.argv[2].partition("-")
counts = {"step": 0, "write": 0, "rename": 0, "fsync": 0}


def reached(event: str) -> None:
    counts[event] += 1
    if event == what and counts[event] == int(number):
        os.kill(os.getpid(), signal.SIGKILL)


class Steps:
    def begin(self, trainer: Any, step: int) -> None: ...

    def step(self, step: int, samples: tuple[int, ...], loss: float) -> None:
        reached("step")

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...

    def end(self, trainer: Any) -> dict[str, bytes]:
        return {}


seal, rename, fsync = Checkpoints._place, Path.replace, os.fsync


def place(self: Checkpoints, header: bytes, index: int) -> Any:
    reached("write")  # the header stands, no segment yet
    return seal(self, header, index)


def replace(self: Path, target: Path) -> Path:
    reached("rename")
    return rename(self, target)


def synced(descriptor: int) -> None:
    reached("fsync")
    fsync(descriptor)


def main() -> None:
    kept = Checkpoints(folder, lambda label: hashlib.sha256(label).digest(), "a" * 64, {})
    tables = "[checkpoints]\nevery_steps = 1\n[lora]\nrank = 2\ndropout = 0.1\n[training]\nbatch = 4\nmax_length = 32\n"
    resumed = any(folder.glob("*.checkpoint"))
    if not resumed:
        Checkpoints._place, Path.replace, os.fsync = place, replace, synced  # type: ignore[method-assign,assignment]
    sources = {"base": tiny_llama(), "records": conversations(24)}
    outcome = run(job(tables), sources, states=kept, observers={"steps": Steps()})
    kept.wait()
    folder.with_suffix(".out").write_bytes(repr(sorted(outcome.files.items())).encode())


main()
