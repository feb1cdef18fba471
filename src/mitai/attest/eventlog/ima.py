"""IMA: the kernel's list of every file that it measured, replayed to its PCR and held against an allow-list.

Follows the kernel's documentation ("IMA Template Management Mechanism", "IMA event log") for the templates `ima`,
`ima-ng`, `ima-ngv2`, `ima-sig`, `ima-sigv2` and `ima-buf`, as text and as binary list.

Invariants:

- Every entry's template digest is computed from its fields, and so is the digest that extends the PCR: file name and
  file digest are proven by the replay.
- The list grows while it is read: entries after those that explain the quoted PCR are ignored, never trusted.
- A violation (a file that was changed while it was measured) is refused unless the rules allow it. Nothing measured
  what its entry says, so rules that allow it let any file pass under the name of a listed one.

Example:
    >>> check_ima(log, pcr10, "sha256", ImaRules(files={"/usr/bin/serve": (digest,)}), boot_aggregates)
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from mitai.attest.checks import Reader
from mitai.attest.fields import POLICY_MALFORMED
from mitai.errors import AttestError, ParseError

MAX_IMA_BYTES = 8 << 20
IMA_PCR = 10
BOOT_AGGREGATE = "boot_aggregate"
_CODE = "attest.ima-malformed"
_FIELDS = {  # of each template, what its fields are
    "ima": ("digest", "name"),
    "ima-ng": ("digest", "name"),
    "ima-ngv2": ("digest", "name"),
    "ima-sig": ("digest", "name", "extra"),
    "ima-sigv2": ("digest", "name", "extra"),
    "ima-buf": ("digest", "name", "extra"),
}
_SIZES = {"sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "sm3_256": 32, "md5": 16}
_BANKS = ("sha1", "sha256", "sha384", "sha512")
_TEMPLATE_HASHES = {20: ("sha1",), 32: ("sha256", "sm3"), 48: ("sha384",), 64: ("sha512",)}
_OLD_NAME_BYTES = 256


class ImaRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an IMA list must look like."""

    required: bool = False
    files: dict[
        str, tuple[str, ...]
    ] = {}  # path to file digests in hex; where there are any, nothing else may be measured
    allow_violations: bool = False

    def __post_init__(self) -> None:
        for path, digests in self.files.items():
            for digest in digests:
                if _from_hex(digest) is None or len(digest) // 2 not in _SIZES.values():
                    raise ParseError(POLICY_MALFORMED, f"a digest of {path!r} in [event_log.ima] is no digest in hex")

    @property
    def demanded(self) -> bool:
        """Return whether evidence without a list must be refused."""
        return self.required or bool(self.files)


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One measured file; all zeros in `template_digest` is how the kernel writes a violation."""

    pcr: int
    template_digest: bytes
    content: bytes  # what the template digest covers
    algorithm: str
    digest: bytes
    path: str

    @property
    def violation(self) -> bool:
        """Return whether the kernel could not tell what was read."""
        return not any(self.template_digest)

    def extends(self, bank: str) -> bytes:
        """Return what extends the PCR of a bank: all ones for a violation."""
        if self.violation:
            return b"\xff" * hashlib.new(bank).digest_size
        return hashlib.new(bank, self.content).digest()


def parse_ima(log: bytes) -> tuple[ImaEntry, ...]:
    """Parse a list in text or binary; raise `ParseError` on anything else."""
    if len(log) > MAX_IMA_BYTES:
        raise ParseError(_CODE, f"an IMA list of {len(log)} bytes is above the limit of {MAX_IMA_BYTES}")
    entries = tuple(_binary(log) if log[1:4] == bytes(3) else _text(log))
    for entry in entries:
        names = [n for n in _TEMPLATE_HASHES[len(entry.template_digest)] if n in hashlib.algorithms_available]
        if not entry.violation and entry.template_digest not in (hashlib.new(n, entry.content).digest() for n in names):
            raise ParseError(_CODE, "an entry's template digest is not that of its fields")
    return entries


def _text(log: bytes) -> Iterator[ImaEntry]:
    lines = log.split(b"\n")
    for line in lines if lines[-1] else lines[:-1]:
        pcr, _, rest = line.lstrip(b" ").partition(b" ")
        parts = rest.split(b" ")
        fields = _FIELDS.get(parts[1].decode("latin-1")) if len(parts) > 1 else None
        values = parts[2:]
        if fields is None or not 2 <= len(values) <= len(fields) or not pcr.isdigit() or len(pcr) > 2:
            raise ParseError(_CODE, "a line of the IMA list is not of a known template")
        template = parts[1].decode()
        extra = _hex(values[2]) if len(values) == 3 else b""
        yield _entry(int(pcr), _hex(parts[0]), template, (_digest_field(template, values[0]), values[1] + b"\0", extra))


def _digest_field(template: str, text: bytes) -> bytes:
    if template == "ima":
        return _hex(text)
    name, _, digest = text.rpartition(b":")
    return name + b":\0" + _hex(digest)


def _binary(log: bytes) -> Iterator[ImaEntry]:
    reader = Reader(log, "the IMA list", _CODE)
    while reader.left:
        pcr, template_digest = reader.u32(), reader.take(20)
        template = reader.take(reader.u32()).decode("latin-1")
        if template not in _FIELDS:
            raise ParseError(_CODE, "an entry of the IMA list is of an unknown template")
        if template == "ima":
            yield _entry(pcr, template_digest, template, (reader.take(20), reader.take(reader.u32()) + b"\0", b""))
            continue
        data = Reader(reader.take(reader.u32()), "an entry of the IMA list", _CODE)
        fields = [data.take(data.u32()) for _ in _FIELDS[template]]
        data.end()
        yield _entry(pcr, template_digest, template, (fields[0], fields[1], fields[2] if len(fields) > 2 else b""))


def _entry(pcr: int, template_digest: bytes, template: str, fields: tuple[bytes, bytes, bytes]) -> ImaEntry:
    digest_field, name, extra = fields
    if len(template_digest) not in _TEMPLATE_HASHES or not name.endswith(b"\0") or b"\0" in name[:-1]:
        raise ParseError(_CODE, "an entry of the IMA list has a malformed digest or name")
    if template == "ima":
        if len(name) > _OLD_NAME_BYTES:
            raise ParseError(_CODE, "an entry of the IMA list has a name that is too long")
        algorithm, digest = "sha1", digest_field
        content = digest_field + name.ljust(_OLD_NAME_BYTES, b"\0")
    else:
        head, _, digest = digest_field.partition(b":\0")
        algorithm = head.decode("latin-1").rpartition(":")[2]  # version 2 names the kind of digest first
        parts = (digest_field, name) if len(_FIELDS[template]) == 2 else (digest_field, name, extra)
        content = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    if _SIZES.get(algorithm) != len(digest):
        raise ParseError(_CODE, "an entry of the IMA list has a file digest of an unknown kind")
    return ImaEntry(pcr, template_digest, content, algorithm, digest, name[:-1].decode("utf-8", "backslashreplace"))


def proven_entries(entries: Sequence[ImaEntry], pcr: bytes, bank: str) -> tuple[ImaEntry, ...]:
    """Return the entries, from the first on, that explain the PCR; raise `AttestError` where none do.

    Kernels before 5.8 extend other banks with the SHA-1 template digest, padded with zeros.
    """
    size = len(pcr)
    computed = padded = bytes(size)
    for count in range(len(entries) + 1):
        if pcr in {computed, padded}:
            return tuple(entries[:count])
        if count < len(entries):
            entry = entries[count]
            if entry.pcr != IMA_PCR:
                raise AttestError("attest.ima-register-refused", f"the IMA list extends PCR {entry.pcr}, not {IMA_PCR}")
            sha1 = hashlib.sha1(entry.content, usedforsecurity=False).digest()
            old = b"\xff" * size if entry.violation else sha1.ljust(size, b"\0")
            computed = hashlib.new(bank, computed + entry.extends(bank)).digest()
            padded = hashlib.new(bank, padded + old).digest()
    raise AttestError("attest.ima-mismatch", f"the IMA list does not replay to PCR {IMA_PCR}")


def check_ima(
    log: bytes, pcr: bytes, bank: str, rules: ImaRules, boot_aggregates: Collection[bytes] = ()
) -> tuple[ImaEntry, ...]:
    """Replay a list and hold it against the rules; return the proven entries.

    Args:
        log: The kernel's list, text or binary.
        pcr: The quoted PCR 10.
        bank: Name of its hash.
        rules: What is accepted.
        boot_aggregates: Digests over the boot PCRs that the first entry may name.

    Raises:
        AttestError: `attest.ima-…`.
    """
    entries = proven_entries(parse_ima(log), pcr, bank)
    if rules.demanded and not entries:
        raise AttestError("attest.ima-empty", "the kernel measured no files: IMA is not active")
    if not rules.allow_violations and any(entry.violation for entry in entries):
        raise AttestError(
            "attest.ima-violation", "the IMA list holds a violation: a file changed while it was measured"
        )
    if rules.files:
        check_files(entries, rules.files, boot_aggregates)
    return entries


def check_files(
    entries: Sequence[ImaEntry], files: Mapping[str, Collection[str]], boot_aggregates: Collection[bytes] = ()
) -> None:
    """Raise `AttestError` unless every entry's file is listed with its digest."""
    for number, entry in enumerate(entries):
        if number == 0 and entry.path == BOOT_AGGREGATE and entry.digest in boot_aggregates:
            continue
        if entry.path not in files:
            raise AttestError(
                "attest.ima-file-unknown", f"the kernel measured {entry.path[:200]!r}, which is not listed"
            )
        if entry.digest.hex() not in files[entry.path]:
            raise AttestError("attest.ima-file-mismatch", f"{entry.path[:200]!r} is not the file that is listed")


