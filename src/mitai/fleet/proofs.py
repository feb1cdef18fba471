"""A service of answers with a proof on one machine: a process that answers, and one that proves.

What they serve, and how much of it, is in a configuration file that is written before (`mitai.proof.service.config`).
What they keep is sealed under a key that is drawn here, and is nowhere but in their memory and this process's.

Example:
    >>> platform = start(Home.default(), Path("service.toml"), 8700)
    >>> sorted(platform.processes)
    ['prover', 'server']
"""

from __future__ import annotations

import secrets
from pathlib import Path

import httpx2
import msgspec

from mitai.bodies import PLAIN, bounded
from mitai.errors import FleetError
from mitai.fleet.home import Home
from mitai.fleet.platform import Platform, Say
from mitai.process import forbid_core_dumps
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.sealed import KEY_BYTES

SERVER, PROVER = "server", "prover"
_MAX_BYTES = 64 << 10


def start(home: Home, config: Path, port: int, say: Say = lambda _: None) -> Platform:
    """Start both and return when the server answers; stop what was started when it does not.

    Args:
        home: Of the platform.
        config: The service's configuration.
        port: That the configuration names.
        say: Tells a person.

    Raises:
        FleetError: A process did not come up.
        ProofError: The configuration is not valid.
    """
    if any(Path(ServiceConfig.read(config).state).glob("*.db")):
        say("answers and proofs of the former run can't be opened any more, and are deleted")
    platform = Platform(home, f"http://127.0.0.1:{port}", trust="proof")
    forbid_core_dumps()  # this process keeps the key, for those that it starts again
    health, state_key = f"{platform.gateway}/healthz", secrets.token_bytes(KEY_BYTES)
    try:
        for name, module, address in (
            (SERVER, "mitai.proof.service", health),
            (PROVER, "mitai.proof.service.worker", ""),
        ):
            say(f"starting {name} …")
            arguments = ["--config", str(config)]
            platform.run(name, module, arguments, address, secret=state_key)
        platform.processes[SERVER].wait_healthy()
        platform.processes[PROVER].check()
    except BaseException:
        platform.stop()
        raise
    platform.record()
    return platform


def counts(address: str) -> dict[str, int]:
    """Return what a service says of its queue.

    Raises:
        FleetError: It does not answer, or not so.
    """
    try:
        with httpx2.stream("GET", f"{address}/healthz", headers=PLAIN, timeout=10.0) as answer:
            return msgspec.json.decode(bounded(answer, _MAX_BYTES) or b"", type=dict[str, int])
    except (httpx2.HTTPError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FleetError(
            "fleet.gateway-unreachable",
            f"the service at {address} does not answer ({type(error).__name__})",
            hint="is it up? mitai status",
        ) from error
