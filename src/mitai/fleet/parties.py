"""All sides of a secure computation on one machine, each its own process: for trying it.

Who runs all of them can put together what they have, and knows all. What they serve, and to whom, is in their folders
(`mitai.mpc.setup`), which are written before.

Example:
    >>> platform = start(Home.default(), ("p0", "p1", "dealer"), ready)
    >>> sorted(platform.processes)
    ['dealer', 'p0', 'p1']
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mitai.fleet.home import Home
from mitai.fleet.platform import Platform, Say

_LOOK_EVERY_S = 0.2


def start(home: Home, sides: Sequence[str], ready: Callable[[], bool], say: Say = lambda _: None) -> Platform:
    """Start all sides and return when they are ready; stop what was started when one ends.

    Args:
        home: With a folder for each side in `home.parties`.
        sides: Their names.
        ready: Tells whether all parties take questions; it is asked again and again, as a model may take long.
        say: Tells a person.

    Raises:
        FleetError: A process did not come up.
    """
    platform = Platform(home, trust="mpc")
    try:
        for side in sides:
            say(f"starting {side} …")
            arguments = ["mpc", "party", str(home.parties / side)]
            platform.run(side, "mitai.cli", arguments, "")
        say("waiting until the parties have the model …")
        while not ready():
            for process in platform.processes.values():
                process.check()
            time.sleep(_LOOK_EVERY_S)
    except BaseException:
        platform.stop()
        raise
    platform.record()
    return platform
