"""The `[nitro]` section of an appraisal policy."""

from __future__ import annotations

import re

import msgspec

from mitai.attest.fields import POLICY_MALFORMED, check_hex
from mitai.attest.nitro.document import Source
from mitai.errors import ParseError

_REGISTER = re.compile(r"pcr([0-9]|[12][0-9]|3[01])")


class NitroRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an enclave, or an instance with a NitroTPM, must look like; empty lists pin nothing."""

    source: Source = "enclave"  # or "nitrotpm": whose registers these are

    pcrs: dict[str, tuple[str, ...]] = {}  # by register ("pcr0"), the values that are accepted
    required_pcrs: tuple[str, ...] = ("pcr0", "pcr1", "pcr2")  # must be in the document and not be zero
    allow_debug: bool = False  # PCR0 to PCR2 are zero when an enclave runs in debug mode
    max_age_s: int = 300
    max_clock_skew_s: int = 60  # how far the document's time may be ahead of ours
    module_ids: tuple[str, ...] = ()  # allowed beginnings, such as an instance's id

    def __post_init__(self) -> None:
        for register in (*self.pcrs, *self.required_pcrs):
            if not _REGISTER.fullmatch(register):
                raise ParseError(POLICY_MALFORMED, "a register in [nitro] is not one of pcr0 to pcr31")
        for register, values in self.pcrs.items():
            if not values:
                raise ParseError(POLICY_MALFORMED, f"[nitro.pcrs] accepts no value of {register}")
            for value in values:
                check_hex(f"[nitro] {register}", value, 48)
        if self.max_age_s < 0 or self.max_clock_skew_s < 0:
            raise ParseError(POLICY_MALFORMED, "a number in [nitro] is negative")
        if "" in self.module_ids:
            raise ParseError(POLICY_MALFORMED, "an empty beginning in [nitro] module_ids would allow every module")
