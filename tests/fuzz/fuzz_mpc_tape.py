"""Fuzz tapes of the setting 2+1: any bytes give a tape or a refusal, and one that is read is spelled in one way.

Run: `python tests/fuzz/fuzz_mpc_tape.py [corpus]`.
"""

from __future__ import annotations

import io
import sys

from mitai.errors import MpcError
from mitai.mpc.two.pads import MaskedWeight, Plan, Product
from mitai.mpc.two.tape import HEADER, TapeHeader, open_tape

DIGEST = bytes(range(32))
PLAN = Plan(DIGEST, 8, (Product(MaskedWeight((3, 2), 16), 1, 0, 0),))
SEEDS = (
    TapeHeader(0, bytes(16), DIGEST, bytes(16), 2, 0).encode() + bytes(16),
    TapeHeader(1, bytes(16), DIGEST, bytes(16), 2, 8).encode() + bytes(24),
)


def one_input(data: bytes) -> None:
    """Read the input as a tape of either party."""
    for role in (0, 1):
        try:
            header, _ = open_tape(io.BytesIO(data), role, PLAN)
        except MpcError:
            continue
        if header.encode() != data[: HEADER.size]:
            raise AssertionError("a header changes when it is written and read again")


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