def boot_aggregates(pcrs: Mapping[int, bytes]) -> frozenset[bytes]:
    """Return what a kernel may have measured first: digests over PCRs 0 to 7 or, in newer ones, 0 to 9."""
    found = set()
    for last in (7, 9):
        if all(number in pcrs for number in range(last + 1)):
            values = b"".join(pcrs[number] for number in range(last + 1))
            found |= {hashlib.new(name, values).digest() for name in _BANKS if _SIZES[name] == len(pcrs[0])}
    return frozenset(found)


def files_of_keylime(runtime_policy: bytes) -> dict[str, tuple[str, ...]]:
    """Return the allow-list of a Keylime runtime policy, without its exclusions: what those leave out is refused."""

    class _RuntimePolicy(msgspec.Struct):
        digests: dict[str, tuple[str, ...]]

    try:
        return msgspec.json.decode(runtime_policy, type=_RuntimePolicy).digests
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError("attest.ima-policy-malformed", "these bytes are not a runtime policy") from error


def _from_hex(text: str) -> bytes | None:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    return data if data.hex() == text else None


def _hex(text: bytes) -> bytes:
    data = _from_hex(text.decode("latin-1"))
    if data is None:
        raise ParseError(_CODE, "a field of the IMA list is not in hex")
    return data
