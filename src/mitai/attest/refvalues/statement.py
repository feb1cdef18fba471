"""in-toto statements: a signed sentence "these artifacts have this property".

Follows in-toto Attestation Framework v1, "Statement layer". Unknown members are refused: a statement that says more
than we read is not understood.

Example:
    >>> statement = Statement.decode(payload)
    >>> statement.predicate_type
    'https://mitai.dev/predicate/release/v1'
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.wire import parse_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_V1 = "https://in-toto.io/Statement/v1"
MAX_STATEMENT_BYTES = 4 << 20


class Subject(msgspec.Struct, frozen=True):
    """An artifact: a name and digests by algorithm, in hex."""

    name: str = ""
    digest: dict[str, str] = {}


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a publisher says about artifacts."""

    kind: str = msgspec.field(name="_type")
    predicate_type: str = msgspec.field(name="predicateType")
    subject: Annotated[tuple[Subject, ...], Meta(max_length=1024)] = ()
    predicate: msgspec.Raw = msgspec.Raw(b"null")

    @staticmethod
    def decode(payload: bytes) -> Statement:
        """Parse a statement; raise `ParseError` on anything else or above 4 MiB."""
        return parse_json(
            payload,
            Statement,
            MAX_STATEMENT_BYTES,
            "attest.statement-malformed",
            "the signed payload is not an in-toto statement",
        )
