"""What `test_broker_rotation` kills: it rotates the root key and ends itself at the step that it is told."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker_rig import BROKER, Rig
from mitai.attest.sim import SimPlatform
from mitai.broker import rotation
from mitai.broker.keys import Keys
from mitai.broker.store import Database


def dies(function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return the function, which kills this process before or after its work."""

    def dying(*arguments: object, **named: object) -> object:
        if after:
            function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    return dying


def main(folder: Path, sim: Path, step: str) -> None:
    rig = Rig(folder, SimPlatform.open(sim))
    if step == "before":
        rotation.Resealing._seal_blobs = dies(rotation.Resealing._seal_blobs, after=True)
    elif step == "ahead":
        rotation.Resealing.ahead = dies(rotation.Resealing.ahead, after=True)
    elif step == "switching":  # everything is written, nothing committed
        rotation.Resealing.digest = dies(rotation.Resealing.digest, after=True)
    elif step == "switched":  # committed, and not known to anybody in this process
        Database.use = dies(Database.use, after=False)
    Keys(rig.broker, rig.sim.attester(BROKER), rig.policy).rotate()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
