"""`python -m mitai.broker --config broker.toml`: run the key broker."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

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
from mitai.broker.leadership import Leadership
from mitai.broker.protocol import MAX_COMMAND_BYTES
from mitai.broker.service import Broker, Settings
from mitai.broker.standby import StandBy
from mitai.broker.store import is_shared
from mitai.channel import KeyRing, Limits
from mitai.channel.memory import keep_freed_memory
from mitai.errors import MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.workload import Workload

WORKLOAD = "broker"
_HTTP: dict[str, Any] = {
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "http": "h11",  # it bounds a request's head (64 KiB); uvicorn's other parser keeps whatever a client sends
}


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
        if is_shared(config.state):
            return replicated(attester, policy, config)
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
        uvicorn.run(build_app(broker, attester, policy, config), host=config.host, port=config.port, **_HTTP)
    except MitaiError as error:  # what was asked for does not fit together
        print(error.diagnostics(), file=sys.stderr)  # noqa: T201
        return 1
    finally:
        broker.close()
    return 0


def replicated(attester: Attester, policy: Policy, config: Config) -> int:
    """Run one of several processes on a database that all of them reach; see `standby`."""

    @asynccontextmanager
    async def serving(broker: Broker) -> AsyncIterator[ASGIApp]:
        keyring = KeyRing.generate(config.kem)
        async with rotating(keyring, config.rotate_s):
            yield build_app(broker, attester, policy, config, keyring)

    def stop() -> None:
        server.should_exit = True

    leadership = Leadership(config.state)
    app = StandBy(leadership, partial(_open, config.settings(), attester, policy), serving, stop)
    server = uvicorn.Server(uvicorn.Config(app, host=config.host, port=config.port, **_HTTP))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after uvicorn's own shutdown
    with suppress(KeyboardInterrupt):
        server.run()
    if app.failure is not None:
        print(app.failure.diagnostics(), file=sys.stderr)  # noqa: T201
    return 1 if app.failure else 0


def _open(settings: Settings, attester: Attester, policy: Policy, leads: Callable[[], bool]) -> Broker:
    return Broker.open(settings, attester, policy, leads=leads)


def build_app(
    broker: Broker, attester: Attester, policy: Policy, config: Config, keyring: KeyRing | None = None
) -> ASGIApp:
    """Return the whole process's app: evidence and ledger in the clear, the rest behind the channel.

    The channel's keys (made when not given) are replaced for as long as the app's lifespan lasts.
    """
    keyring = keyring or KeyRing.generate(config.kem)
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

    def lifespan(_app: Starlette) -> AbstractAsyncContextManager[None]:
        return rotating(keyring, config.rotate_s)

    workload = Workload(attester, keyring, claims)
    public = public_routes(broker, Path(config.publish))
    if config.kbs:
        services = PUBLIC if config.kbs_pccs is None else Services.behind_pccs(config.kbs_pccs)
        public += kbs_routes(Kbs(broker, Endorser(services)))
    return workload.app(
        create_app(broker, lifespan), public, limits=Limits(request_bytes=MAX_COMMAND_BYTES + (1 << 20))
    )


@asynccontextmanager
async def rotating(keyring: KeyRing, every_s: float) -> AsyncIterator[None]:
    """Replace the channel's key every so often."""
    task = asyncio.create_task(_rotate(keyring, every_s))
    try:
        yield
    finally:
        task.cancel()


async def _rotate(keyring: KeyRing, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        keyring.rotate()


if __name__ == "__main__":
    sys.exit(main())
