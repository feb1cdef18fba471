"""Fuzz statements about derived capsules: any payload gives a statement that is spelled in this one way, or an error.

Run: `python tests/fuzz/fuzz_broker_lineage.py [corpus]`.
"""

from __future__ import annotations

import sys

from mitai.broker.lineage import PAYLOAD_TYPE, Declared, Statement
from mitai.broker.protocol import Origin
from mitai.errors import MitaiError
from mitai.identity import Identity

KEY = Identity.from_seed(bytes(32))
STATEMENT = Statement.build(
    ("c", "1" * 64),
    {"a": "2" * 64, "b": "3" * 64},
    Declared("training", {"method": "sft", "epochs": "3"}),
    Origin("train", {"mrtd": "00ff"}, "4" * 64),
    broker="5" * 64,
    kind="adapter",
    byproducts={"transcript": "6" * 64},
).sign(KEY)
SEEDS = [b"", b"{}", b"\xff", b"[" * 5000, STATEMENT.payload, STATEMENT.payload + b" "]


def one_input(data: bytes) -> None:
    """Sign the input as a statement, and open it."""
    try:
        statement = Statement.open(KEY.sign(data, PAYLOAD_TYPE), KEY.public)
    except MitaiError:
        return
    if statement.sign(KEY).payload != data:
        raise AssertionError("a statement has two spellings")


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
