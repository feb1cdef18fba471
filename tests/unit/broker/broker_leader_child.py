"""The process that `test_broker_leadership` pauses and kills: it releases a key again and again while it leads."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.leadership import Leadership
from mitai.broker.protocol import sha256_hex
from mitai.errors import MitaiError


def say(line: str) -> None:
    """Write one whole line at once."""
    os.write(1, f"{line}\n".encode())


def awaited(leadership: Leadership) -> int:
    """Return the term in which this process leads."""
    while (term := leadership.term()) is None:
        time.sleep(0.01)
    return term


async def main(folder: Path, sim: Path, url: str, capsule: str) -> None:
    leadership = Leadership(url)
    term = await asyncio.to_thread(awaited, leadership)
    rig = Rig(folder, SimPlatform.open(sim), state_url=url)
    rig.broker._writer._leads = lambda: leadership.term() == term
    while True:
        request = rig.request(capsule)
        try:
            answer = await rig.broker.release(request.body)
        except MitaiError as error:
            say(f"refused {error.code}")
            continue
        (key,) = request.open(answer, rig.keyring)
        say(f"{key.ledger_index} {sha256_hex(request.body)}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
