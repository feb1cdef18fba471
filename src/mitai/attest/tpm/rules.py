"""What a TPM quote must look like: the section `tpm` of an appraisal policy."""

from __future__ import annotations

import re

import msgspec

from mitai.attest.fields import POLICY_MALFORMED
from mitai.attest.tpm.roots import check_root
from mitai.errors import ParseError

_NAME = re.compile(r"name:(?:000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128})")
_KEY = re.compile(r"spki:[0-9a-f]{64}")


class TpmRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for every quote of a TPM; `aks` and `roots` say whose TPM (evidence `tpm` only)."""

    aks: tuple[str, ...] = ()  # "name:" and a TPM name, which covers the key's attributes, or "spki:" and SHA-256
    roots: tuple[str, ...] = ()  # that certify attestation keys: "azure-vtpm", …, or "sha256:" and a fingerprint
    banks: tuple[str, ...] = ("sha256",)  # no other bank may be quoted
    pcrs: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)  # registers that must be quoted
    min_firmware_version: int = 0

    def __post_init__(self) -> None:
        for ak in self.aks:
            if not _NAME.fullmatch(ak) and not _KEY.fullmatch(ak):
                raise ParseError(POLICY_MALFORMED, "a key in [tpm] aks is neither 'name:' nor 'spki:' and hex")
        for root in self.roots:
            check_root("tpm", root)
        if not self.banks or not set(self.banks) <= {"sha1", "sha256", "sha384", "sha512"}:
            raise ParseError(POLICY_MALFORMED, "a bank in [tpm] is none of sha1, sha256, sha384, sha512")
        if not all(0 <= number <= 23 for number in self.pcrs):
            raise ParseError(POLICY_MALFORMED, "a PCR in [tpm] is not in 0 to 23")
