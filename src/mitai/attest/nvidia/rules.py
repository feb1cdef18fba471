"""The appraisal policy's section on NVIDIA devices."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from mitai.attest.fields import POLICY_MALFORMED, check_hex
from mitai.attest.nvidia.roots import NRAS_INTERMEDIATES_SHA256
from mitai.errors import ParseError

Mode = Literal["spt", "mpt", "ppcie"]
Need = Literal["required", "if-present"]
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
_MAX_GRACE_S = 366 * 86400


class NvidiaRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What GPUs and switches must be; empty lists pin nothing."""

    min_gpus: int = 0
    min_switches: int = 0
    modes: tuple[Mode, ...] = (
        "spt",
        "mpt",
    )  # one GPU, several GPUs with encrypted links; not `ppcie`: links in the clear
    rims: Need = "required"  # without reference manifests nothing is known of driver and firmware
    ocsp: Need = "required"  # without revocation status a key that leaked goes on vouching
    ocsp_grace_s: int = 0  # how long a status may be past its end
    accept_hold: bool = False  # accept certificates that NVIDIA has suspended (reason certificateHold)
    same_driver: bool = True  # every GPU runs the same driver
    fabric: bool = True  # GPUs and switches name each other, all of them and nobody else
    chips: tuple[str, ...] = ()
    min_driver: str = "0"
    drivers: tuple[str, ...] = ()
    vbios: tuple[str, ...] = ()
    denied_ueids: tuple[str, ...] = ()  # serial numbers of device certificates, in decimal, as NVIDIA writes them
    nras_issuer: str = "https://nras.attestation.nvidia.com"
    nras_roots: tuple[str, ...] = NRAS_INTERMEDIATES_SHA256  # SHA-256 of certificates in which its keys' chains may end

    def __post_init__(self) -> None:
        if min(self.min_gpus, self.min_switches, self.ocsp_grace_s) < 0:
            raise ParseError(POLICY_MALFORMED, "a number in [nvidia] is negative")
        if self.ocsp_grace_s > _MAX_GRACE_S:
            raise ParseError(POLICY_MALFORMED, "ocsp_grace_s is above a year")
        if not _VERSION.fullmatch(self.min_driver):
            raise ParseError(POLICY_MALFORMED, "min_driver is not a version such as 550.90.07")
        for root in self.nras_roots:
            check_hex("nras_roots", root, 32)
