"""Run a training worker: `python -m mitai.train --config train.toml`.

With `--request` it does that one job, prints its numbers and at last its status as lines of JSON, and ends. So torchrun
can start it, and start it again: `docs/spec/distributed.md`, "With torchrun".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import structlog
import uvicorn

from mitai.errors import MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.train.app import create_worker
from mitai.train.config import SubmitRequest, TrainConfig
from mitai.train.torchrun import placed
from mitai.train.worker import Run

_LOOK_EVERY_S = 0.1

log = structlog.get_logger("mitai.train")


def main() -> None:
    """Work until told to stop, or until the one job is done; exit 1 with the reason otherwise."""
    parser = argparse.ArgumentParser(prog="python -m mitai.train", description="A training worker.")
    parser.add_argument("--config", type=Path, required=True, help="a TOML file; see docs/configuration.md")
    parser.add_argument("--request", type=Path, help="do this one job, as JSON for POST /control/jobs, and end")
    arguments = parser.parse_args()
    log_to_stderr()
    forbid_core_dumps()
    try:
        config = TrainConfig.parse(arguments.config.read_text())
        listening = _listen(config)  # first: where another worker runs, its scratch is not touched, nor a use spent
        request = placed(SubmitRequest.parse(arguments.request.read_bytes()), os.environ) if arguments.request else None
        worker = create_worker(config)
        run = worker.jobs.submit(request, _say) if request else None
    except (MitaiError, OSError) as error:
        raise SystemExit(error.diagnostics() if isinstance(error, MitaiError) else str(error)) from None
    if config.sim is not None:
        log.warning("SIMULATED hardware: this worker proves nothing to a stranger")
    log.info("training worker starts", host=config.host, port=config.port)
    server = uvicorn.Server(
        uvicorn.Config(
            worker.app(),
            host=config.host,
            port=config.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )
    if run is not None:
        threading.Thread(target=_end_with, args=(run, server), name="mitai-end", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
    if run is not None:
        _say(run.shown())
    sys.exit(not server.started or (run is not None and run.state != "done"))


def _listen(config: TrainConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    return socket.create_server((config.host, config.port), family=family)


def _say(values: Mapping[str, object]) -> None:
    """Print a line of JSON: one write, and short enough for a pipe to take it whole or wait."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()


def _end_with(run: Run, server: uvicorn.Server) -> None:
    while run.state in {"queued", "running"}:
        time.sleep(_LOOK_EVERY_S)
    server.should_exit = True


if __name__ == "__main__":
    main()
