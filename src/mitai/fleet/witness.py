"""A witness: it cosigns a log's checkpoints, and only ever one history of that log.

Follows C2SP tlog-witness (`POST /add-checkpoint`, `GET /HASH/checkpoint`) and tlog-cosignature (Ed25519,
cosignature/v1). An owner or an auditor runs it away from the log's machine: a log whose storage was rolled back or
forked gets no cosignature any more. Its own state must not be rolled back together with the log's: keep it elsewhere.

Invariants:

- For each log the recorded size never falls, and a size has one root: the record changes by one conditional statement.
- The record is on disk before the cosignature is answered.
- Only configured logs are known, only their keys are believed, and a request is bounded in size and time.

Example:
    >>> python -m mitai.fleet.witness --state witness.db --key witness.pem --log-vkey NAME+HASH+KEY  # doctest: +SKIP
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import anyio
import structlog
import uvicorn
from anyio.to_thread import run_sync
from sqlalchemy import BigInteger, Column, Engine, LargeBinary, MetaData, String, Table, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mitai.errors import FleetError, LedgerError, MitaiError, ParseError
from mitai.identity import Identity
from mitai.ledger.note import (
    COSIGNATURE,
    ED25519,
    Note,
    cosign,
    parse_checkpoint,
    parse_note,
    parse_vkey,
    verify_checkpoint,
    vkey,
)
from mitai.ledger.proof import verify_consistency
from mitai.ledger.tree import EMPTY_ROOT
from mitai.ledger.witness import MAX_REQUEST_BYTES, SIZE_MEDIA_TYPE, AddCheckpoint, Conflict
from mitai.problem import problem, problem_of
from mitai.process import log_to_stderr

REQUEST_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 64

_STATUS = {  # C2SP tlog-witness; what is not named here is a bad request
    "ledger.origin-unknown": 404,
    "ledger.checkpoint-unsigned": 403,
    "ledger.signature-invalid": 403,
    "ledger.origin-mismatch": 403,
    "ledger.root-invalid": 422,
    "ledger.consistency-invalid": 422,
    "ledger.proof-malformed": 422,
}

log = structlog.get_logger("mitai.witness")

_logs = Table(
    "witness_logs",
    MetaData(),
    Column("origin", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),  # as cosigned
)


class Witness:
    """The witness's decisions and its record.

    Args:
        state: A SQLite file, made when it is missing.
        signer: The witness's key, used for nothing else.
        name: The witness's name in its cosignatures.
        logs: Verifier keys of the logs that it watches.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, state: Path, signer: Identity, name: str, logs: Sequence[str], clock: Callable[[], float] = time.time
    ) -> None:
        self.vkey = vkey(name, signer.public, kind=COSIGNATURE)
        self._name, self._signer, self._clock = name, signer, clock
        self._logs = {key.name: key for key in map(parse_vkey, logs) if key.kind == ED25519}
        if len(self._logs) != len(logs):
            raise FleetError("fleet.witness-logs", "each log has a name of its own and a verifier key of type 1")
        self._engine = _open(state)

    def close(self) -> None:
        """Close the record."""
        self._engine.dispose()

    def add_checkpoint(self, body: bytes) -> bytes | Conflict:
        """Return the cosignature line for the checkpoint in a request's body, or the size that the request should name.

        1. The request is well-formed, and its log is known.
        2. The log signed the checkpoint, which is not smaller than the request's old size.
        3. The old size is the one on record.
        4. The checkpoint extends the tree on record.
        5. The new record is on disk, provided that nobody changed it meanwhile.

        Raises:
            ParseError, LedgerError: Something of it does not hold.
        """
        # 1. a known log
        request = AddCheckpoint.decode(body)
        note = parse_note(request.checkpoint)
        trusted = self._logs.get(parse_checkpoint(note.text).origin)
        if trusted is None:
            raise LedgerError("ledger.origin-unknown", "this witness does not watch that log")
        # 2. its signature
        checkpoint = verify_checkpoint(request.checkpoint, str(trusted))
        if request.old > checkpoint.size:
            raise LedgerError("ledger.index-out-of-range", "the old size is above the checkpoint's")
        # 3. the record
        size, root = self._record(checkpoint.origin)
        if request.old != size:
            return Conflict(size)
        # 4. consistency
        verify_consistency(size, checkpoint.size, request.proof, root, checkpoint.root)
        # 5. the new record
        line = cosign(note.text, self._name, self._signer, int(self._clock()))
        own = (found for found in note.signatures if (found.name, found.key_id) == (trusted.name, trusted.key_id))
        cosigned = Note(note.text, (*own, line)).encode()
        if not self._replace(checkpoint.origin, (size, root), (checkpoint.size, checkpoint.root, cosigned)):
            return Conflict(self._record(checkpoint.origin)[0])
        return line.line().encode()

    def latest(self, origin_sha256: str) -> bytes | None:
        """Return the last cosigned checkpoint of the log whose origin has that SHA-256 (hex); None if there is none."""
        for origin in self._logs:
            if sha256(origin.encode()).hexdigest() == origin_sha256:
                with self._engine.connect() as connection:
                    return connection.scalar(select(_logs.c.checkpoint).where(_logs.c.origin == origin))
        return None

    def _record(self, origin: str) -> tuple[int, bytes]:
        with self._engine.connect() as connection:
            row = connection.execute(select(_logs.c.size, _logs.c.root).where(_logs.c.origin == origin)).one_or_none()
        return (row.size, row.root) if row else (0, EMPTY_ROOT)

    def _replace(self, origin: str, old: tuple[int, bytes], new: tuple[int, bytes, bytes]) -> bool:
        """Write `new` if the record still is `old`; tell whether it was."""
        size, root, checkpoint = new
        changed = {"size": size, "root": root, "checkpoint": checkpoint}
        statement = insert(_logs).values(origin=origin, **changed)
        where = (_logs.c.size == old[0]) & (_logs.c.root == old[1])
        with self._engine.begin() as connection:
            return connection.execute(statement.on_conflict_do_update(set_=changed, where=where)).rowcount == 1


