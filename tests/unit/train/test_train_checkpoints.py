"""Sealed checkpoints: only the same job opens them, damage costs time and never a result, a kill loses nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from mitai.errors import TrainError
from mitai.train import checkpoints
from mitai.train.checkpoints import Checkpoints
from mitai.train.state import State


def key(label: bytes) -> bytes:
    return hashlib.sha256(b"machine" + label).digest()


def store(folder: Path, job: str = "a" * 64, inputs: dict[str, str] | None = None) -> Checkpoints:
    return Checkpoints(folder, key, job, {"c1": "11"} if inputs is None else inputs)


def state(step: int, size: int = 1000) -> State:
    return State(step, {"weights/w": torch.arange(size, dtype=torch.float32)}, {"epoch": 0.5})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    kept = store(tmp_path)
    for step in (1, 2, 3):
        kept.save(state(step))
    kept.wait()
    return tmp_path


def test_the_two_newest_are_kept_and_open(folder: Path) -> None:
    assert [checkpoints._step(path) for path in sorted(folder.iterdir())] == [2, 3]
    newest = store(folder).newest()
    assert newest is not None
    assert (newest.step, newest.facts) == (3, {"epoch": 0.5})
    assert torch.equal(newest.tensors["weights/w"], state(3).tensors["weights/w"])


def test_large_states_have_several_segments(tmp_path: Path) -> None:
    kept, large = store(tmp_path), state(1, 9 << 20)
    kept.save(large)
    kept.wait()
    read = kept.newest()
    assert read is not None
    assert torch.equal(read.tensors["weights/w"], large.tensors["weights/w"])


def test_nothing_is_in_the_clear(folder: Path) -> None:
    whole = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"epoch" not in whole
    assert torch.arange(100, 104, dtype=torch.float32).numpy().tobytes() not in whole


def test_another_job_input_or_machine_does_not_open(folder: Path) -> None:
    others = [store(folder, "b" * 64), store(folder, inputs={"c1": "12"}), store(folder, inputs={"c2": "11"})]
    for other in others:
        assert other.newest() is None
        for path in sorted(folder.glob("*.checkpoint")):  # a host that gives it the name that the other job looks for
            named = folder / f"{other._prefix}{path.name[32:]}"
            named.write_bytes(path.read_bytes())
        with capture_logs() as logs:
            assert other.newest() is None
        assert {entry["code"] for entry in logs} == {"capsule.object-damaged"}
        other.clear()
    assert store(folder).newest() is not None


@pytest.mark.parametrize("at", [0, 15, 16, 31, 39, 47, 48, 60, 90, -1])
def test_any_changed_byte_leaves_the_older_one(folder: Path, at: int) -> None:
    newest = max(folder.iterdir())
    content = bytearray(newest.read_bytes())
    content[at] ^= 1
    newest.write_bytes(content)
    with capture_logs() as logs:
        found = store(folder).newest()
    assert found is not None
    assert found.step == 2
    assert logs[0]["step"] == 3


@pytest.mark.parametrize("change", [b"", b"x", None])
def test_cut_short_or_longer(folder: Path, change: bytes | None) -> None:
    newest = max(folder.iterdir())
    content = newest.read_bytes()
    newest.write_bytes(content[:40] if change is None else content + change if change else b"")
    found = store(folder).newest()
    assert found is not None
    assert found.step == 2


def test_an_older_one_under_a_newer_name_is_refused(folder: Path) -> None:
    older, newest = sorted(folder.iterdir())
    newest.write_bytes(older.read_bytes())
    with capture_logs() as logs:
        found = store(folder).newest()
    assert found is not None
    assert found.step == 2
    assert logs[0]["code"] == "train.checkpoint-step"


def test_segments_of_two_checkpoints_can_t_be_mixed(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (1, 2):
        kept.save(state(step, 9 << 20))
    kept.wait()
    first, second = sorted(tmp_path.iterdir())
    cut = checkpoints._HEADER_BYTES + (16 << 20)
    second.write_bytes(second.read_bytes()[:cut] + first.read_bytes()[cut:])
    found = store(tmp_path).newest()
    assert found is not None
    assert found.step == 1


def test_another_format_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mitai.train.state.VERSION", 2)
    with capture_logs() as logs:
        assert store(folder).newest() is None
    assert [entry["code"] for entry in logs] == ["train.checkpoint-format"] * 2


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    kept = store(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    kept.save(state(1))
    with pytest.raises(TrainError) as caught:
        kept.wait()
    assert caught.value.code == "train.checkpoint-failed"


def test_what_a_kill_left_is_removed(folder: Path) -> None:
    name = max(folder.iterdir()).with_suffix(".part")
    name.write_bytes(b"half")
    store(folder)
    assert not name.exists()


def _killed(folder: Path, when: str) -> int:
    child = Path(__file__).with_name("train_killed_child.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, str(child), str(folder), when], env=environment, check=False).returncode


@pytest.mark.slow
def test_killed_anywhere_and_resumed_ends_the_same(tmp_path: Path) -> None:
    assert _killed(tmp_path / "whole", "never") == 0
    expected = (tmp_path / "whole.out").read_bytes()
    for when in ("step-1", "step-3", "step-4", "step-5", "write-1", "write-2", "rename-2", "fsync-3"):
        folder = tmp_path / when
        assert _killed(folder, when) == -signal.SIGKILL, when
        assert _killed(folder, "never") == 0, when
        assert folder.with_suffix(".out").read_bytes() == expected, when
