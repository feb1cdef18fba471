"""A simulated TDX platform: its own root, its own keys, quotes in Intel's formats byte for byte.

The folder stands for the hardware: whoever has it can issue any quote of this platform. It holds one file,
`platform.json`.

Invariants:

- Nothing in a quote or its collateral asks for special treatment: the one DCAP verifier checks them like Intel's.
- Every certificate says "Simulation" in its name; the root is accepted only where a verifier's policy names it.
- Collateral is signed when the folder is opened and again before it ends; it is never written down.

Example:
    >>> platform = SimPlatform.create(Path("platform"))
    >>> attester = platform.attester(Workload("serve", digest))
    >>> evidence = attester.evidence(claims, nonce)
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mitai.attest.dcap.collateral import Collateral
from mitai.attest.dcap.quote import EnclaveReport, TdReport
from mitai.attest.evidence import NO_DEVICES, Evidence, report_data
from mitai.attest.policy import ReferenceValues
from mitai.attest.sim import intel
from mitai.attest.sim.measure import Workload, event_log, reference_values, registers
from mitai.attest.tdx import measurements
from mitai.errors import AttestError, ParseError

_FILE = "platform.json"
_COLLATERAL_LIFE = timedelta(days=30)  # as Intel's
_COLLATERAL_MARGIN = timedelta(days=7)
_SEALING_LABEL = b"mitai sim sealing key v1\0"


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    authority: intel.StoredAuthority
    attestation_key: bytes
    fuse_secret: bytes


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SimPlatform:
    """A simulated machine."""

    def __init__(self, stored: _Stored, clock: Callable[[], datetime] = _utc_now) -> None:
        self._authority = intel.Authority.load(stored.authority)
        self._attestation_key = intel.load_key(stored.attestation_key)
        self._fuse_secret = stored.fuse_secret
        self._clock = clock
        self._collateral: dict[str, tuple[datetime, Collateral]] = {}

    @staticmethod
    def create(folder: Path, *, clock: Callable[[], datetime] = _utc_now) -> SimPlatform:
        """Make a platform with fresh keys; refuse a folder that already holds one."""
        authority = intel.Authority.generate(clock())
        stored = _Stored(
            version=1,
            authority=authority.stored(),
            attestation_key=intel.dump_key(ec.generate_private_key(ec.SECP256R1())),
            fuse_secret=secrets.token_bytes(32),
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = folder / f".{_FILE}.{secrets.token_hex(8)}"  # a reader sees the whole file or none
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(stored))
                file.flush()
                os.fsync(file.fileno())
            os.link(unfinished, folder / _FILE)
        except FileExistsError as error:
            raise AttestError("attest.sim-exists", f"{folder} already holds a simulated platform") from error
        finally:
            unfinished.unlink()
        return SimPlatform(stored, clock)

    @staticmethod
    def open(folder: Path, *, clock: Callable[[], datetime] = _utc_now) -> SimPlatform:
        """Open a platform; raise `ParseError` where there is none."""
        try:
            stored = msgspec.json.decode((folder / _FILE).read_bytes(), type=_Stored)
            if stored.version != 1:
                raise ParseError("attest.sim-malformed", f"{folder} holds a platform of version {stored.version}")
            return SimPlatform(stored, clock)
        except FileNotFoundError as error:
            raise ParseError("attest.sim-missing", f"{folder} holds no simulated platform") from error
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise ParseError("attest.sim-malformed", f"{folder} holds a damaged simulated platform") from error

    @property
    def root_certificate(self) -> bytes:
        """Return the root certificate, DER."""
        return self._authority.root_certificate

    @property
    def sim_root(self) -> str:
        """Return the root as a policy's `sim_roots` names it: "sha256:" and its fingerprint."""
        return "sha256:" + hashlib.sha256(self.root_certificate).hexdigest()

    def collateral(self, tee: str = "tdx") -> Collateral:
        """Return collateral for this platform (`tdx` or `sgx`) that is current for at least a week."""
        now = self._clock()
        signed_at, collateral = self._collateral.get(tee, (None, None))
        if (
            collateral is None
            or signed_at is None
            or not signed_at <= now <= signed_at + _COLLATERAL_LIFE - _COLLATERAL_MARGIN
        ):
            signed_at = now - timedelta(minutes=5)  # a verifier's clock may be a little behind
            collateral = self._authority.collateral(tee, signed_at, signed_at + _COLLATERAL_LIFE)
            self._collateral[tee] = (signed_at, collateral)
        return collateral

    def quote(self, body: TdReport | EnclaveReport, *, version: int = 4) -> bytes:
        """Issue a quote over any report: what a machine that is in somebody's hands could do."""
        return intel.issue_quote(body, self._attestation_key, self._authority, version=version)

    def attester(self, workload: Workload) -> SimAttester:
        """Return what a process of this workload sees of the platform."""
        return SimAttester(self, workload)

    def derive(self, label: bytes, measured: bytes) -> bytes:
        """Derive 32 bytes from the platform's own secret, a label and measurements."""
        info = _SEALING_LABEL + hashlib.sha384(label).digest() + measured
        return HKDF(SHA384(), 32, salt=None, info=info).derive(self._fuse_secret)


@dataclass(frozen=True)
class SimAttester:
    """The TEE as seen by one measured process."""

    platform: SimPlatform
    workload: Workload
    tee: str = "tdx"

    def evidence(self, claims: bytes, nonce: bytes) -> Evidence:
        """Return fresh evidence; see `Attester`."""
        body = intel.td_report(registers(self.workload), report_data(nonce, claims, NO_DEVICES))
        return Evidence(
            tee=self.tee,
            quote=self.platform.quote(body),
            event_log=event_log(self.workload),
            collateral=self.platform.collateral(),
            claims=claims,
            nonce=nonce,
        )

    def sealing_key(self, label: bytes) -> bytes:
        """Return 32 bytes bound to platform and measurements; see `Attester`."""
        return self.platform.derive(label, b"".join(registers(self.workload)))

    def reference_values(self) -> ReferenceValues:
        """Return what a policy pins for this workload."""
        return reference_values(self.workload)

    def measurements(self) -> dict[str, str]:
        """Return the registers by name, in hex."""
        return measurements(intel.td_report(registers(self.workload), bytes(64)))
