"""Evidence as Confidential Containers' attesters write it, turned into ours.

Follows the evidence of Trustee's attesters `az-snp-vtpm`, `az-tdx-vtpm` and `tpm`: JSON of several versions, with byte
strings as arrays of numbers, hex, base64 or base64url. They sign with RSASSA and SHA-256 and quote SHA-256 registers.

Invariants:

- Nothing is trusted here: what comes out is evidence, for the verifiers to appraise.
- Each byte string has one spelling only; unknown fields and versions are refused.

Example:
    >>> hardware = hardware_of_trustee(evidence_json)
    >>> hardware.tee
    'az-snp-vtpm'
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from mitai.attest.machine import Hardware
from mitai.attest.tpm.composite import MAX_COMPOSITE_BYTES, TpmEvidence
from mitai.attest.tpm.structures import rsassa_signature
from mitai.attest.x509 import parse_chain
from mitai.errors import ParseError
from mitai.wire import parse_json

_CODE = "attest.trustee-evidence-malformed"
_Bytes = str | list[int]


class _Quote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: _Bytes
    signature: _Bytes
    pcrs: tuple[_Bytes, ...]


class _Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int = 0
    quote: _Quote | None = None
    tpm_quote: _Quote | None = None
    report: _Bytes = ""
    hcl_report: _Bytes = ""
    vcek: str = ""
    td_quote: _Bytes = ""
    ak_public: str = ""


def hardware_of_trustee(data: bytes) -> Hardware:
    """Turn Trustee's evidence into ours; raise `ParseError` on anything else."""
    evidence = parse_json(data, _Evidence, MAX_COMPOSITE_BYTES, _CODE, "this is not Trustee's evidence of a TPM")
    quote = evidence.tpm_quote or evidence.quote
    hcl_report = _bytes(evidence.hcl_report or evidence.report)
    if quote is None or evidence.version not in {0, 1, 2}:
        raise ParseError(_CODE, f"this evidence of version {evidence.version} holds no TPM quote")
    if not hcl_report:
        pcrs = tuple(_hex(value) for value in quote.pcrs)
        composite = TpmEvidence(
            quote=_bytes(quote.message),
            signature=_bytes(quote.signature),
            pcrs=pcrs,
            ak_spki=_bytes(evidence.ak_public),
        )
        return Hardware(tee="tpm", quote=composite.encode())
    composite = TpmEvidence(
        quote=_hex(quote.message),
        signature=rsassa_signature(_hex(quote.signature)),
        pcrs=tuple(_hex(value) for value in quote.pcrs),
        hcl_report=hcl_report,
        hardware_quote=_bytes(evidence.td_quote),
    )
    if evidence.td_quote:
        return Hardware(tee="az-tdx-vtpm", quote=composite.encode())
    return Hardware(tee="az-snp-vtpm", quote=composite.encode(), endorsements={"vek": _certificate(evidence.vcek)})


def _hex(value: _Bytes) -> bytes:
    """Read lower-case hex, or an array of numbers."""
    if isinstance(value, list):
        return _numbers(value)
    try:
        data = bytes.fromhex(value)
    except ValueError as error:
        raise ParseError(_CODE, "a byte string of the evidence is not in hex") from error
    if data.hex() != value:
        raise ParseError(_CODE, "a byte string of the evidence is not in lower-case hex")
    return data


def _bytes(value: _Bytes) -> bytes:
    """Read base64 of either alphabet, with or without padding but canonical, or an array of numbers."""
    if isinstance(value, list):
        return _numbers(value)
    text = value.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ParseError(_CODE, "a byte string of the evidence is not in base64") from error
    if base64.b64encode(data).decode().rstrip("=") != text:
        raise ParseError(_CODE, "a byte string of the evidence is not in canonical base64")
    return data


def _numbers(value: list[int]) -> bytes:
    try:
        return bytes(value)
    except ValueError as error:
        raise ParseError(_CODE, "a byte string of the evidence holds a number that is no byte") from error


def _certificate(text: str) -> bytes:
    """Read a VCEK: PEM (version 0), or DER in base64."""
    if not text.startswith("-----BEGIN"):
        return _bytes(text)
    chain = parse_chain(text.encode(), _CODE)
    if len(chain) != 1:
        raise ParseError(_CODE, f"the evidence holds {len(chain)} certificates where one is expected")
    return chain[0].der
