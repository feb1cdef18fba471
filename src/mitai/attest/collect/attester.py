"""Which collector a guest has, and the attester that uses it.

Example:
    >>> attester = GuestAttester.open()
    >>> evidence = attester.evidence(claims, nonce)
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mitai.attest.collect import dstack, nsm, nvml, sev, tdx, tpm, tsm, vtpm
from mitai.attest.collect.guest import HERE, REPORT_DATA_BYTES, Guest, oversized, read_bytes
from mitai.attest.evidence import MAX_EVIDENCE_BYTES, NO_DEVICES, Evidence, report_data
from mitai.attest.machine import Hardware
from mitai.attest.nvidia import device_nonce, encode_devices
from mitai.errors import AttestError, ParseError

Kind = Literal["configfs-tsm", "sev-guest", "tdx-guest", "dstack", "nsm", "azure-vtpm", "gcp-vtpm", "tpm"]
AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"  # chassis asset tag of every Azure VM
GOOGLE = "Google Compute Engine"
_SEALING_LABEL = b"mitai snp sealing key v1\0"


def detect(guest: Guest = HERE) -> tuple[Kind, ...]:
    """Return the collectors that this machine has an interface for, the best first.

    Presence is looked at, nothing is opened: permissions and answers are another matter. A bare TPM is not among them,
    as somebody must say which of its keys attests.
    """
    cloud = _cloud(guest)
    has_tpm = guest.has(tpm.DEVICE)
    found: list[tuple[Kind, bool]] = [
        ("nsm", guest.has(nsm.DEVICE)),
        ("azure-vtpm", has_tpm and cloud == "azure"),
        ("dstack", guest.has(dstack.SOCKET)),  # before the kernel's: it has the log of RTMR[3] too
        ("configfs-tsm", tsm.available(guest)),
        ("sev-guest", guest.has(sev.DEVICE)),
        ("tdx-guest", guest.has(tdx.DEVICE)),
        ("gcp-vtpm", has_tpm and cloud == "gcp"),
    ]
    return tuple(kind for kind, there in found if there)


def _cloud(guest: Guest) -> str:
    for path, name, cloud in (
        ("sys/class/dmi/id/chassis_asset_tag", AZURE_TAG, "azure"),
        ("sys/class/dmi/id/product_name", GOOGLE, "gcp"),
    ):
        try:
            if read_bytes(guest, path, 4096, f"/{path}").strip() == name.encode():
                return cloud
        except OSError:
            continue
    return ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What some collectors must be told."""

    ak_issuers: bytes = b""  # gcp-vtpm: PEM of Google's certificates above the key's; tpm: the whole chain
    ak_handle: int | None = None  # tpm: where its attestation key is
    bind_user_data: bool = False  # azure-vtpm: see `vtpm.collect_azure`
    with_ima: bool = False  # a TPM's: send the list of measured files along
    qgs_port: int | None = None  # tdx-guest: vsock port of the host's quote service


def collector(kind: Kind, guest: Guest = HERE, options: Options | None = None) -> Callable[[bytes], Hardware]:
    """Return what makes evidence of 64 bytes of report data."""
    given = options or Options()
    if kind == "tpm" and given.ak_handle is None:
        raise AttestError("attest.collect-ak-missing", "which key of the TPM attests is not configured: its handle")
    ak_handle = given.ak_handle or 0
    known: Mapping[Kind, Callable[[bytes], Hardware]] = {
        "configfs-tsm": lambda data: tsm.collect(data, guest=guest),
        "sev-guest": lambda data: sev.collect(data, guest=guest),
        "tdx-guest": lambda data: tdx.collect(data, guest=guest, port=given.qgs_port),
        "dstack": lambda data: dstack.collect(data, guest=guest),
        "nsm": lambda data: nsm.collect(data, guest=guest),
        "azure-vtpm": lambda data: vtpm.collect_azure(
            data, guest=guest, bind_user_data=given.bind_user_data, with_ima=given.with_ima
        ),
        "gcp-vtpm": lambda data: vtpm.collect_gcp(
            data, guest=guest, ak_issuers=given.ak_issuers, with_ima=given.with_ima
        ),
        "tpm": lambda data: vtpm.collect_tpm(
            data, guest=guest, ak_handle=ak_handle, ak_chain=given.ak_issuers, with_ima=given.with_ima
        ),
    }
    if kind not in known:
        raise ParseError("attest.collect-kind-unknown", f"there is no collector named {kind[:32]!r}")
    return known[kind]


def _as_collected(hardware: Hardware) -> Hardware:
    return hardware


@dataclass(frozen=True, kw_only=True)
class GuestAttester:
    """The TEE that this process runs in (an `Attester`): every call asks the hardware anew.

    `endorse` may add what the hardware does not give, such as Intel's collateral or AMD's certificates.
    """

    kind: Kind
    tee: str
    collect: Callable[[bytes], Hardware]
    guest: Guest = HERE
    gpus: nvml.Library | None = None  # whose GPUs must attest too
    endorse: Callable[[Hardware], Hardware] = _as_collected
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @staticmethod
    def open(
        kind: Kind | None = None,
        *,
        guest: Guest = HERE,
        options: Options | None = None,
        gpus: nvml.Library | None = None,
        endorse: Callable[[Hardware], Hardware] = _as_collected,
    ) -> GuestAttester:
        """Pick a collector, the best that `detect` finds unless one is named, and try it once.

        Raises:
            AttestError: `attest.collect-none` where nothing was found; what the collector raises.
        """
        found = (kind,) if kind else detect(guest)
        if not found:
            raise AttestError(
                "attest.collect-none",
                "this machine has no interface that attests anything: it is no confidential guest, or lacks a driver",
                hint="`mitai doctor` says what is missing",
            )
        collect = collector(found[0], guest, options)
        tee = collect(secrets.token_bytes(REPORT_DATA_BYTES)).tee
        return GuestAttester(kind=found[0], tee=tee, collect=collect, guest=guest, gpus=gpus, endorse=endorse)

    def evidence(self, claims: bytes, nonce: bytes) -> Evidence:
        """Return fresh evidence; see `Attester`."""
        with self._one_at_a_time:
            asked = device_nonce(nonce)
            devices = encode_devices(nvml.collect(asked, nvml=self.gpus)) if self.gpus is not None else NO_DEVICES
            hardware = self.collect(report_data(nonce, claims, devices))
        endorsed = self.endorse(hardware)
        evidence = Evidence(
            tee=endorsed.tee,
            quote=endorsed.quote,
            event_log=endorsed.event_log,
            collateral=endorsed.collateral,
            endorsements=endorsed.endorsements,
            devices=devices,
            claims=claims,
            nonce=nonce,
        )
        if len(evidence.encode()) > MAX_EVIDENCE_BYTES:
            raise oversized("the evidence of this machine (perhaps its list of measured files)")
        return evidence

    def sealing_key(self, label: bytes) -> bytes:
        """Return 32 bytes bound to platform and measurement; see `Attester`. Only SEV-SNP has such keys.

        Raises:
            AttestError: `attest.collect-sealing-unavailable` elsewhere.
        """
        if not self.guest.has(sev.DEVICE):
            raise AttestError(
                "attest.collect-sealing-unavailable",
                f"{self.tee} on this machine derives no keys for its guests: nothing can be sealed to it",
                hint="let a key broker elsewhere release the key to this machine's evidence, or use SEV-SNP with "
                "/dev/sev-guest",
            )
        with self._one_at_a_time:
            key = sev.derived_key(guest=self.guest)
        return HKDF(SHA384(), 32, salt=None, info=_SEALING_LABEL + label).derive(key)
