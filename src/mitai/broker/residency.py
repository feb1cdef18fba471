"""Where machines stand: auditors' signed statements about hardware, for the owners who trust them.

Follows `docs/spec/residency.md`. No evidence says where a machine is; somebody who stood before it may.

Invariants:

- A statement names machines by what verified evidence proves of their hardware. A machine without that stands nowhere.
- Whoever signed is part of the fact. The broker trusts no auditor: owners' policies name those whom they trust.
- Before its beginning and from its end on, a statement says nothing. It has one spelling: any changed byte is refused.

Example:
    >>> document = sign_residency(Residency("DE", begin, end), [machine.platform], auditor)
    >>> read_residency(document).facts(machine.platform, now)
    ('5f1c…=DE',)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta

from mitai.attest.refvalues.statement import PAYLOAD_TYPE, STATEMENT_V1, Statement, Subject
from mitai.broker.protocol import Key32, Wire, encode, sha256_hex
from mitai.errors import MitaiError, ParseError
from mitai.identity import Envelope, Identity, PublicKey
from mitai.wire import parse_json

PREDICATE_TYPE = "https://mitai.dev/predicate/residency/v1"
MAX_DOCUMENT_BYTES = 1 << 20
_MALFORMED = "broker.residency-malformed"
_Moment = Annotated[datetime, Meta(tz=True)]
_Machines = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[a-z]+(-[a-z]+)*:([0-9a-f]{2}){16,128}\Z")], ...],
    Meta(min_length=1, max_length=1024),
]
logger = structlog.get_logger("mitai.broker")


class Residency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The predicate: where machines stand, and for how long that may be believed."""

    country: Annotated[str, Meta(pattern=r"^[A-Z]{2}\Z")]  # ISO 3166-1, such as DE
    not_before: _Moment
    not_after: _Moment
    zone: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._ -]{0,63})?\Z")] = ""  # in the auditor's words


class Document(Wire, frozen=True):
    """A statement as it travels, with the key that signed it."""

    public_key: Key32
    statement: Envelope


@dataclass(frozen=True)
class Audited:
    """What an auditor says about machines."""

    auditor: str  # key id
    said: Residency
    machines: tuple[str, ...]

    def facts(self, platform: str, now: datetime) -> tuple[str, ...]:
        """Return what policies see of this for a machine: `AUDITOR=COUNTRY`, and with a zone `AUDITOR=COUNTRY/ZONE`."""
        if platform not in self.machines or not self.said.not_before <= now < self.said.not_after:
            return ()
        country = f"{self.auditor}={self.said.country}"
        return (country, f"{country}/{self.said.zone}") if self.said.zone else (country,)


def sign_residency(said: Residency, machines: Sequence[str], auditor: Identity) -> bytes:
    """Return an auditor's statement about machines; raise `ParseError` where nobody could read it."""
    subjects = tuple(_subject(machine) for machine in machines)
    statement = Statement(STATEMENT_V1, PREDICATE_TYPE, subjects, msgspec.Raw(msgspec.json.encode(said)))
    signed = auditor.sign(msgspec.json.encode(statement), PAYLOAD_TYPE)
    document = encode(Document(public_key=auditor.public.raw, statement=signed))
    read_residency(document)
    return document


def read_residency(data: bytes) -> Audited:
    """Read a statement.

    1. It is a document in its one spelling.
    2. The key that it holds signed it, and nobody else.
    3. It is a statement of type residency, version 1, about named machines, and ends after it begins.

    Raises:
        MitaiError: At the first of these that does not hold.
    """
    # 1
    document = parse_json(data, Document, MAX_DOCUMENT_BYTES, _MALFORMED, "these bytes are no statement of residency")
    auditor = PublicKey(document.public_key)
    if encode(document) != data or [signature.keyid for signature in document.statement.signatures] != [auditor.key_id]:
        raise ParseError(_MALFORMED, "the statement is not spelled as it was signed, or has other signatures too")
    # 2
    statement = Statement.decode(document.statement.open(PAYLOAD_TYPE, auditor))
    # 3
    if (statement.kind, statement.predicate_type) != (STATEMENT_V1, PREDICATE_TYPE):
        raise ParseError(_MALFORMED, f"the signed statement is of type {statement.predicate_type[:120]!r}")
    wrong = (
        "country (two capital letters), times or zone (letters, digits, '.', '_', '-', spaces) are not as they must be"
    )
    said = parse_json(statement.predicate, Residency, MAX_DOCUMENT_BYTES, _MALFORMED, wrong)
    machines = tuple(subject.name for subject in statement.subject)
    try:
        msgspec.convert(machines, _Machines)
    except msgspec.ValidationError:
        raise ParseError(_MALFORMED, "it names no machines, or not as evidence does: KIND:HEX") from None
    if statement.subject != tuple(map(_subject, machines)) or said.not_after <= said.not_before:
        raise ParseError(_MALFORMED, "a machine's digest is another's, or it ends before it begins")
    return Audited(auditor.key_id, said, machines)


def residency_facts(folder: Path, platform: str, now: datetime) -> tuple[str, ...]:
    """Return what all statements in a folder (`*.json`) say of a machine.

    They are looked at each time, as they are renewed while a broker runs. What can't be read is logged, and left out.
    """
    found: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        try:
            found.update(_read(path.read_bytes()).facts(platform, now))
        except (MitaiError, OSError) as error:
            logger.warning("statement of residency", file=path.name, code=getattr(error, "code", type(error).__name__))
    return tuple(sorted(found))


_read = lru_cache(maxsize=64)(read_residency)


def _subject(machine: str) -> Subject:
    return Subject(machine, {"sha256": sha256_hex(machine.encode())})
