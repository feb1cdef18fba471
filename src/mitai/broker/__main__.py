"""`python -m mitai.broker --config broker.toml`: run the key broker."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mitai.attest import Attester, Claims, Policy
from mitai.attest.collateral import PUBLIC, Services
from mitai.attester import own_attester
from mitai.broker.app import create_app, create_recovery_app, public_routes
from mitai.broker.config import Config
from mitai.broker.joining import join, keep_joined
from mitai.broker.kbs.app import kbs_routes
from mitai.broker.kbs.endorse import Endorser
from mitai.broker.kbs.messages import VERSION as KBS_VERSION
from mitai.broker.kbs.sessions import Kbs
from mitai.broker.keys import SHARES, Keys
from mitai.broker.leadership import Leadership
from mitai.broker.protocol import MAX_COMMAND_BYTES
from mitai.broker.recovering import Recovering
from mitai.broker.service import Broker, Settings
from mitai.broker.standby import StandBy
from mitai.broker.store import ROOT_LABEL, Database
from mitai.broker.tables import is_shared
from mitai.broker.vault import Vault
from mitai.channel import KeyRing, Limits
from mitai.channel.memory import keep_freed_memory
from mitai.errors import BrokerError, MitaiError
from mitai.process import forbid_core_dumps, log_to_stderr
from mitai.workload import Workload

WORKLOAD = "broker"
log = structlog.get_logger("mitai.broker")
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
    parser.add_argument("--recover", action="store_true", help="wait for the owners' shares of the root key first")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is a root key to rotate
    log_to_stderr()
    forbid_core_dumps()
    keep_freed_memory()
    try:
        asked = parser.parse_args(arguments)
        config = Config.read(asked.config)
        policy = Policy.from_toml(Path(config.policy).read_text())
        attester = own_attester(WORKLOAD, sim=config.sim)
        if asked.recover and not recover(attester, policy, config):
            return 1
        if is_shared(config.state):
            return replicated(attester, policy, config)
        if config.peers:
            with _database(config, attester) as database:
                join(config.peers, database, attester, policy)
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
        keys = Keys(broker, attester, policy)
        asyncio.run(keys.start(config.plan()))
        app = build_app(broker, attester, policy, config, keys=keys)
        uvicorn.run(app, host=config.host, port=config.port, **_HTTP)
    except (MitaiError, OSError) as error:  # what was asked for does not fit together
        print(error.diagnostics() if isinstance(error, MitaiError) else error, file=sys.stderr)  # noqa: T201
        return 1
    finally:
        broker.close()
    return 0


def replicated(attester: Attester, policy: Policy, config: Config) -> int:
    """Run one of several processes on a database that all of them reach; see `standby`."""

    @asynccontextmanager
    async def serving(broker: Broker) -> AsyncIterator[ASGIApp]:
        keyring = KeyRing.generate(config.kem)
        keys = Keys(broker, attester, policy)
        await keys.start(config.plan())
        async with rotating(keyring, config.rotate_s), rotation_on_signal(keys):
            yield build_app(broker, attester, policy, config, keyring=keyring, keys=keys)

    def stop() -> None:
        server.should_exit = True

    leadership = Leadership(config.state)
    app = StandBy(leadership, partial(_open, config.settings(), attester, policy), serving, stop)
    server = uvicorn.Server(uvicorn.Config(app, host=config.host, port=config.port, **_HTTP))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after uvicorn's own shutdown
    with _joining(config, attester, policy), suppress(KeyboardInterrupt):
        server.run()
    if app.failure is not None:
        print(app.failure.diagnostics(), file=sys.stderr)  # noqa: T201
    return 1 if app.failure else 0


def _open(settings: Settings, attester: Attester, policy: Policy, leads: Callable[[], bool]) -> Broker:
    return Broker.open(settings, attester, policy, leads=leads)


@contextmanager
def _database(config: Config, attester: Attester) -> Iterator[Database]:
    """Give the database before its state is opened."""
    database = Database(config.state, Vault(attester.sealing_key(ROOT_LABEL)))
    try:
        yield database
    finally:
        database.engine.dispose()


@contextmanager
def _joining(config: Config, attester: Attester, policy: Policy) -> Iterator[None]:
    """Keep having the newest root key, of whichever process leads."""
    known: list[Database] = []

    def look() -> None:
        known.extend([] if known else [Database(config.state, Vault(attester.sealing_key(ROOT_LABEL)))])
        join(config.peers, known[0], attester, policy)

    end = keep_joined(look) if config.peers else None
    try:
        yield
    finally:
        if end is not None:
            end()


def recover(attester: Attester, policy: Policy, config: Config) -> bool:
    """Serve owners who bring their shares until the root key is back; tell whether it is."""
    with _database(config, attester) as database:
        return _recover(database, attester, policy, config)


def _recover(database: Database, attester: Attester, policy: Policy, config: Config) -> bool:
    if not database.lacks_root():
        raise BrokerError("broker.recovery-needless", "this machine and code can open the state: nothing is to recover")

    def finish() -> None:
        server.should_exit = True

    recovering = Recovering(database, database.document(SHARES), finish)
    keyring, policy_sha256 = KeyRing.generate("x-wing"), policy.sha256
    workload = Workload(attester, keyring, lambda: recovering.claims(keyring.current_config(), policy_sha256))

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok", "role": "recovering"})

    app = workload.app(create_recovery_app(recovering), [Route("/healthz", healthz)])
    server = uvicorn.Server(uvicorn.Config(app, host=config.host, port=config.port, **_HTTP))
    with suppress(KeyboardInterrupt):
        server.run()
    return recovering.done


def build_app(
    broker: Broker,
    attester: Attester,
    policy: Policy,
    config: Config,
    *,
    keyring: KeyRing | None = None,
    keys: Keys | None = None,
) -> ASGIApp:
    """Return the whole process's app: evidence and ledger in the clear, the rest behind the channel.

    The channel's keys (made when not given) are replaced for as long as the app's lifespan lasts.
    """
    keyring, keys = keyring or KeyRing.generate(config.kem), keys or Keys(broker, attester, policy)
    policy_sha256 = policy.sha256
    kbs_claim = {"kbs": KBS_VERSION} if config.kbs else {}

    def claims() -> Claims:
        return Claims(
            workload=WORKLOAD,
            key_config=keyring.current_config(),
            policies=(policy_sha256, *keys.policies),
            ledger=broker.ledger_claim(),
            extra={
                "witnesses": " ".join(broker.witnesses),
                "audience": broker.audience,
                **keys.claims,
                **kbs_claim,
            },
        )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with rotating(keyring, config.rotate_s), rotation_on_signal(keys):
            yield

    workload = Workload(attester, keyring, claims)
    public = public_routes(broker, Path(config.publish))
    if config.kbs:
        services = PUBLIC if config.kbs_pccs is None else Services.behind_pccs(config.kbs_pccs)
        public += kbs_routes(Kbs(broker, Endorser(services)))
    return workload.app(
        create_app(broker, lifespan, keys), public, limits=Limits(request_bytes=MAX_COMMAND_BYTES + (1 << 20))
    )


@asynccontextmanager
async def rotating(keyring: KeyRing, every_s: float) -> AsyncIterator[None]:
    """Replace the channel's key every so often."""
    task = asyncio.create_task(_rotate(keyring, every_s))
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def rotation_on_signal(keys: Keys) -> AsyncIterator[None]:
    """Rotate the root key whenever the machine's operator sends SIGUSR1."""
    tasks: set[asyncio.Task[None]] = set()

    async def rotate() -> None:
        try:
            log.info("root key rotated", epoch=await anyio.to_thread.run_sync(keys.rotate))
        except (MitaiError, SQLAlchemyError) as error:
            log.error("the root key was not rotated", code=getattr(error, "code", type(error).__name__))

    def ask() -> None:
        task = asyncio.create_task(rotate())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop = asyncio.get_running_loop()
    with suppress(RuntimeError, ValueError):  # elsewhere than in the main thread there are no signals
        loop.add_signal_handler(signal.SIGUSR1, ask)
    try:
        yield
    finally:
        with suppress(RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        await asyncio.gather(*tasks)


async def _rotate(keyring: KeyRing, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        keyring.rotate()


if __name__ == "__main__":
    sys.exit(main())
