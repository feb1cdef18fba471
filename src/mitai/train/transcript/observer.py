"""The transcript of a job: watches its run, and adds the transcript with what opens it to the output's files.

`docs/spec/transcript.md`, "Files". Until the run ends, states lie on the disk under a key that is in memory and in the
sealed checkpoints alone.

Invariants:

- What leaves the process is sealed with the output: states and secret belong to the owners of all inputs.
- A run that was killed and resumed has the same transcript, but for its times.

Example:
    >>> run(job, sources, observers=observers(job, sources, manifests, workload_key, scratch))  # doctest: +SKIP
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mitai.capsule.sources import FileSource
from mitai.errors import TrainError
from mitai.identity import Identity
from mitai.train.job import Job
from mitai.train.loop import Observer
from mitai.train.transcript.commitment import Commitment
from mitai.train.transcript.document import Asset, Data, Declared
from mitai.train.transcript.recorder import Recorder, state_name

if TYPE_CHECKING:
    from transformers import Trainer

TRANSCRIPT: Final = "transcript.json"
OPENING: Final = "transcript.opening"
JOB: Final = "transcript-job.json"
SPILL_LABEL: Final = b"mitai training spill v1\x00"


def observers(
    job: Job, sources: Mapping[str, FileSource], manifests: Mapping[str, str], key: Identity, scratch: Path
) -> dict[str, Observer]:
    """Return what watches a job: a transcriber where the job asks for a transcript, otherwise nothing.

    Args:
        job: The job.
        sources: Its opened inputs by capsule id.
        manifests: Their manifests' digests.
        key: The workload's, which signs.
        scratch: A folder for encrypted states.
    """
    return {"transcript": Transcriber(job, sources, manifests, key, scratch)} if job.transcript else {}


class Transcriber(Recorder):
    """A recorder that signs, and gives out files."""

    def __init__(
        self, job: Job, sources: Mapping[str, FileSource], manifests: Mapping[str, str], key: Identity, scratch: Path
    ) -> None:
        super().__init__(self._spill, segment_steps=job.transcript.segment_steps if job.transcript else 0)
        self._job, self._sources, self._manifests, self._key = job, sources, manifests, key
        self._scratch = scratch

    def end(self, trainer: Trainer) -> dict[str, bytes]:  # noqa: ARG002 - the one that it watched
        """Return the transcript, the secret, the job and the states."""
        from mitai.train.run import training_rows

        records = training_rows(self._job, self._sources)
        data = Commitment.of(self.secret, records.columns, records.plain())
        declared = Declared(
            job=self._job.job.name,
            job_sha256=self._job.sha256(),
            method=self._job.job.method,
            inputs=assets(self._job, self._manifests),
            data=Data(columns=data.columns, records=len(records), root=data.root.hex()),
            seed=self._job.job.seed,
        )
        transcript = self.transcript(declared)
        files = {TRANSCRIPT: transcript.sign(self._key), OPENING: self.secret, JOB: self._job.encode()}
        return files | {name: self._spilled(name) for name in (state_name(each.step) for each in transcript.boundaries)}

    def _spill(self, name: str, data: bytes) -> None:
        nonce = os.urandom(12)
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(nonce + self._cipher().encrypt(nonce, data, name.encode()))

    def _spilled(self, name: str) -> bytes:
        path = self._path(name)
        try:
            sealed = path.read_bytes()
            data = self._cipher().decrypt(sealed[:12], sealed[12:], name.encode())
        except (OSError, InvalidTag, ValueError) as error:
            raise TrainError("train.transcript-states", "a kept state was lost or changed on the disk") from error
        path.unlink()
        return data

    def _path(self, name: str) -> Path:
        return self._scratch / name.replace("/", "-")

    def _cipher(self) -> AESGCM:
        return AESGCM(hmac.digest(self.secret, SPILL_LABEL, sha256))


def assets(job: Job, manifests: Mapping[str, str]) -> tuple[Asset, ...]:
    """Return the job's inputs as a transcript names them, the model first."""
    return tuple(Asset(capsule=each.capsule, manifest_sha256=manifests[each.capsule]) for each in job.inputs())
