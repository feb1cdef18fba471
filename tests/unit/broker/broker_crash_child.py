"""The process that `test_broker_crash` kills: it releases one capsule's key again and again, and says so after each answer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from broker_rig import Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.protocol import sha256_hex
from mitai.errors import DeniedError


async def main(folder: Path, sim: Path, capsule: str) -> None:
    rig = Rig(folder, SimPlatform.open(sim))

    async def client() -> None:
        while True:
            request = rig.request(capsule)
            try:
                answer = await rig.broker.release(request.body)
            except DeniedError:
                print("spent", flush=True)
                return
            (key,) = request.open(answer, rig.keyring)
            print(key.ledger_index, sha256_hex(request.body), flush=True)

    await asyncio.gather(*(client() for _ in range(6)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
