"""What the configuration file of a service of proofs says, for both of its processes.

Example:
    >>> ServiceConfig.read(Path("service.toml")).places
    64
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.errors import ProofError


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service of answers with a proof.

    Attributes:
        port: Port to listen on.
        host: Address to listen on.
        prepared: Folder of a model that was prepared (`mitai proof prepare`).
        name: The model's name in the API.
        key: The service's key, PEM: it signs receipts.
        state: Folder in which answers wait for their proofs, and proofs to be fetched; sealed.
        state_url: PostgreSQL database of its own that has the answers (`postgresql://…`); empty: SQLite in that folder.
        prompt_tokens: Of a prompt, at most; with the answer's they are at most 4096.
        answer_tokens: Of an answer, at most.
        answers: How many are made at once.
        waiting: How many requests wait for their turn.
        places: For proofs that are asked for, in the making, or may be drawn in open sessions.
        least_one_in: A session draws at most one in so many answers.
        session_answers: Of one session, at most.
        session_s: How long a session may be open.
        keep_s: How long answers and their proofs are kept.
        keep_answers: How many of them at most.
        keep_gib: How much of the disk their proofs take at most.
        memory_gib: What the proving process may take besides the weights; 0: whatever there is.
        unaudited: Receipts have no root of the answer's trace, so no audits; always so where proofs hide the weights.
        traces: How many are shown to auditors at once.
        trace_mib: Of one trace, at most.
        trace_s: How long showing one may take.
    """

    port: Annotated[int, Meta(ge=0, le=65535)]
    prepared: str
    name: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,256}\Z")]
    key: str
    state: str
    state_url: Annotated[str, Meta(pattern=r"^(postgresql(\+psycopg)?://.*)?\Z")] = ""
    host: str = "127.0.0.1"
    prompt_tokens: Annotated[int, Meta(ge=1, le=4095)] = 512
    answer_tokens: Annotated[int, Meta(ge=1, le=4095)] = 256
    answers: Annotated[int, Meta(ge=1, le=64)] = 2
    waiting: Annotated[int, Meta(ge=0, le=4096)] = 32
    places: Annotated[int, Meta(ge=1, le=4096)] = 64
    least_one_in: Annotated[int, Meta(ge=1, le=1 << 32)] = 2
    session_answers: Annotated[int, Meta(ge=1, le=4096)] = 256
    session_s: Annotated[float, Meta(gt=0)] = 3600.0
    keep_s: Annotated[float, Meta(gt=0)] = 86400.0
    keep_answers: Annotated[int, Meta(ge=1)] = 10_000
    keep_gib: Annotated[float, Meta(gt=0)] = 8.0
    memory_gib: Annotated[float, Meta(ge=0)] = 0.0
    unaudited: bool = False
    traces: Annotated[int, Meta(ge=1, le=64)] = 1
    trace_mib: Annotated[int, Meta(ge=1)] = 1024
    trace_s: Annotated[float, Meta(gt=0)] = 600.0

    @staticmethod
    def read(path: Path) -> ServiceConfig:
        """Read a TOML file; relative folders in it are beside it.

        Raises:
            ProofError: `proof.config-malformed`: it says something unknown, or can't be read.
        """
        try:
            config = msgspec.toml.decode(path.read_bytes(), type=ServiceConfig)
        except (msgspec.MsgspecError, ValueError, OSError) as error:
            raise ProofError("proof.config-malformed", f"the configuration is not valid: {error}") from error
        folder = path.parent
        own = {name: str(folder / getattr(config, name)) for name in ("prepared", "key", "state")}
        return msgspec.structs.replace(config, **own)
