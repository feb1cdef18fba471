"""Forge evidence as a host could who owns the simulated hardware: `forge.py KIND HOME NONCE_HEX [CLAIMS_FILE]`.

`other-code`: another program's measurement under the platform's own root. `other-root`: the right program on simulated
hardware that the user's policy does not name. Prints the bundle.
"""

import sys
import tempfile
from pathlib import Path

import msgspec

from mitai.attest import Claims
from mitai.attest.sim import SimPlatform, Workload, installed_workload
from mitai.channel.keys import KeyRing


def main() -> None:
    """Print the bundle."""
    kind, home, nonce, claims = sys.argv[1], Path(sys.argv[2]), bytes.fromhex(sys.argv[3]), Path(sys.argv[4])
    key_config = KeyRing.generate().current_config()
    mine = msgspec.structs.replace(Claims.decode(claims.read_bytes()), key_config=key_config).encode()
    code = installed_workload("serve")
    if kind == "other-code":
        sim = SimPlatform.open(home / "platform" / "sim")
        code = Workload("serve", bytes(31) + bytes([code.digest[0] ^ 1]))
    else:
        sim = SimPlatform.create(Path(tempfile.mkdtemp()) / "sim")
    sys.stdout.buffer.write(sim.attester(code).evidence(mine, nonce).encode())


main()
