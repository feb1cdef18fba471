"""What a training worker's configuration file says, and what its host may ask of it.

`docs/configuration.md` lists every field. None of them brings code: there are no paths of modules, plug-ins, templates
or kernels, and no way to trust code from a model's folder.

Example:
    >>> TrainConfig.parse(Path("train.toml").read_text()).port
    8702
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mitai.errors import TrainError
from mitai.serve.config import ObjectsUrl, Url
from mitai.train.job import MAX_JOB_BYTES
from mitai.train.tables import MAX_RANKS


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A training worker.

    Attributes:
        port: Port to listen on.
        broker_policy: The appraisal policy (a file) that brokers must meet; its digest is in the worker's claims.
        scratch: A folder of this worker alone for sealed checkpoints and outputs, and the list of jobs for the host.
        sim: Folder of a simulated platform; without it, the machine's own TEE (not yet run on hardware).
        gpus: With the machine's own TEE: its NVIDIA GPUs attest too.
        host: Address to listen on.
        kem: The channel's key encapsulation.
        threads: Of the arithmetic; 0: as many as processors. Results are equal for equal numbers only.
        queue: How many jobs may wait.
        renew_s: How often the lease on a job's inputs is renewed; at most 10.
        silence_s: Of a job of several workers: how long one waits for the others to come, and then for what each has to
            send next; more than a step takes.
        stall_s: How long a job's process may tell nothing and ask for nothing, before it is ended: more than a step,
            or a whole evaluation or audit, takes.
    """

    port: Annotated[int, Meta(ge=0, le=65535)]
    broker_policy: str
    scratch: str
    sim: str | None = None
    gpus: bool = False
    host: str = "127.0.0.1"
    kem: Literal["x25519", "x-wing"] = "x25519"
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    queue: Annotated[int, Meta(ge=0, le=1000)] = 16
    renew_s: Annotated[float, Meta(gt=0, le=10)] = 10.0
    silence_s: Annotated[float, Meta(gt=0, le=3600)] = 300.0
    stall_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 86_400.0

    @staticmethod
    def parse(text: str) -> TrainConfig:
        """Parse TOML; raise `TrainError` on anything unknown."""
        try:
            return msgspec.toml.decode(text, type=TrainConfig)
        except (msgspec.MsgspecError, ValueError) as error:
            raise TrainError("train.config-malformed", f"the configuration is not valid: {error}") from error


class Destination(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the sealed output goes: a gateway that takes it for an upload token."""

    gateway: Url
    token: Annotated[str, Meta(min_length=16, max_length=512)]

    def __repr__(self) -> str:
        return f"Destination({self.gateway!r})"


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a job of several workers: which rank this one is, and where rank 0 listens for the others."""

    rank: Annotated[int, Meta(ge=0, lt=MAX_RANKS)]
    host: Annotated[str, Meta(min_length=1, max_length=255)]
    port: Annotated[int, Meta(ge=1, le=65535)]


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /control/jobs: a job file, and where keys, ciphertext and the output's place are.

    Attributes:
        job: The job file's text.
        broker: The broker's address.
        objects: The object store of the inputs: `OBJECTS/CAPSULE/NAME` over HTTP, or an fsspec URL.
        output: Where to.
        place: Of a job of several workers, and of no other.
    """

    job: Annotated[str, Meta(max_length=MAX_JOB_BYTES)]
    broker: Url
    objects: ObjectsUrl
    output: Destination
    place: Place | None = None

    @staticmethod
    def parse(body: bytes) -> SubmitRequest:
        """Parse JSON; raise `TrainError` on anything else."""
        try:
            return msgspec.json.decode(body, type=SubmitRequest)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise TrainError("train.control-malformed", f"this is no request for a job: {error}"[:300]) from None