def create_app(witness: Witness) -> Starlette:
    """Return the HTTP interface."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            with anyio.fail_after(REQUEST_TIMEOUT_S):
                body = await _read(request)
            answer = await run_sync(witness.add_checkpoint, body)
        except TimeoutError:
            return problem(408, "fleet.request-slow", f"a request takes at most {REQUEST_TIMEOUT_S:.0f} seconds")
        except ClientDisconnect:
            return problem(400, "fleet.request-cut", "the request was cut off")
        except SQLAlchemyError as error:
            log.error("the record can't be written", kind=type(error).__name__)
            return problem(507, "fleet.witness-storage", "the witness can't write its record: is its disk full?")
        except MitaiError as error:
            status = 413 if error.code == "fleet.request-too-large" else _STATUS.get(error.code, 400)
            log.warning("refused", status=status, code=error.code)
            return problem_of(status, error)
        if isinstance(answer, Conflict):
            return Response(f"{answer.size}\n", 409, {"content-type": SIZE_MEDIA_TYPE})  # without a charset
        return PlainTextResponse(answer)

    async def latest(request: Request) -> Response:
        checkpoint = await run_sync(witness.latest, request.path_params["origin"])
        if checkpoint is None:
            return problem(404, "ledger.origin-unknown", "this witness has cosigned nothing of that log")
        return PlainTextResponse(checkpoint, headers={"cache-control": "no-cache"})

    async def health(_: Request) -> Response:
        return PlainTextResponse(witness.vkey + "\n")

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/healthz", health),
            Route("/{origin}/checkpoint", latest),
        ]
    )


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise ParseError("fleet.request-too-large", f"a request has at most {MAX_REQUEST_BYTES} bytes")
    return bytes(body)


def _open(state: Path) -> Engine:
    state.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{state}", connect_args={"timeout": 10})

    @event.listens_for(engine, "connect")
    def durable(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    _logs.metadata.create_all(engine)
    return engine


def main() -> None:
    """Run a witness until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m mitai.fleet.witness", description="A C2SP tlog-witness.")
    parser.add_argument("--state", type=Path, required=True, help="its record, a SQLite file")
    parser.add_argument("--key", type=Path, required=True, help="its key, PEM; made when missing")
    parser.add_argument("--name", default="witness.local", help="its name in cosignatures")
    parser.add_argument("--log-vkey", action="append", required=True, help="a log to watch; may be repeated")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        if not arguments.key.exists():
            Identity.generate().save(arguments.key)
        signer = Identity.load(arguments.key)
        witness = Witness(arguments.state, signer, arguments.name, arguments.log_vkey)
    except MitaiError as error:
        sys.exit(error.diagnostics())
    except (OSError, SQLAlchemyError) as error:
        why = getattr(error, "orig", None) or error  # what SQLAlchemy adds to it quotes statements
        sys.exit(f"the witness can't start: its key or its record can't be read or written ({why})")
    log.info("witness starts", vkey=witness.vkey, logs=len(arguments.log_vkey))
    uvicorn.run(
        create_app(witness),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        http="h11",  # it bounds a request's head (64 KiB); uvicorn's other parser keeps whatever a client sends
    )


if __name__ == "__main__":
    main()
