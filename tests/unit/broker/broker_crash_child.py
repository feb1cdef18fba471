"""The process that `test_broker_crash` kills: it releases a key again and again, and says so after each answer."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.protocol import sha256_hex
from mitai.errors import DeniedError


def say(line: str) -> None:
    """Write one whole line at once."""
    os.write(1, f"{line}\n".encode())


async def main(folder: Path, sim: Path, capsule: str) -> None:
    rig = Rig(folder, SimPlatform.open(sim))

    async def client() -> None:
        while True:
            request = rig.request(capsule)
            try:
                answer = await rig.broker.release(request.body)
            except DeniedError:
                say("spent")
                return
            (key,) = request.open(answer, rig.keyring)
            say(f"{key.ledger_index} {sha256_hex(request.body)}")

    await asyncio.gather(*(client() for _ in range(6)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
