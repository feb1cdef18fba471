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
import re
import tomllib
from collections.abc import Mapping

import msgspec

from mitai.attest.azure.rules import AzureRules
from mitai.attest.cca.rules import CcaRules
from mitai.attest.csv.rules import CsvRules
from mitai.attest.dcap.roots import INTEL_SGX_ROOT_CA_SHA256
from mitai.attest.dcap.rules import TcbRules
from mitai.attest.eventlog.rules import EventLogRules
from mitai.attest.fields import ANY, POLICY_MALFORMED, check_hex
from mitai.attest.gcp.rules import GcpRules
from mitai.attest.nitro.rules import NitroRules
from mitai.attest.nvidia.rules import NvidiaRules
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sgx.rules import SgxRules
from mitai.attest.snp.rules import SnpRules
from mitai.attest.tdx.rules import TdxRules
from mitai.attest.tpm.rules import TpmRules
from mitai.errors import ParseError

MAX_POLICY_BYTES = 1 << 20
_REGISTER = re.compile(r"[a-z0-9_.]{1,40}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


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


# The registers that reference values must name, by TEE; a register that is to be left open says "any", visibly.
REGISTERS: Mapping[str, tuple[str, ...]] = {
    "tdx": ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"),
    "sgx": ("mrenclave", "mrsigner"),
    "snp": ("measurement",),
    "nitro": ("pcr0", "pcr1", "pcr2"),
    "cca": ("rim",),
    "csv": ("measure",),
    # Beside the paravisor: boot loader, secure boot policy, kernel and initrd (as GRUB, as systemd-stub measures them).
    "az-snp-vtpm": ("snp.measurement", "pcr4", "pcr7", "pcr9", "pcr11"),
    "az-tdx-vtpm": ("tdx.mrtd", "pcr4", "pcr7", "pcr9", "pcr11"),
    "gcp-vtpm": ("pcr4", "pcr7", "pcr9", "pcr11"),
    "tpm": ("pcr4", "pcr7", "pcr9", "pcr11"),
}


class ReferenceValues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The measurements of one build of one workload: hex by register, or "any"."""

    name: str
    registers: dict[str, str]
    tee: str = "tdx"

    def __post_init__(self) -> None:
        if self.tee not in REGISTERS:
            raise ParseError(POLICY_MALFORMED, f"reference values of TEE {self.tee!r}; known: {', '.join(REGISTERS)}")
        missing = [register for register in REGISTERS[self.tee] if register not in self.registers]
        if missing:
            raise ParseError(
                POLICY_MALFORMED, f"the reference values of {self.name!r} leave out {', '.join(missing)} (or say 'any')"
            )
        for register, value in self.registers.items():
            if not _REGISTER.fullmatch(register):
                raise ParseError(POLICY_MALFORMED, "a register is named by a-z, 0-9, dot and underscore")
            check_hex(f"register {register}", value, len(value) // 2, any_allowed=True)

    def mismatch(self, measurements: Mapping[str, str]) -> str | None:
        """Return the name of the first register that differs."""
        for register, value in self.registers.items():
            if value not in {ANY, measurements.get(register)}:
                return register
        return None


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An appraisal policy; strict by default."""

    version: int = 1
    allow_simulation: bool = False
    sim_roots: tuple[str, ...] = ()  # "sha256:" and the fingerprint, or the DER certificate in base64
    tcb: TcbRules = TcbRules()
    tdx: TdxRules = TdxRules()
    sgx: SgxRules = SgxRules()
    snp: SnpRules = SnpRules()
    nitro: NitroRules = NitroRules()
    cca: CcaRules = CcaRules()
    csv: CsvRules = CsvRules()
    tpm: TpmRules = TpmRules()
    azure: AzureRules = AzureRules()
    gcp: GcpRules = GcpRules()
    nvidia: NvidiaRules = NvidiaRules()
    event_log: EventLogRules = EventLogRules()
    claims: ClaimRules = ClaimRules()
    releases: tuple[ReleaseTrust, ...] = ()  # who may add to `workloads`: see `mitai.attest.refvalues.release`
    workloads: tuple[ReferenceValues, ...] = ()

    def __post_init__(self) -> None:
        if self.version != 1:
            raise ParseError(
                "attest.policy-version-unsupported", f"an appraisal policy of version {self.version}, expected 1"
            )
        for root in self.sim_roots:
            _root_fingerprint(root)
        for values in self.workloads:  # an instance's registers: those of its boot chain are others than an enclave's
            if (
                values.tee == "nitro"
                and self.nitro.source == "nitrotpm"
                and not {"pcr4", "pcr7"} <= {*values.registers}
            ):
                raise ParseError(
                    POLICY_MALFORMED, f"the reference values of {values.name!r} on a NitroTPM leave out pcr4 or pcr7"
                )

    @property
    def sha256(self) -> str:
        """Return the digest that names this policy: over every rule spelled out, in hex."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()

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
        own = key if _BARE_KEY.fullmatch(key) else _toml(key)
        name = f"{path}.{own}" if path else own
        if isinstance(value, dict):
            below += ["", f"[{name}]", *_toml_lines(value, name)]
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            for entry in value:
                below += ["", f"[[{name}]]", *_toml_lines(entry, name)]
        elif value is not None:
            lines.append(f"{own} = {_toml(value)}")
    return lines + below


def _toml(value: object) -> str:
    """Write a value: JSON's strings, numbers, booleans and flat lists are TOML's, but for one character to escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
