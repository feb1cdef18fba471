"""Fuzz statements of where machines stand: any bytes give a statement in its one spelling, or an error of the tree.

Run: `python tests/fuzz/fuzz_broker_residency.py [corpus]`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import msgspec

from mitai.attest.refvalues.statement import PAYLOAD_TYPE
from mitai.broker.protocol import encode
from mitai.broker.residency import Document, Residency, read_residency, sign_residency
from mitai.errors import MitaiError
from mitai.identity import Identity

AUDITOR = Identity.from_seed(bytes(32))
BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
DOCUMENT = sign_residency(Residency("DE", BEGIN, END, "hall 3"), ["amd-chip:" + "a1" * 64], AUDITOR)
PAYLOAD = msgspec.json.decode(DOCUMENT, type=Document).statement.payload
SEEDS = [b"", b"{}", b"\xff", b"[" * 5000, DOCUMENT, DOCUMENT + b" ", PAYLOAD, PAYLOAD[:-1]]


def one_input(data: bytes) -> None:
    """Read the input as a document, and as what an auditor signed."""
    signed = encode(Document(public_key=AUDITOR.public.raw, statement=AUDITOR.sign(data, PAYLOAD_TYPE)))
    for document in (data, signed):
        try:
            found = read_residency(document)
        except MitaiError:
            continue
        before = datetime.min.replace(tzinfo=UTC)
        if not found.machines or found.facts("", found.said.not_before) or found.facts(found.machines[0], before):
            raise AssertionError("a statement says something of no machine, or before its time")


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
