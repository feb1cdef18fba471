"""The appraisal policy: what a verifier accepts, as a small TOML file.

The format is written down in `docs/spec/appraisal-policy.md`.

Invariants:

- What is not allowed is refused: a policy made without arguments accepts no simulation, no debug mode, no outdated
  platform, no advisory and, without reference values, no workload.
- Unknown keys, unknown versions and malformed values are refused when the policy is read, not when it is used.
- Whether a simulated root is accepted is decided here alone.

Example:
    >>> policy = Policy.from_toml(Path("policy.toml").read_text())
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import tomllib
from collections.abc import Mapping

import msgspec

from mitai.attest.dcap.quote import INTEL_QE_VENDOR
from mitai.attest.dcap.roots import INTEL_SGX_ROOT_CA_SHA256
from mitai.attest.dcap.tcb import TcbStatus
from mitai.attest.fields import ANY, POLICY_MALFORMED, check_hex
from mitai.errors import ParseError

MAX_POLICY_BYTES = 1 << 20

_ZERO_48 = "00" * 48


class TcbRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How current the platform must be."""

    accepted_statuses: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    accepted_advisories: tuple[str, ...] = ()  # every reported advisory must be listed; "any" accepts all
    min_evaluation_number: int = 0  # Intel's tcbEvaluationDataNumber, of TCB info and QE identity
    collateral_grace_s: int = 0  # how long TCB info, QE identity and CRLs may be past their end

    def __post_init__(self) -> None:
        if self.min_evaluation_number < 0 or self.collateral_grace_s < 0:
            raise ParseError(POLICY_MALFORMED, "a number in [tcb] is negative")
        if TcbStatus.REVOKED in self.accepted_statuses:
            raise ParseError(POLICY_MALFORMED, "a platform that Intel has revoked can't be accepted")


class TdxRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every TD must look like. Masks and registers in the byte order of the quote."""

    td_attributes_required: str = "0000001000000000"  # SEPT_VE_DISABLE
    td_attributes_allowed: str = "000000d000000080"  # SEPT_VE_DISABLE, PKS, KL, PERFMON: no DEBUG, no reserved bit
    xfam_required: str = "0300000000000000"  # FP and SSE
    xfam_allowed: str = "e7db060000000000"  # XFAM_FIXED0 of TDX module 1.x
    mrsignerseam: str = _ZERO_48  # the TDX module is Intel's
    seam_attributes: str = "0000000000000000"
    mrservicetd: str = _ZERO_48  # no service TD, hence no migration
    mrseam: tuple[str, ...] = ()  # allow-list; empty: any that Intel's TCB info accepts
    mrconfigid: str = ANY
    mrowner: str = ANY
    mrownerconfig: str = ANY
    min_tee_tcb_svn: str = "00" * 16  # per component
    qe_vendor_id: str = INTEL_QE_VENDOR.hex()

    def __post_init__(self) -> None:
        for name in ("td_attributes_required", "td_attributes_allowed", "xfam_required", "xfam_allowed"):
            check_hex(name, getattr(self, name), 8)
        for name in ("mrsignerseam", "mrservicetd", "mrconfigid", "mrowner", "mrownerconfig"):
            check_hex(name, getattr(self, name), 48, any_allowed=True)
        for value in self.mrseam:
            check_hex("mrseam", value, 48)
        check_hex("seam_attributes", self.seam_attributes, 8, any_allowed=True)
        check_hex("min_tee_tcb_svn", self.min_tee_tcb_svn, 16)
        check_hex("qe_vendor_id", self.qe_vendor_id, 16)


class SgxRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an SGX enclave must look like; empty lists pin nothing."""

    mrenclave: tuple[str, ...] = ()
    mrsigner: tuple[str, ...] = ()
    isv_prod_id: int | None = None
    min_isv_svn: int = 0
    allow_debug: bool = False

    def __post_init__(self) -> None:
        for value in (*self.mrenclave, *self.mrsigner):
            check_hex("mrenclave or mrsigner", value, 32)


