"""The endorsement of a report's key: VCEK or VLEK, the chain to AMD's root, the root's revocation list.

Follows "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification" (57230), sections 2 and 3.

Invariants:

- Everything is signed by AMD, below a root that is pinned for one product; where it came from does not matter.
- A certificate is taken for the kind of key that its name and its issuer's name say, and must say what that kind has
  to: a VCEK its chip, a VLEK its cloud, each its product and every component of the TCB that it was derived from.
- AMD gives every VCEK and VLEK the serial number 0, so revocation can only reach the signing keys above them.

Example:
    >>> endorsed = verify_endorsements({"vek": der}, "vcek", now).value
    >>> endorsed.vek.product, endorsed.vek.tcb.hex()
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import ObjectIdentifier, UnrecognizedExtension
from cryptography.x509.oid import NameOID

from mitai.attest.cache import Verified, VerifiedCache
from mitai.attest.snp.report import TCB_LAYOUTS, parse_certificate_table
from mitai.attest.snp.roots import Trust, published
from mitai.attest.x509 import Certificate, RevocationList, parse_chain, parse_der, verify_chain, verify_crl
from mitai.errors import AttestError, ParseError

# `cryptography` warns of each serial number 0, as RFC 5280 forbids it; AMD's are what they are.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive", CryptographyDeprecationWarning)

ENDORSEMENTS = ("vek", "chain", "crl", "certs")
_GUIDS = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "vcek",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "vlek",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ask",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ark",
    "92f81bc3-5811-4d3d-97ff-d19f88dc67ea": "crl",
}
_ORGANIZATION = "Advanced Micro Devices"
_MALFORMED = "attest.snp-vek-malformed"
_CHAIN_MALFORMED = "attest.snp-chain-malformed"
_OID = "1.3.6.1.4.1.3704.1."
_STRUCTURE_VERSION, _PRODUCT_NAME, _HARDWARE_ID, _CSP_ID = "1", "2", "4", "5"
_SPL = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_CHIP_ID_BYTES = {"Milan": 64, "Genoa": 64, "Turin": 8}
_STRUCTURE = {"Milan": 0, "Genoa": 0, "Turin": 1}
_OTHER_NAMES = {"Bergamo": "Genoa", "Siena": "Genoa"}


@dataclass(frozen=True, slots=True)
class Vek:
    """What AMD says of the key that signs reports."""

    certificate: Certificate
    kind: str  # `vcek` or `vlek`
    product: str
    tcb: bytes  # TCB_VERSION that the key was derived from
    chip_id: bytes | None  # of a VCEK
    csp_id: str | None  # of a VLEK: whom AMD made it for


@dataclass(frozen=True, slots=True)
class Endorsed:
    """A verified endorsement."""

    vek: Vek
    crl: RevocationList | None


def verify_endorsements(
    endorsements: Mapping[str, bytes],
    signing_key: str,
    now: datetime,
    *,
    trust: Trust | None = None,
    cache: VerifiedCache | None = None,
) -> Verified[Endorsed]:
    """Verify a VCEK or VLEK up to AMD's root, and the root's revocation list where there is one.

    Args:
        endorsements: `vek` (DER or PEM), `chain` (PEM: ASK or ASVK, ARK), `crl` (DER); or `certs`, the table of an
            extended report, for any of them. Without a chain AMD's published one is taken.
        signing_key: Which key the report names, `vcek` or `vlek`.
        now: Time of the check.
        trust: Which roots are trusted: AMD's.
        cache: Remembers what was verified.
    """
    trust = trust or Trust()
    given = _collect(endorsements, signing_key)
    if cache is None:
        return _verify(given, signing_key, now, trust)
    trusted = repr((sorted(trust.roots.items()), trust.profile)).encode()
    inputs = (given.vek, *given.chain, given.crl or b"", trusted)
    return cache.get(f"snp {signing_key}", inputs, now, lambda: _verify(given, signing_key, now, trust))


@dataclass(frozen=True, slots=True)
class _Given:
    """Endorsements as they came; certificates in DER or PEM, as clouds and hosts hand out either."""

    vek: bytes
    chain: tuple[bytes, ...]  # ASK or ASVK, ARK, in one or two pieces; or nothing
    crl: bytes | None


def _collect(endorsements: Mapping[str, bytes], signing_key: str) -> _Given:
    """Pick the endorsements that a report signed by this key needs; those by name before those in the table."""
    unknown = set(endorsements) - set(ENDORSEMENTS)
    if unknown:
        raise AttestError("attest.snp-endorsement-unknown", f"an SEV-SNP endorsement {min(unknown)[:32]!r} is unknown")
    table = parse_certificate_table(endorsements["certs"]) if "certs" in endorsements else {}
    found = {_GUIDS[guid]: blob for guid, blob in table.items() if guid in _GUIDS}
    vek = endorsements.get("vek") or found.get(signing_key)
    if not vek:
        raise AttestError(
            "attest.snp-vek-missing",
            f"no {signing_key.upper()} certificate came with the report",
            hint="fetch it from AMD's key distribution service for this chip and reported TCB, or from the cloud",
        )
    chain = [found[name] for name in ("ask", "ark") if name in found]
    chain = [endorsements["chain"]] if "chain" in endorsements else chain
    return _Given(vek, tuple(chain), endorsements.get("crl") or found.get("crl"))


def _certificates(code: str, *blobs: bytes) -> tuple[Certificate, ...]:
    parsed: list[Certificate] = []
    for blob in blobs:
        parsed += parse_chain(blob, code) if blob.startswith(b"-----BEGIN") else [parse_der(blob, code)]
    return tuple(parsed)


def _verify(given: _Given, signing_key: str, now: datetime, trust: Trust) -> Verified[Endorsed]:
    chain = _certificates(_MALFORMED, given.vek) + _certificates(_CHAIN_MALFORMED, *given.chain)
    if len(chain) == 1:
        chain += _published_issuers(chain[0])
    if len(chain) != 3:
        raise ParseError(_CHAIN_MALFORMED, "the chain is not three certificates: VCEK or VLEK, ASK or ASVK, ARK")
    product = trust.product(chain[-1])
    verify_chain(chain, "snp", now, trust.profile)
    _check_roles(chain, product, signing_key)
    windows = [(each.parsed.not_valid_before_utc, each.parsed.not_valid_after_utc) for each in chain]
    crl = None
    if given.crl is not None:
        crl = _verify_crl(given.crl, chain, now, trust)
        windows.append((crl.not_before, crl.not_after))
    starts, ends = zip(*windows, strict=True)
    return Verified(Endorsed(_read(chain[0], signing_key, product), crl), max(starts), min(ends))


def _verify_crl(der: bytes, chain: tuple[Certificate, ...], now: datetime, trust: Trust) -> RevocationList:
    crl = verify_crl(der, chain[-1], "snp-crl", trust.profile)
    if not crl.not_before <= now <= crl.not_after:
        raise AttestError(
            "attest.snp-crl-expired",
            f"the revocation list is valid from {crl.not_before:%F %T} to {crl.not_after:%F %T} UTC, "
            f"not on {now:%F %T}",
        )
    for certificate in chain[1:]:
        crl.refuse_revoked(certificate, "attest.snp-intermediate-revoked")
    return crl


def _published_issuers(leaf: Certificate) -> tuple[Certificate, ...]:
    """Return AMD's own ASK or ASVK, and ARK, by the name that the leaf gives its issuer."""
    try:
        name = leaf.parsed.issuer
    except (ValueError, TypeError) as error:
        raise ParseError(_MALFORMED, "the key's certificate has a malformed issuer") from error
    for certificate in published().values():
        if certificate.parsed.subject == name:
            return certificate, published()[f"ARK-{certificate.common_name.rpartition('-')[2]}"]
    raise AttestError("attest.snp-root-untrusted", "no key of AMD's is named as the issuer of the report's key")


