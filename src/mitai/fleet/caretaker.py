"""Look after a platform's processes: start again those that died, where that loses nothing.

Invariants:

- A replica that died, or a process of a service of proofs, is started again after a pause of 1 s, which doubles up to a
  minute while it keeps dying within a minute of its start; after `MAX_QUICK_DEATHS` of these the platform ends, with
  its last words.
- Then a replica is told to serve what was deployed last. That is a release: a use by the count of the capsules' owners.
- A broker that was killed beside others is started again at once. When any other process dies, the platform ends.

Example:
    >>> caretaker = Caretaker(platform, print)
    >>> while True:
    ...     caretaker.look()
    ...     time.sleep(0.5)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from mitai.errors import FleetError
from mitai.fleet.platform import Platform, Say
from mitai.fleet.processes import Process
from mitai.fleet.proofs import PROVER, SERVER

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
QUICK_S = 60.0  # who dies sooner after a start has died quickly
MAX_QUICK_DEATHS = 8


@dataclass
class _Deaths:
    """What is remembered of a process that has died."""

    quick: int = 0  # in a row
    started: float = 0.0
    due: float | None = None  # when it is started again


class Caretaker:
    """Looks after one platform; `look` is called again and again.

    Args:
        platform: Its processes.
        say: Tells a person.
        clock: Monotonic seconds.
    """

    def __init__(self, platform: Platform, say: Say, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._platform, self._say, self._clock = platform, say, clock
        self._deaths: dict[str, _Deaths] = {}

    def look(self) -> None:
        """Start again what has died and is due; raise `FleetError` when the platform can't go on."""
        for process in self._platform.dead():
            if process.name.startswith("replica-") or process.name in {SERVER, PROVER}:
                self._again(process)
            elif process.name.startswith("broker-") and process.popen.returncode < 0:
                self._say(f"{process.name} was killed: starting it again")
                self._platform.restart(process.name)
            else:
                raise _died(process)

    def _again(self, process: Process) -> None:
        deaths, now = self._deaths.setdefault(process.name, _Deaths(started=self._clock() - QUICK_S)), self._clock()
        if deaths.due is None:
            deaths.quick = deaths.quick + 1 if now - deaths.started < QUICK_S else 0
            if deaths.quick >= MAX_QUICK_DEATHS:
                raise _died(process)
            pause_s = min(FIRST_PAUSE_S * 2**deaths.quick, LONGEST_PAUSE_S)
            deaths.due = now + pause_s
            self._say(f"{process.name} has stopped (see {process.log}): starting it again in {pause_s:g} s")
        if now < deaths.due:
            return
        deaths.due, deaths.started = None, now
        try:
            self._platform.restart(process.name)
        except FleetError as error:
            self._say(f"{process.name} did not come up: {error.code}")
            return
        if process.name.startswith("replica-"):
            self._deploy(self._platform.processes[process.name])
        else:
            self._say(f"{process.name} is up")

    def _deploy(self, replica: Process) -> None:
        """Tell a replica what was deployed last; whether it may serve that, the broker decides."""
        kept = self._platform.home.deployment
        if not kept.exists():
            return
        address = replica.health.removesuffix("/healthz") + "/control/deploy"
        try:
            status = httpx2.post(address, content=kept.read_bytes(), timeout=10.0).status_code
        except httpx2.HTTPError as error:
            self._say(f"{replica.name} is up, and took no deployment ({type(error).__name__})")
            return
        self._say(f"{replica.name} is up" + (" and loads what was deployed last" if status == 202 else ""))


def _died(process: Process) -> FleetError:
    return FleetError(
        "fleet.process-died", f"the {process.name} has stopped: {process.last_words()}", hint=f"see {process.log}"
    )