class CapsulePin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A capsule that must be open in the workload, at a given manifest where one is named."""

    id: str
    manifest_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.manifest_sha256 is not None:
            check_hex("manifest_sha256", self.manifest_sha256, 32)


class ClaimRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the claims must say."""

    capsules: tuple[CapsulePin, ...] = ()
    policies: tuple[str, ...] = ()  # digests that must be in force
    ledger_vkey: str | None = None

    def __post_init__(self) -> None:
        if self.ledger_vkey is None and any(pin.manifest_sha256 is None for pin in self.capsules):
            raise ParseError(
                POLICY_MALFORMED,
                "a capsule pinned by its id alone needs ledger_vkey beside it: at another broker others may use the id",
            )


class ReferenceValues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The measurements of one build of one workload, each 48 bytes in hex; "any" leaves a register unpinned."""

    name: str
    mrtd: str
    rtmr0: str
    rtmr1: str
    rtmr2: str
    rtmr3: str

    def __post_init__(self) -> None:
        for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"):
            check_hex(name, getattr(self, name), 48, any_allowed=True)

    def mismatch(self, measurements: Mapping[str, str]) -> str | None:
        """Return the name of the first register that differs."""
        for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"):
            if getattr(self, name) not in {ANY, measurements.get(name)}:
                return name
        return None


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An appraisal policy; strict by default."""

    version: int = 1
    allow_simulation: bool = False
    sim_roots: tuple[str, ...] = ()  # "sha256:" and the fingerprint, or the DER certificate in base64
    tcb: TcbRules = TcbRules()
    tdx: TdxRules = TdxRules()
    sgx: SgxRules = SgxRules()
    claims: ClaimRules = ClaimRules()
    workloads: tuple[ReferenceValues, ...] = ()

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ParseError(
                "attest.policy-version-unsupported", f"an appraisal policy of version {self.version}, expected 1"
            )
        for root in self.sim_roots:
            _root_fingerprint(root)

    def roots(self) -> dict[str, bool]:
        """Return the fingerprint of every trusted root, and whether it is a simulated one."""
        simulated = {_root_fingerprint(root): True for root in self.sim_roots}
        return {**simulated, INTEL_SGX_ROOT_CA_SHA256: False}

    @staticmethod
    def from_toml(text: str) -> Policy:
        """Read a policy; raise `ParseError` on unknown keys, wrong types and malformed values."""
        if len(text) > MAX_POLICY_BYTES:
            raise ParseError(POLICY_MALFORMED, f"a policy of {len(text)} characters is above the limit")
        try:
            return msgspec.convert(tomllib.loads(text), Policy)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
            raise ParseError(POLICY_MALFORMED, f"the appraisal policy is malformed: {error}") from error

    def to_toml(self) -> str:
        """Write the policy with every rule spelled out."""
        return "\n".join(_toml_lines(msgspec.to_builtins(self), "")) + "\n"


def _root_fingerprint(root: str) -> str:
    """Return the fingerprint of a root given as such or as a certificate."""
    if root.startswith("sha256:"):
        fingerprint = root.removeprefix("sha256:")
        check_hex("a simulated root's fingerprint", fingerprint, 32)
        return fingerprint
    try:
        return hashlib.sha256(base64.b64decode(root, validate=True)).hexdigest()
    except (binascii.Error, ValueError) as error:
        raise ParseError(
            POLICY_MALFORMED, "a simulated root is neither 'sha256:' and a fingerprint nor a certificate in base64"
        ) from error


def _toml_lines(table: Mapping[str, object], path: str) -> list[str]:
    """Write scalars and lists of scalars first, then sub-tables, then arrays of tables."""
    lines, below = [], []
    for key, value in table.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            below += ["", f"[{name}]", *_toml_lines(value, name)]
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            for entry in value:
                below += ["", f"[[{name}]]", *_toml_lines(entry, name)]
        elif value is not None:
            # JSON's strings, numbers, booleans and flat lists are TOML's, but for one character that TOML wants escaped
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f"))
    return lines + below