def _check_roles(chain: tuple[Certificate, ...], product: str, signing_key: str) -> None:
    """Check that each certificate of the chain is what its place demands, by the names that AMD gives."""
    issuer = f"SEV-{product}" if signing_key == "vcek" else f"SEV-VLEK-{product}"
    expected = (f"SEV-{signing_key.upper()}", issuer, f"ARK-{product}")
    for certificate, name in zip(chain, expected, strict=True):
        if certificate.common_name != name or _organization(certificate) != _ORGANIZATION:
            raise AttestError(
                "attest.snp-role-mismatch",
                f"the certificate {certificate.common_name!r} stands where {name!r} of AMD's is expected",
            )


def _organization(certificate: Certificate) -> str:
    names = certificate.parsed.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _read(leaf: Certificate, signing_key: str, product: str) -> Vek:
    """Read AMD's extensions; the chain has been verified, so they are AMD's words."""
    found = {
        extension.oid.dotted_string.removeprefix(_OID): extension.value.value
        for extension in leaf.parsed.extensions
        if isinstance(extension.value, UnrecognizedExtension) and _is_amd(extension.oid)
    }
    name = _text(found, _PRODUCT_NAME).partition("-")[0]  # with the stepping behind a dash: `Milan-B0`
    if _OTHER_NAMES.get(name, name) != product:
        raise AttestError("attest.snp-product-mismatch", f"the key is for {name[:32]!r}, its root for {product}")
    if _integer(found, _STRUCTURE_VERSION) != _STRUCTURE[product]:
        raise ParseError(_MALFORMED, f"the key's certificate is of another structure than {product} has")
    is_vcek = signing_key == "vcek"
    if (_HARDWARE_ID in found, _CSP_ID in found) != (is_vcek, not is_vcek):
        raise AttestError(
            "attest.snp-vek-identity-missing", "a VCEK names its chip and a VLEK its cloud; this one does not"
        )
    return Vek(
        certificate=leaf,
        kind=signing_key,
        product=product,
        tcb=bytes(_integer(found, _SPL[part]) if part else 0 for part in TCB_LAYOUTS[product]),
        chip_id=_chip_id(found[_HARDWARE_ID], _CHIP_ID_BYTES[product]) if is_vcek else None,
        csp_id=None if is_vcek else _text(found, _CSP_ID),
    )


