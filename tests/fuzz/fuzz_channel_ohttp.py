"""Fuzz the openers of Oblivious HTTP: what nobody sealed never opens, and fails with an error of the tree."""

from __future__ import annotations

import sys

from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import CHUNKED, ONE_SHOT, KeyConfig, RequestOpener, RequestSealer
from mitai.errors import ChannelError

RING = KeyRing.generate()
CONFIG = KeyConfig.decode(RING.current_config())
SEALER = RequestSealer(CONFIG)
HEADER = bytes(SEALER.seal(b"", final=True))[:39]


def one_input(data: bytes) -> None:
    form = CHUNKED if len(data) % 2 else ONE_SHOT
    openers = (RequestOpener(RING.find, form), RequestOpener(RING.find, form), SEALER.response_opener())
    for opener, wire in zip(openers, (data, HEADER + data, data), strict=True):
        try:
            for at in range(0, len(wire), 7):
                list(opener.feed(wire[at : at + 7]))
            list(opener.finish())
        except ChannelError:
            continue
        raise AssertionError("something opened that nobody sealed")


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
