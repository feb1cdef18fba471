"""Sealed checkpoints: a running trainer's state in files that only the same code on the same machine can open.

Follows `docs/spec/training.md`, "Checkpoints". A file is a header (magic, random object id, step, size) and the
segments of `mitai.capsule.segments`, under the TEE's sealing key for this job. Encrypting and writing happen in a
thread of their own while training goes on.

Invariants:

- A checkpoint is bound to job, inputs and step: the file of another job, another input or another step does not open.
- A file appears whole under its name or not at all; the two newest are kept.
- What does not open is left out with a logged code, and an older one is tried: a hostile host can make a run start
  from an earlier step, which costs time and gives the same result; it can't make it start from another state.
- Nothing is unpickled.

Example:
    >>> checkpoints = Checkpoints(Path("scratch"), attester.sealing_key, job.sha256(), {"ab…": "5f1c…"})
    >>> run(job, sources, states=checkpoints)
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import structlog

from mitai.capsule import segments
from mitai.capsule.directio import anonymous
from mitai.capsule.segments import HEADER_BYTES, SEGMENT_BYTES, Place
from mitai.errors import MitaiError, TrainError
from mitai.train.state import State

log = structlog.get_logger(__name__)
MAGIC = b"mitai ckpt v1\n\0\0"
_HEADER_BYTES = len(MAGIC) + 16 + 8 + 8  # object id, step, size of the plaintext
KEY_LABEL = b"mitai training checkpoint key v1\0"
_BINDING_LABEL = b"mitai training checkpoint v1\0"
_KEPT = 2
_NAME = re.compile(r"[0-9a-f]{32}-([0-9]{12})\.checkpoint")


def binding(job_sha256: str, inputs: Mapping[str, str]) -> bytes:
    """Return the digest of a job and the manifests of its inputs: what a checkpoint belongs to."""
    bound = msgspec.json.encode([job_sha256, sorted(inputs.items())])
    return hashlib.sha256(_BINDING_LABEL + bound).digest()


class Checkpoints:
    """The checkpoints of one job in a folder; other jobs' lie beside them, untouched.

    Args:
        folder: Where; the host's disk.
        sealing_key: The TEE's (`Attester.sealing_key`).
        job_sha256: The job's digest.
        inputs: Manifest digests by capsule id.
    """

    def __init__(
        self, folder: Path, sealing_key: Callable[[bytes], bytes], job_sha256: str, inputs: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self.binding = binding(job_sha256, inputs)
        self._key = sealing_key(KEY_LABEL + self.binding)
        self._prefix = self.binding.hex()[:32]
        self._writer = ThreadPoolExecutor(1, "mitai-checkpoint")
        self._writing: Future[None] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{self._prefix}-*.part"):
            left.unlink(missing_ok=True)

    def save(self, state: State) -> None:
        """Take the state as it is now, and write it while the caller goes on; a failed write ends the run here."""
        self.wait()
        self._writing = self._writer.submit(self._write, state.step, state.encode())

    def wait(self) -> None:
        """Return when the last state is on the disk; raise `TrainError` when it could not be written."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except OSError as error:
            raise TrainError(
                "train.checkpoint-failed",
                f"a checkpoint could not be written: {error.strerror}",
                hint="is there space?",
            ) from None

    def newest(self) -> State | None:
        """Return the newest state that opens; None: the job begins at the start."""
        for path in reversed(self._paths()):
            try:
                return self._read(path)
            except MitaiError as error:
                log.warning("checkpoint left out", code=error.code, step=_step(path))
            except OSError as error:
                log.warning("checkpoint left out", code="train.checkpoint-unreadable", kind=type(error).__name__)
        return None

    def clear(self) -> None:
        """Remove this job's checkpoints; its output stands."""
        self.wait()
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """Return this job's files, oldest first."""
        return sorted(path for path in self._folder.glob(f"{self._prefix}-*") if _NAME.fullmatch(path.name))

    def _place(self, header: bytes, index: int) -> Place:
        """Return where a segment belongs: all of the header's fields and the binding are in it."""
        context = hashlib.sha256(self.binding + header).digest()
        size = int.from_bytes(header[-8:], "big")
        return Place(context[:16], context[16:], size, index)

    def _write(self, step: int, plain: bytes) -> None:
        header = MAGIC + secrets.token_bytes(16) + step.to_bytes(8, "big") + len(plain).to_bytes(8, "big")
        path = self._folder / f"{self._prefix}-{step:012d}.checkpoint"
        temporary = path.with_suffix(".part")
        room = memoryview(bytearray(segments.sealed_size(min(len(plain), SEGMENT_BYTES))))
        with temporary.open("wb") as file:
            file.write(header)
            for index in range(segments.count(len(plain))):
                place = self._place(header, index)
                sealed = room[: segments.sealed_size(place.length)]
                segments.seal(self._key, place, _blocks(plain, place), sealed)
                file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for old in self._paths()[:-_KEPT]:
            old.unlink(missing_ok=True)

    def _read(self, path: Path) -> State:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            size = int.from_bytes(header[-8:], "big")
            if len(header) != _HEADER_BYTES or not header.startswith(MAGIC) or size > _plausible(path):
                raise TrainError("train.checkpoint-format", "a checkpoint is of another version, or cut short")
            plain = memoryview(anonymous(size))[:size]
            for index in range(segments.count(size)):
                place = self._place(header, index)
                sealed = memoryview(file.read(segments.sealed_size(place.length)))
                part = plain[index * SEGMENT_BYTES :][: place.length]
                # Nothing pins the salt but the header's random object id, which is in the key derivation already.
                segments.open_into(self._key, place, segments.pinned(sealed), sealed, part)
            if file.read(1):
                raise TrainError("train.checkpoint-format", "a checkpoint has bytes after its end")
        state = State.decode(plain)
        if state.step != int.from_bytes(header[-16:-8], "big") or state.step != _step(path):
            raise TrainError("train.checkpoint-step", "a checkpoint is not of the step that its name says")
        return state


def _blocks(plain: bytes, place: Place) -> Iterator[memoryview]:
    part = memoryview(plain)[place.index * SEGMENT_BYTES :][: place.length]
    return (part[start:end] for start, end in segments.cuts(place.length))


def _plausible(path: Path) -> int:
    return max(0, path.stat().st_size - _HEADER_BYTES - HEADER_BYTES)


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else -1
