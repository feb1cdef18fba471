"""Where torchrun puts a training worker: its rank, how many there are, and where rank 0 is.

Follows `docs/spec/distributed.md`, "With torchrun". torchrun starts processes and tells them apart, and no more: no
process group is made, and its store is neither read nor written here.

Invariants:

- What the environment says is a host's word, as the place in a request is: who a peer is, its evidence shows.
- A worker is alone on its machine, as its sealing key and its scratch are the machine's.

Example:
    >>> placed(request, os.environ).place
    Place(rank=1, host='10.0.0.1', port=29501)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mitai.errors import TrainError
from mitai.train.config import Place, SubmitRequest
from mitai.train.job import Job


class _Environment(msgspec.Struct, frozen=True, rename="upper"):
    """Those of torchrun's variables that count here."""

    rank: Annotated[int, Meta(ge=0)]
    world_size: Annotated[int, Meta(ge=1)]
    local_world_size: Literal[1]
    master_addr: Annotated[str, Meta(min_length=1, max_length=255)]
    master_port: Annotated[int, Meta(ge=1, le=65534)]


def placed(request: SubmitRequest, environment: Mapping[str, str]) -> SubmitRequest:
    """Return a request with the place that torchrun gave this process; as it is, where torchrun didn't start it.

    Raises:
        TrainError: The job file is not valid, or torchrun's variables are not those of a worker of this job.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return request
    asked = Job.parse(request.job).distributed
    try:
        said = msgspec.convert(dict(environment), _Environment, strict=False)
    except msgspec.ValidationError as error:
        raise _unfit(str(error)) from None
    workers = asked.workers if asked else 1
    if not said.rank < said.world_size == workers:
        raise _unfit(f"rank {said.rank} of {said.world_size}, and the job is for {workers}")
    # torchrun itself listens on MASTER_PORT
    place = Place(said.rank, said.master_addr, said.master_port + 1) if asked else None
    return msgspec.structs.replace(request, place=place)


def _unfit(why: str) -> TrainError:
    return TrainError(
        "train.torchrun",
        f"torchrun's environment is none of a worker of this job: {why}",
        hint="start one worker on each machine: --nproc-per-node 1, and --nnodes as many as the job's workers",
    )
