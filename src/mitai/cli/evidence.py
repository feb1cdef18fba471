"""Evidence in files: read, told apart, and completed with what its vendor publishes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from mitai.attest import Collateral, Evidence, Hardware
from mitai.attest.collateral import Bundle, Cache, HttpTransport, Services
from mitai.attest.results import cmw
from mitai.attest.service import EVIDENCE_TYPE, HARDWARE_TYPE
from mitai.attest.tees import guess_tee
from mitai.attest.tpm.trustee import hardware_of_trustee
from mitai.errors import ClientError, ParseError
from mitai.fleet.home import Home
from mitai.identity import PublicKey

MAX_FILE_BYTES = 16 << 20


def read_message(content: bytes, tee: str | None = None) -> Evidence | Hardware:
    """Return the evidence that a file holds; `tee` says whose it is, where that can't be seen."""
    if content[:1] in {b"[", b"{"} and tee is None:
        return _json_message(content)
    return Hardware(tee=tee or guess_tee(content), quote=content)


def _json_message(content: bytes) -> Evidence | Hardware:
    if content[:1] == b"[":
        record = cmw.decode(content)
        if not isinstance(record, cmw.Record) or record.type not in {EVIDENCE_TYPE, HARDWARE_TYPE}:
            raise ParseError(
                "attest.media-type-unsupported", "the wrapper holds no evidence of a kind that is read here"
            )
        return (Evidence if record.type == EVIDENCE_TYPE else Hardware).decode(record.value)
    for read in (Evidence.decode, hardware_of_trustee):  # each refuses what is another's
        with contextlib.suppress(ParseError):
            return read(content)
    return Hardware.decode(content)


def read_collateral(content: bytes) -> Collateral:
    """Return Intel's collateral in our JSON form or in Intel's."""
    try:
        return Collateral.decode(content)
    except ParseError:
        return Collateral.from_quote_collateral_v3(content)


def read_endorsement(text: str) -> tuple[str, bytes]:
    """Return name and content of an option NAME=FILE."""
    name, equals, path = text.partition("=")
    if not equals or not name:
        raise ClientError("client.option-malformed", f"--endorsement {text[:100]!r} is not NAME=FILE")
    return name, read_file(Path(path))


def open_bundle(path: Path, key: str, now: datetime | None = None) -> Bundle:
    """Return the bundle at `path`, signed by the Ed25519 public key `key` (hex), to be used as of `now`."""
    return Bundle.open(read_file(path), PublicKey(from_hex("--bundle-key", key)), lambda: now or datetime.now(UTC))


def network(home: Home) -> Cache:
    """Return the vendors' services behind this user's cache."""
    return Cache(HttpTransport(), home.root / "collateral")


def services(pccs: str | None) -> Services:
    """Return where to ask."""
    return Services.behind_pccs(pccs) if pccs else Services()


def read_file(path: Path, limit_bytes: int | None = None) -> bytes:
    """Return a file's content, up to 16 MiB or another limit."""
    limit_bytes = limit_bytes or MAX_FILE_BYTES
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise ClientError("client.file-unreadable", f"{path} can't be read: {error.strerror}") from error
    if len(content) > limit_bytes:
        raise ClientError("client.file-too-large", f"{path} is larger than {limit_bytes >> 20} MiB")
    return content


def write_file(path: Path, content: bytes) -> None:
    """Write a file, or say why it can't be."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ClientError("client.file-unwritable", f"{path} can't be written: {error.strerror}") from error


def from_hex(option: str, text: str) -> bytes:
    """Return the bytes that an option gives in hex."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ClientError("client.option-malformed", f"{option} is not hex") from None
