"""`python -m mitai.broker --config broker.toml`: run the key broker."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.types import ASGIApp

from mitai.attest import Attester, Claims, Policy
from mitai.attest.collateral import PUBLIC, Services
from mitai.attester import own_attester
from mitai.broker.app import create_app, public_routes
from mitai.broker.config import Config
from mitai.broker.kbs.app import kbs_routes
from mitai.broker.kbs.endorse import Endorser
from mitai.broker.kbs.messages import VERSION as KBS_VERSION
from mitai.broker.kbs.sessions import Kbs
from mitai.broker.protocol import MAX_COMMAND_BYTES
from mitai.broker.service import Broker
from mitai.channel import KeyRing, Limits
from mitai.channel.memory import keep_freed_memory
from mitai.errors import MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.workload import Workload

WORKLOAD = "broker"


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mitai.broker", description="Run the key broker.")
    parser.add_argument("--config", type=Path, required=True, help="a TOML file; see mitai.broker.config")
    log_to_stderr()
    forbid_core_dumps()
    keep_freed_memory()
    try:
        config = Config.read(parser.parse_args(arguments).config)
        policy = Policy.from_toml(Path(config.policy).read_text())
        attester = own_attester(WORKLOAD, sim=config.sim)
        broker = Broker.open(config.settings(), attester, policy)
    except MitaiError as error:
        print(error.diagnostics(), file=sys.stderr)  # noqa: T201 - what the operator sees
        return 1
    except (OSError, UnicodeError) as error:
        print(f"the broker can't start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (SQLAlchemyError, sqlite3.Error) as error:
        why = getattr(error, "orig", None) or type(error).__name__  # its own words quote statements
        print(f"the broker can't start: its database can't be opened or written ({why})", file=sys.stderr)  # noqa: T201
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after uvicorn's own shutdown; then `finally`
    try:
        app = build_app(broker, attester, policy, config)
        uvicorn.run(
            app,
            host=config.host,
            port=config.port,
            log_config=None,
            access_log=False,
            server_header=False,
            http="h11",  # it bounds a request's head (64 KiB); uvicorn's other parser keeps whatever a client sends
        )
    except MitaiError as error:  # what was asked for does not fit together
        print(error.diagnostics(), file=sys.stderr)  # noqa: T201
        return 1
    finally:
        broker.close()
    return 0


def build_app(broker: Broker, attester: Attester, policy: Policy, config: Config) -> ASGIApp:
    """Return the whole process's app: evidence and ledger in the clear, the rest behind the channel."""
    keyring = KeyRing.generate(config.kem)
    policy_sha256 = policy.sha256
    kbs_claim = {"kbs": KBS_VERSION} if config.kbs else {}

    def claims() -> Claims:
        return Claims(
            workload=WORKLOAD,
            key_config=keyring.current_config(),
            policies=(policy_sha256,),
            ledger=broker.ledger_claim(),
            extra={"witnesses": " ".join(broker.witnesses), "audience": broker.audience, **kbs_claim},
        )

    @asynccontextmanager
    async def rotating(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_rotate(keyring, config.rotate_s))
        yield
        task.cancel()

    workload = Workload(attester, keyring, claims)
    public = public_routes(broker, Path(config.publish))
    if config.kbs:
        services = PUBLIC if config.kbs_pccs is None else Services.behind_pccs(config.kbs_pccs)
        public += kbs_routes(Kbs(broker, Endorser(services)))
    return workload.app(
        create_app(broker, rotating), public, limits=Limits(request_bytes=MAX_COMMAND_BYTES + (1 << 20))
    )


async def _rotate(keyring: KeyRing, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        keyring.rotate()


if __name__ == "__main__":
    sys.exit(main())
