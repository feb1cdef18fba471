"""Fuzz the key configuration parsers: a value that encodes to the same bytes, or an error of the tree."""

from __future__ import annotations

import contextlib
import sys

from mitai.channel.ohttp import KeyConfig, decode_keys
from mitai.errors import MitaiError


def one_input(data: bytes) -> None:
    with contextlib.suppress(MitaiError):
        config = KeyConfig.decode(data)
        if KeyConfig.decode(config.encode()) != config:
            raise AssertionError("a key configuration does not survive its own encoding")
    with contextlib.suppress(MitaiError):
        decode_keys(data)


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
