"""Fuzz EHBP's framing and headers: bodies that nobody sealed never open, and fail with an error of the tree."""

from __future__ import annotations

import contextlib
import sys

from mitai.channel.ehbp import RequestOpener, decode_hex_header
from mitai.channel.frames import FrameReader
from mitai.channel.keys import KeyRing
from mitai.errors import ChannelError, MitaiError

RING = KeyRing.generate()


def one_input(data: bytes) -> None:
    with contextlib.suppress(MitaiError):
        if len(decode_hex_header(data, 32)) != 32:
            raise AssertionError("a header of the wrong length was accepted")
    reader = FrameReader("u32", 100)
    frames = 0
    with contextlib.suppress(ChannelError):
        for at in range(0, len(data), 3):
            frames += sum(1 for _ in reader.feed(data[at : at + 3]))
        reader.finish()
    opener = RequestOpener(RING.live(), data[:32].ljust(32, b"\x01"), limit=100)
    try:
        opener.feed(data[32:])
        opener.finish()
    except ChannelError:
        return
    raise AssertionError("something opened that nobody sealed")


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
