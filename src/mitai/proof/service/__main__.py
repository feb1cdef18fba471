"""Run the server of a service: `python -m mitai.proof.service --config service.toml`, the state's key on its input."""

from __future__ import annotations

import argparse
from pathlib import Path

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from mitai.errors import MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.proof.service.app import create_service
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.sealed import read_key
from mitai.proof.service.state import database_refuses

log = structlog.get_logger("mitai.proof.service")
_MAX_CONNECTIONS = 512


def main() -> None:
    """Serve until told to stop; exit 1 with the reason when the service can't start."""
    parser = argparse.ArgumentParser(prog="python -m mitai.proof.service", description="Answers with a proof: the API.")
    parser.add_argument("--config", type=Path, required=True, help="a TOML file; see docs/configuration.md")
    arguments = parser.parse_args()
    log_to_stderr()
    forbid_core_dumps()
    try:
        config = ServiceConfig.read(arguments.config)
        app = create_service(config, read_key())
    except (MitaiError, OSError) as error:
        raise SystemExit(error.diagnostics() if isinstance(error, MitaiError) else str(error)) from None
    except SQLAlchemyError as error:  # its words may be a statement's
        raise SystemExit(database_refuses(config, error)) from None
    log.info("service starts", host=config.host, port=config.port)
    uvicorn.run(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,  # longer than clients keep idle connections, so that none is closed as it is used again
        http="h11",  # it bounds a request's head (64 KiB); uvicorn's other parser keeps whatever a client sends
    )


if __name__ == "__main__":
    main()