def _is_amd(oid: ObjectIdentifier) -> bool:
    return oid.dotted_string.startswith(_OID)


def _integer(found: Mapping[str, bytes], oid: str) -> int:
    """Return a DER INTEGER from 0 to 255."""
    value = found.get(oid, b"")
    number = value[-1:]
    short = b"\x02\x01" + number
    long = b"\x02\x02\x00" + number
    if not number or value != (long if number[0] & 0x80 else short):
        raise ParseError(_MALFORMED, f"extension {_OID}{oid} of the key's certificate is not a number below 256")
    return number[0]


def _text(found: Mapping[str, bytes], oid: str) -> str:
    """Return a DER IA5String."""
    value = found.get(oid, b"")
    size = len(value) - 2
    if not 0 <= size < 0x80 or value[:2] != bytes([0x16, size]) or not value.isascii():
        raise ParseError(_MALFORMED, f"extension {_OID}{oid} of the key's certificate is not a short text")
    return value[2:].decode("ascii")


def _chip_id(value: bytes, size: int) -> bytes:
    """Return the chip's id: bare in certificates of older date, a DER OCTET STRING in newer ones."""
    bare = value.removeprefix(bytes([0x04, size])) if len(value) == size + 2 else value
    if len(bare) != size:
        raise ParseError(_MALFORMED, f"the chip id in the key's certificate does not have {size} bytes")
    return bare
