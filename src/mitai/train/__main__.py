"""Run a training worker: `python -m mitai.train --config train.toml`."""

from __future__ import annotations

import argparse
from pathlib import Path

import structlog
import uvicorn

from mitai.errors import MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.train.app import create_worker
from mitai.train.config import TrainConfig

log = structlog.get_logger("mitai.train")


def main() -> None:
    """Work until told to stop; exit 1 with the reason when the worker can't start."""
    parser = argparse.ArgumentParser(prog="python -m mitai.train", description="A training worker.")
    parser.add_argument("--config", type=Path, required=True, help="a TOML file; see docs/configuration.md")
    arguments = parser.parse_args()
    log_to_stderr()
    forbid_core_dumps()
    try:
        config = TrainConfig.parse(arguments.config.read_text())
        worker = create_worker(config)
    except (MitaiError, OSError) as error:
        raise SystemExit(error.diagnostics() if isinstance(error, MitaiError) else str(error)) from None
    if config.sim is not None:
        log.warning("SIMULATED hardware: this worker proves nothing to a stranger")
    log.info("training worker starts", host=config.host, port=config.port)
    uvicorn.run(
        worker.app(),
        host=config.host,
        port=config.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
