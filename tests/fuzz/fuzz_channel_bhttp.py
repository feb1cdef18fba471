"""Fuzz the Binary HTTP decoder: events or an error of the tree, and the same whatever the pieces."""

from __future__ import annotations

import sys

from mitai.channel.bhttp import Decoder, Event, Limits
from mitai.errors import MitaiError

LIMITS = Limits(content_bytes=1000, head_bytes=500, fields=8, informational=3)
Result = str | tuple[list[Event], bytes]


def parse(data: bytes, step: int) -> Result:
    decoder = Decoder("request" if data[:1] in (b"\x00", b"\x02") else "response", LIMITS)
    try:
        pieces = (data[at : at + step] for at in range(0, len(data), step))
        events = [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()
    except MitaiError as error:
        return error.code
    content = b"".join(event for event in events if isinstance(event, memoryview))
    return [event for event in events if not isinstance(event, memoryview)], content


def one_input(data: bytes) -> None:
    whole, bytewise = parse(data, max(len(data), 1)), parse(data, 1)
    if whole != bytewise:
        raise AssertionError("pieces changed the meaning of a message")


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
