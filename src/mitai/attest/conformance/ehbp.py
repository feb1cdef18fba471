"""Stage `verify-ehbp-key-binding`: the key that a server offers is the one that its report data names.

Report data is 64 bytes: SHA-256 of the TLS key, then the HPKE public key.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.attest.conformance.outcome import Outcome, Rejected, run_stage

_KEY_DIGITS = 64


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: str
    report_data_hex: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{128}\Z")]
    offered_hpke_public_key_hex: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]


def run(data: bytes) -> Outcome:
    """Stage `verify-ehbp-key-binding`."""
    return run_stage("verify-ehbp-key-binding", data, _Input, _appraise)


def _appraise(given: _Input) -> dict[str, object]:
    report_data = given.report_data_hex.lower()
    tls_key, attested = report_data[:_KEY_DIGITS], report_data[_KEY_DIGITS:]
    if given.offered_hpke_public_key_hex.lower() != attested:
        raise Rejected("EHBP_KEY_BINDING_MISMATCH")
    return {"attested_hpke_public_key_hex": attested, "tls_fingerprint_hex": tls_key}
