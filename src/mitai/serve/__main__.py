"""Run a replica: `python -m mitai.serve --config serve.toml`."""

from __future__ import annotations

import argparse
from pathlib import Path

import structlog
import uvicorn

from mitai.channel.memory import keep_freed_memory
from mitai.errors import MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.serve.app import create_replica
from mitai.serve.config import ServeConfig

log = structlog.get_logger("mitai.serve")


def main() -> None:
    """Serve until told to stop; exit 1 with the reason when the replica can't start."""
    parser = argparse.ArgumentParser(prog="python -m mitai.serve", description="An inference replica.")
    parser.add_argument("--config", type=Path, required=True, help="a TOML file; see docs/configuration.md")
    parser.add_argument(
        "--insecure-plaintext", action="store_true", help="serve the API in the clear too; never use it"
    )
    arguments = parser.parse_args()
    log_to_stderr()
    forbid_core_dumps()
    keep_freed_memory()
    try:
        config = ServeConfig.parse(arguments.config.read_text())
        replica = create_replica(config)
    except (MitaiError, OSError) as error:
        raise SystemExit(error.diagnostics() if isinstance(error, MitaiError) else str(error)) from None
    log.warning("SIMULATED hardware: this replica proves nothing to a stranger")
    log.info("replica starts", host=config.host, port=config.port)
    app = replica.app(insecure_plaintext=arguments.insecure_plaintext)
    uvicorn.run(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,  # longer than clients keep idle connections, so that none is closed as it is used again
    )


if __name__ == "__main__":
    main()
