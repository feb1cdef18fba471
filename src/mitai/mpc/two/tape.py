"""Tapes: what a party keeps of the dealer's work for one run, to be read once (`docs/spec/mpc.md`, "Tapes").

A tape is a header, the party's halves of products with weights, and, at party 1, its halves of all that is given. It is
secret: with the other party's messages it tells what the run computes. Whoever stores it encrypts it, and makes sure
that it is gone before it is used: the two runs of a tape used twice tell how their secrets differ.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from mitai.errors import MpcError
from mitai.mpc.two.pads import Plan, Source, TapePads

MAGIC = b"mitai-mpc-tape-1"
HEADER = struct.Struct("<16sB16s32s16sQQ")


@dataclass(frozen=True)
class TapeHeader:
    """What a tape begins with.

    Attributes:
        role: Whose it is: 0 or 1.
        run: A random number that both parties' tapes of one run have.
        digest: The plan's.
        key: The seed of this party's randomness in this run.
        product_words: The length of the products, in words of 8 bytes.
        corrections: The length of what is given, in bytes.
    """

    role: int
    run: bytes
    digest: bytes
    key: bytes
    product_words: int
    corrections: int

    def __repr__(self) -> str:
        return f"TapeHeader(role={self.role}, run={self.run.hex()})"

    def encode(self) -> bytes:
        """Return its bytes."""
        return HEADER.pack(MAGIC, self.role, self.run, self.digest, self.key, self.product_words, self.corrections)

    @classmethod
    def decode(cls, data: bytes) -> TapeHeader:
        """Read one.

        Raises:
            MpcError: `mpc.tape-damaged`.
        """
        if len(data) != HEADER.size or not data.startswith(MAGIC):
            raise MpcError("mpc.tape-damaged", "this is no tape of a version that is known here")
        _, role, run, digest, key, products, corrections = HEADER.unpack(data)
        if role not in {0, 1}:
            raise MpcError("mpc.tape-damaged", "the tape is no party's")
        return cls(role, run, digest, key, products, corrections)


def open_tape(source: Source, role: int, plan: Plan) -> tuple[TapeHeader, TapePads]:
    """Read the header and products of a party's tape for this plan; the rest is read as the run goes on.

    Raises:
        MpcError: `mpc.tape-damaged`; `mpc.tape-mismatch`: it is another party's, or another program's.
    """
    header = TapeHeader.decode(source.read(HEADER.size))
    if header.role != role or header.digest != plan.digest:
        raise MpcError("mpc.tape-mismatch", "the tape is another party's or another program's")
    if (header.product_words, header.corrections) != (plan.product_words, plan.corrections if role else 0):
        raise MpcError("mpc.tape-damaged", "the tape's lengths are not those of its plan")
    data = source.read(8 * header.product_words)
    if len(data) != 8 * header.product_words:
        raise MpcError("mpc.tape-damaged", "the tape ends before its products do")
    return header, TapePads(role, header.key, np.frombuffer(data, np.uint64), source)
