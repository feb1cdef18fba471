"""Fuzz the broker's boundary: any bytes give a value that survives a round trip, or a `ParseError`.

Run: `python tests/fuzz/fuzz_broker_protocol.py [corpus]`.
"""

from __future__ import annotations

import sys

from mitai.broker import protocol
from mitai.errors import ParseError

KINDS = (
    protocol.CommandRequest,
    protocol.Command,
    protocol.Query,
    protocol.QueryHeader,
    protocol.Challenge,
    protocol.ReleaseRequest,
    protocol.ReleaseAnswer,
    protocol.ReceiptsRequest,
    protocol.LeaseRequest,
    protocol.LeaseStatement,
    protocol.LeaseAnswer,
    protocol.DeriveRequest,
    protocol.LineageAnswer,
    protocol.ExportCommand,
    protocol.ExportsAnswer,
    protocol.ExportAnswer,
    protocol.ExportedKey,
    protocol.Recipient,
)


def one_input(data: bytes) -> None:
    """Parse the input as each structure that strangers send."""
    for kind in KINDS:
        try:
            value = protocol.decode(data, kind, 1 << 20)
        except ParseError:
            continue
        if protocol.decode(protocol.encode(value), kind, 1 << 22) != value:
            raise AssertionError(f"{kind} changes when it is written and read again")


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
