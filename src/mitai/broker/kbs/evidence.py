"""Evidence as Confidential Containers' attesters write it, turned into ours.

Follows the evidence of Trustee's attesters `tdx`, `sgx`, `snp` (the fields of virtee/sev's report, written as JSON)
and `cca`; those with a TPM are in `mitai.attest.tpm.trustee`.

Invariants:

- Nothing is trusted here: what comes out is evidence, for the verifiers to appraise. A field that is not what the
  hardware signed leaves a report whose signature fails.
- The TEE that the guest named only says how to read; what it is, the verifiers say.
- Unknown fields are refused. A `sample` is no evidence, and no form of it is read.

Example:
    >>> hardware_of("tdx", b'{"quote": "BAACAIEA…", "cc_eventlog": null}').tee
    'tdx'
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.attest.machine import Hardware
from mitai.attest.snp.report import TCB_LAYOUTS
from mitai.attest.tpm.trustee import hardware_of_trustee
from mitai.broker.kbs.messages import MAX_ATTESTATION_BYTES, Tee
from mitai.errors import ParseError
from mitai.wire import T, parse_json

_CODE = "broker.kbs-evidence-malformed"
_TURIN_FAMILY = 0x1A
_U8 = Annotated[int, Meta(ge=0, le=0xFF)]
_Octets = tuple[_U8, ...]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Quote(_Strict, frozen=True):
    quote: bytes
    cc_eventlog: bytes | None = None


class _Token(_Strict, frozen=True):
    token: _Octets


class _Tcb(_Strict, frozen=True):
    bootloader: _U8
    tee: _U8
    snp: _U8
    microcode: _U8
    fmc: _U8 | None = None


class _Version(_Strict, frozen=True):
    major: _U8
    minor: _U8
    build: _U8


class _Signature(_Strict, frozen=True):
    r: _Octets
    s: _Octets


class _Report(_Strict, frozen=True, kw_only=True):
    version: int
    guest_svn: int
    policy: int
    family_id: _Octets
    image_id: _Octets
    vmpl: int
    sig_algo: int
    current_tcb: _Tcb
    plat_info: int
    key_info: int
    report_data: _Octets
    measurement: _Octets
    host_data: _Octets
    id_key_digest: _Octets
    author_key_digest: _Octets
    report_id: _Octets
    report_id_ma: _Octets
    reported_tcb: _Tcb
    cpuid_fam_id: _U8 | None = None
    cpuid_mod_id: _U8 | None = None
    cpuid_step: _U8 | None = None
    chip_id: _Octets
    committed_tcb: _Tcb
    current: _Version
    committed: _Version
    launch_tcb: _Tcb
    launch_mit_vector: int | None = None
    current_mit_vector: int | None = None
    signature: _Signature

    def encode(self) -> bytes:
        """Write the report as the processor did."""
        cpuid = bytes((self.cpuid_fam_id or 0, self.cpuid_mod_id or 0, self.cpuid_step or 0))
        layout = TCB_LAYOUTS["Turin" if self.cpuid_fam_id == _TURIN_FAMILY else "Genoa"]

        def tcb(value: _Tcb) -> bytes:
            return bytes(0 if name is None else getattr(value, name) or 0 for name in layout)

        def firmware(value: _Version) -> bytes:
            return bytes((value.build, value.minor, value.major, 0))

        return b"".join(
            (
                _little(self.version, 4),
                _little(self.guest_svn, 4),
                _little(self.policy, 8),
                _sized(self.family_id, 16),
                _sized(self.image_id, 16),
                _little(self.vmpl, 4),
                _little(self.sig_algo, 4),
                tcb(self.current_tcb),
                _little(self.plat_info, 8),
                _little(self.key_info, 4),
                bytes(4),
                _sized(self.report_data, 64),
                _sized(self.measurement, 48),
                _sized(self.host_data, 32),
                _sized(self.id_key_digest, 48),
                _sized(self.author_key_digest, 48),
                _sized(self.report_id, 32),
                _sized(self.report_id_ma, 32),
                tcb(self.reported_tcb),
                cpuid.ljust(24, b"\0"),
                _sized(self.chip_id, 64),
                tcb(self.committed_tcb),
                firmware(self.current),
                firmware(self.committed),
                tcb(self.launch_tcb),
                _little(self.launch_mit_vector or 0, 8),
                _little(self.current_mit_vector or 0, 8),
                bytes(152),
                _sized(self.signature.r, 72),
                _sized(self.signature.s, 72),
                bytes(368),
            )
        )


class _Certificate(_Strict, frozen=True):
    cert_type: str | dict[str, str]  # a name, or {"OTHER": GUID}
    data: _Octets


class _Snp(_Strict, frozen=True):
    attestation_report: _Report
    cert_chain: tuple[_Certificate, ...] | None = None


def hardware_of(tee: Tee, evidence: bytes) -> Hardware:
    """Turn a guest's primary evidence into ours; raise `ParseError` on anything else."""
    if tee in {"tdx", "sgx"}:
        quote = _parse(evidence, _Quote)
        return Hardware(tee=tee, quote=quote.quote, event_log=quote.cc_eventlog or b"")
    if tee == "snp":
        return _snp(_parse(evidence, _Snp))
    if tee == "cca":
        return Hardware(tee=tee, quote=bytes(_parse(evidence, _Token).token))
    return hardware_of_trustee(evidence)


def _snp(evidence: _Snp) -> Hardware:
    """Take the certificate of the report's key; AMD's own come from AMD."""
    given = {"VCEK": b"", "VLEK": b"", "CRL": b""}
    for entry in evidence.cert_chain or ():
        if isinstance(entry.cert_type, str) and entry.cert_type in given:
            given[entry.cert_type] = bytes(entry.data)
    found = {"vek": given["VCEK"] or given["VLEK"], "crl": given["CRL"]}
    endorsements = {name: data for name, data in found.items() if data}
    return Hardware(tee="snp", quote=evidence.attestation_report.encode(), endorsements=endorsements)


def _sized(octets: _Octets, size: int) -> bytes:
    if len(octets) != size:
        raise ParseError(_CODE, f"a field of an SEV-SNP report has {size} bytes, not {len(octets)}")
    return bytes(octets)


def _little(number: int, size: int) -> bytes:
    if not 0 <= number < 1 << 8 * size:
        raise ParseError(_CODE, f"a number of an SEV-SNP report has {size} bytes")
    return number.to_bytes(size, "little")


def _parse(evidence: bytes, kind: type[T]) -> T:
    return parse_json(evidence, kind, MAX_ATTESTATION_BYTES, _CODE, "the evidence is not as the guest's TEE writes it")
