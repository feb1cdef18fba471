"""Reference integrity manifests (RIMs): what NVIDIA says that a driver, a VBIOS or a switch's BIOS measures to.

Follows ISO/IEC 19770-2:2015 (SWID tags) with the attributes of TCG's "Reference Integrity Manifest Information Model",
as NVIDIA fills them: `Meta` names edition, product and version, each `Resource` of the payload one measurement's index
and the values that it may have.

Invariants:

- Everything is read from the tree whose canonical form the signature covers (`mitai.attest.nvidia.xmldsig`).
- No index twice, as many hashes as `alternatives` says, `active` is True or False: anything else is refused.
- A hash stays text: one that is no lower-case hex matches no measurement.

Example:
    >>> rim = parse_rim(data)
    >>> rim.edition, rim.product, rim.version
    ('GPU', 'GH100', '550.90.07')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from mitai.attest.nvidia.certificates import verify_signing_chain
from mitai.attest.nvidia.xmldsig import Element, Signature, find_signature, parse_xml, verify_signed
from mitai.attest.x509 import Certificate, parse_der
from mitai.errors import AttestError, ParseError

_CODE = "attest.nvidia-rim-malformed"
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_TCG = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_NVIDIA = "5703"  # IANA private enterprise number
_NUMBER = re.compile(r"[0-9]{1,4}")
_MAX_ALTERNATIVES = 64
_MAX_CERTIFICATES = 6


@dataclass(frozen=True, slots=True)
class Reference:
    """The values that one measurement may have; an inactive one says nothing."""

    index: int
    active: bool
    size: int
    hashes: frozenset[str]

    def allows(self, measured: bytes) -> bool:
        """Return whether a measurement has one of the values."""
        return len(measured) == self.size and measured.hex() in self.hashes


@dataclass(frozen=True, slots=True)
class Rim:
    """A parsed manifest; nothing in it counts before `verify_rim`."""

    edition: str  # GPU or SWITCH
    product: str  # the chip, such as GH100
    version: str
    references: tuple[Reference, ...]
    root: Element
    signature: Signature
    chain: tuple[Certificate, ...]  # as KeyInfo has it, leaf first

    @property
    def active(self) -> dict[int, Reference]:
        """Return the references that count, by index."""
        return {reference.index: reference for reference in self.references if reference.active}


def parse_rim(data: bytes) -> Rim:
    """Parse a manifest; raise `ParseError` on any form but NVIDIA's."""
    root = parse_xml(data)
    references = parse_references(root)
    meta = _one(root, "Meta")
    values = [meta.get(name) for name in ("edition", "product", "colloquialVersion")]
    makers = {meta.get(name, _TCG) for name in ("PlatformManufacturerId", "FirmwareManufacturerId")}
    if makers != {_NVIDIA}:
        raise ParseError(_CODE, "the manifest does not name NVIDIA as platform and firmware manufacturer")
    edition, product, version = (_text(value, "Meta") for value in values)
    signature = find_signature(root)
    if not 1 <= len(signature.certificates) <= _MAX_CERTIFICATES:
        raise ParseError(_CODE, f"the manifest's chain has {len(signature.certificates)} certificates")
    chain = tuple(parse_der(der, _CODE) for der in signature.certificates)
    return Rim(edition, product, version, references, root, signature, chain)


def parse_references(root: Element) -> tuple[Reference, ...]:
    """Return the payload's measurements; refuse a document that is no SWID tag, or has none."""
    if (root.name.namespace, root.name.local) != (_SWID, "SoftwareIdentity"):
        raise ParseError(_CODE, "the manifest is not a SWID tag")
    payload = _one(root, "Payload")
    references = tuple(_reference(resource) for resource in payload.elements())
    if not references or len({reference.index for reference in references}) != len(references):
        raise ParseError(_CODE, "the manifest has no measurements, or one twice")
    return references


def verify_rim(rim: Rim, root_sha256: str, now: datetime) -> None:
    """Check the manifest's chain up to the given root, and its signature.

    Raises:
        AttestError: `attest.nvidia-rim-root-untrusted`, `-rim-chain-invalid`, `-rim-chain-expired`,
            `-rim-digest-mismatch` or `-rim-signature-invalid`.
    """
    if rim.chain[-1].fingerprint != root_sha256:
        raise AttestError(
            "attest.nvidia-rim-root-untrusted",
            f"the manifest's chain ends in {rim.chain[-1].common_name!r}, which is not trusted",
        )
    verify_signing_chain(rim.chain, "nvidia-rim", now)
    verify_signed(rim.root, rim.signature, rim.chain[0].ec_key)


def _reference(resource: Element) -> Reference:
    if (resource.name.namespace, resource.name.local) != (_SWID, "Resource") or resource.get("type") != "Measurement":
        raise ParseError(_CODE, "the manifest's payload holds something that is not a measurement")
    active = {"True": True, "False": False}.get(resource.get("active") or "")
    alternatives = _number(resource, "alternatives")
    hashes = {name.local: value for name, value in resource.attributes.items() if name.namespace == _SHA384}
    if active is None or not 1 <= alternatives <= _MAX_ALTERNATIVES:
        raise ParseError(_CODE, "a measurement of the manifest is neither active nor inactive, or has no alternatives")
    if set(hashes) != {f"Hash{number}" for number in range(alternatives)}:
        raise ParseError(_CODE, f"a measurement of the manifest has {len(hashes)} hashes, not {alternatives}")
    return Reference(_number(resource, "index"), active, _number(resource, "size"), frozenset(hashes.values()))


def _one(root: Element, local: str) -> Element:
    found = root.find(_SWID, local)
    if len(found) != 1:
        raise ParseError(_CODE, f"the manifest has {len(found)} elements {local}, not one")
    return found[0]


def _number(element: Element, name: str) -> int:
    text = element.get(name) or ""
    if not _NUMBER.fullmatch(text):
        raise ParseError(_CODE, f"a measurement of the manifest has no number {name}")
    return int(text)


def _text(value: str | None, where: str) -> str:
    if not value or len(value) > 64 or not value.isascii() or not value.isprintable():
        raise ParseError(_CODE, f"the manifest's {where} lacks an edition, a product or a version")
    return value
