"""The `[csv]` section of an appraisal policy."""

from __future__ import annotations

import msgspec

from mitai.attest.csv.report import POLICY_BITS
from mitai.attest.fields import ANY, POLICY_MALFORMED, check_hex
from mitai.errors import ParseError


class CsvRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a guest and its chip must look like; empty lists pin nothing."""

    measure: tuple[str, ...] = ()  # accepted launch measurements
    user_pubkey_digest: str = ANY  # SM3 of the guest owner's key
    vm_id: str = ANY
    policy_required: tuple[str, ...] = ("nodbg",)  # bits of the guest policy; add "es", "csv3", "noks", "nosend"
    policy_forbidden: tuple[str, ...] = ("asid_reuse",)
    min_build: int = 0  # of the firmware; above 0 only extended reports can pass
    require_extended: bool = False  # report version 2 or later, whose mask-free fields are signed as they are
    denied_chips: tuple[str, ...] = ()  # SHA-256 of the signed part of a CEK's certificate: the fact `chip`

    def __post_init__(self) -> None:
        for value in self.measure:
            check_hex("[csv] measure", value, 32)
        check_hex("[csv] user_pubkey_digest", self.user_pubkey_digest, 32, any_allowed=True)
        check_hex("[csv] vm_id", self.vm_id, 16, any_allowed=True)
        for value in self.denied_chips:
            check_hex("[csv] denied_chips", value, 32)
        if not {*self.policy_required, *self.policy_forbidden} <= {*POLICY_BITS}:
            raise ParseError(POLICY_MALFORMED, f"a policy bit in [csv] is not one of {', '.join(POLICY_BITS)}")
        if self.min_build < 0:
            raise ParseError(POLICY_MALFORMED, "a number in [csv] is negative")
