"""The proving process of a service: takes the answer that was asked for first, proves it, and so on.

`python -m mitai.proof.service.worker --config service.toml`, the state's key on its input. It may be killed at any
moment: what it had begun is begun anew by the next one, up to five times.

Invariants:

- One process proves for a folder, so that what is marked as being proven is, or was left by a dead one.
- An answer that can't be proven is marked so and ends nothing else.
- It runs at a lower priority than answers do.

Example:
    >>> work(config, read_key(), threading.Event())
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from mitai.errors import MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.proof.answer import prove_answer
from mitai.proof.prepared import Prepared
from mitai.proof.sampling import Sampling
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.receipts import Said
from mitai.proof.service.sealed import read_key
from mitai.proof.service.state import database_refuses
from mitai.proof.service.store import Store

log = structlog.get_logger("mitai.proof.service.worker")
_LOOK_EVERY_S, _PURGE_EVERY_S = 0.1, 60.0
_NICE = 5
PAUSE_S = 5.0  # for a disk that is full to become less so


def work(config: ServiceConfig, state_key: bytes, stop: threading.Event) -> None:
    """Prove what is asked for until told to stop.

    Raises:
        MitaiError: There is no prepared model where the configuration says.
    """
    prepared = Prepared.open(Path(config.prepared))
    store = Store(config, state_key)
    with (Path(config.state) / "worker.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel opens it when this process ends, however it does
        store.again()
        purge_at = 0.0
        while not stop.is_set():
            try:
                if time.monotonic() >= purge_at:
                    store.purge()
                    purge_at = time.monotonic() + _PURGE_EVERY_S
                if (job := store.take()) is None:
                    stop.wait(_LOOK_EVERY_S)
                else:
                    _prove(prepared, store, *job)
            except (OSError, SQLAlchemyError) as error:
                log.error("the disk refuses", kind=type(error).__name__)
                stop.wait(PAUSE_S)
                with suppress(SQLAlchemyError):
                    store.again()
    store.close()


def _prove(prepared: Prepared, store: Store, said: Said, sampling: Sampling | None) -> None:
    began = time.monotonic()
    try:
        proof = prove_answer(prepared, list(said.prompt), list(said.answer), sampling).encode()
    except (MitaiError, MemoryError) as error:
        log.error("not proven", exchange=said.exchange, kind=getattr(error, "code", type(error).__name__))
        store.failed(said.id)
        return
    store.done(said.id, proof)
    log.info("proven", exchange=said.exchange, seconds=round(time.monotonic() - began, 2), size_bytes=len(proof))


def main() -> None:
    """Prove until told to stop; exit 1 with the reason when it can't begin."""
    parser = argparse.ArgumentParser(prog="python -m mitai.proof.service.worker", description="Answers' proofs.")
    parser.add_argument("--config", type=Path, required=True, help="a TOML file; see docs/configuration.md")
    arguments = parser.parse_args()
    log_to_stderr()
    forbid_core_dumps()
    os.nice(_NICE)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # what is in the making is begun anew later
    try:
        config = ServiceConfig.read(arguments.config)
        if config.memory_gib:
            limit = int(config.memory_gib * (1 << 30))
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        work(config, read_key(), stop)
    except MemoryError:
        raise SystemExit("the model itself takes more memory than there is, or than memory_gib allows") from None
    except (MitaiError, OSError) as error:
        raise SystemExit(error.diagnostics() if isinstance(error, MitaiError) else str(error)) from None
    except SQLAlchemyError as error:  # its words may be a statement's
        raise SystemExit(database_refuses(config, error)) from None


if __name__ == "__main__":
    main()
