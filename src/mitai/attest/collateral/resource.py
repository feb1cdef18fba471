"""One thing that a vendor publishes: where it is, what it looks like, and from when until when it may be used.

What is read here decides about keeping and fetching again only. Whether a vendor signed it is decided where it is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from cryptography import x509
from cryptography.x509 import ocsp

from mitai.attest.x509 import parse_chain, parse_der
from mitai.errors import MitaiError, ParseError

Kind = Literal["tcb-info", "qe-identity", "crl", "certificate", "rim", "ocsp", "csv-chain"]
MAX_BODY_BYTES = 4 << 20
MAX_CHAIN_BYTES = 64 << 10
# How long an answer is taken without asking again, although it may say that it holds for longer.
MAX_AGE: dict[str, timedelta] = {
    "tcb-info": timedelta(days=1),
    "qe-identity": timedelta(days=1),
    "crl": timedelta(days=1),
    "ocsp": timedelta(hours=1),
    "rim": timedelta(days=7),
    "certificate": timedelta(days=90),
    "csv-chain": timedelta(days=90),
}
_CODE = "attest.collateral-answer-malformed"
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Resource:
    """What to ask for: a GET, or a POST of `request`. `chain_header` holds the issuer's certificates, where it does."""

    kind: Kind
    url: str
    request: bytes = b""
    media_type: str = ""
    chain_header: str = ""

    @property
    def name(self) -> str:
        """Return the name under which it is kept: over everything that makes the question."""
        parts = (self.kind.encode(), self.url.encode(), self.request)
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer as it came, and when."""

    kind: Kind
    url: str
    body: bytes
    chain: str  # PEM, from the header
    fetched: Moment


class Signed(msgspec.Struct, frozen=True):
    """What Intel signs: the exact bytes of the JSON value, and the signature in hex."""

    signature: str
    tcbInfo: msgspec.Raw = msgspec.Raw()  # noqa: N815 - Intel's names
    enclaveIdentity: msgspec.Raw = msgspec.Raw()  # noqa: N815

    @staticmethod
    def parse(body: bytes, kind: str) -> tuple[str, bytes]:
        """Return the signed text and its signature."""
        try:
            answer = msgspec.json.decode(body, type=Signed)
            text = bytes(answer.tcbInfo if kind == "tcb-info" else answer.enclaveIdentity)
            return text.decode(), bytes.fromhex(answer.signature)
        except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
            raise ParseError(_CODE, f"the {kind} is not what Intel's service answers") from error


class _Dates(msgspec.Struct, frozen=True):
    issueDate: Moment  # noqa: N815
    nextUpdate: Moment  # noqa: N815


class _Rim(msgspec.Struct, frozen=True):
    rim: bytes
    id: str


def window(item: Item) -> tuple[datetime, datetime]:
    """Return when an answer was issued and until when it may be used, as it says itself; refuse what is no such answer.

    Raises:
        ParseError: It is of another form.
    """
    try:
        return _WINDOWS[item.kind](item)
    except (ValueError, TypeError, OverflowError, MitaiError, msgspec.MsgspecError, x509.InvalidVersion) as error:
        raise ParseError(_CODE, f"{item.url} answered something that is no {item.kind}") from error


def rim_document(body: bytes) -> bytes:
    """Return the manifest (XML) in an answer of NVIDIA's service."""
    try:
        return msgspec.json.decode(body, type=_Rim).rim
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(_CODE, "the answer holds no reference manifest") from error


def crl_der(body: bytes) -> bytes:
    """Return a revocation list in DER; some services send it in hex or PEM."""
    text = body.strip()
    if text.startswith(b"-----BEGIN X509 CRL-----"):
        text = b"".join(text.splitlines()[1:-1])
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ParseError(_CODE, "a revocation list is not PEM") from error
    if text[:1] == b"3" and len(text) % 2 == 0:
        try:
            return bytes.fromhex(text.decode("ascii"))
        except ValueError:
            return body
    return body


def _signed(item: Item) -> tuple[datetime, datetime]:
    text, _ = Signed.parse(item.body, item.kind)
    dates = msgspec.json.decode(text, type=_Dates)
    return dates.issueDate, dates.nextUpdate


def _crl(item: Item) -> tuple[datetime, datetime]:
    parsed = x509.load_der_x509_crl(crl_der(item.body))
    if parsed.next_update_utc is None:
        raise ParseError(_CODE, "the revocation list has no end")
    return parsed.last_update_utc, parsed.next_update_utc


def _certificate(item: Item) -> tuple[datetime, datetime]:
    pem = item.body.startswith(b"-----BEGIN")
    chain = parse_chain(item.body, _CODE) if pem else (parse_der(item.body, _CODE),)
    starts = [certificate.parsed.not_valid_before_utc for certificate in chain]
    return max(starts), min(certificate.parsed.not_valid_after_utc for certificate in chain)


def _rim(item: Item) -> tuple[datetime, datetime]:
    if b"SoftwareIdentity" not in rim_document(item.body):
        raise ParseError(_CODE, "the manifest is none")
    return item.fetched, item.fetched + MAX_AGE["rim"]


def _ocsp(item: Item) -> tuple[datetime, datetime]:
    parsed = ocsp.load_der_ocsp_response(item.body)
    end = parsed.next_update_utc
    if end is None:
        raise ParseError(_CODE, "the OCSP response has no end")
    return parsed.this_update_utc, end


def _csv_chain(item: Item) -> tuple[datetime, datetime]:
    if len(item.body) != 2916:  # HSK and CEK
        raise ParseError(_CODE, "the chain is not an HSK and a CEK")
    return item.fetched, item.fetched + MAX_AGE["csv-chain"]


_WINDOWS = {
    "tcb-info": _signed,
    "qe-identity": _signed,
    "crl": _crl,
    "certificate": _certificate,
    "rim": _rim,
    "ocsp": _ocsp,
    "csv-chain": _csv_chain,
}
