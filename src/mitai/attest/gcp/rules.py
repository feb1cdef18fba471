"""What a Compute Engine VM's vTPM must look like: the section `gcp` of an appraisal policy."""

from __future__ import annotations

import msgspec

from mitai.attest.fields import POLICY_MALFORMED
from mitai.attest.tpm.roots import check_root
from mitai.errors import ParseError


class GcpRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for a Compute Engine vTPM; those of its quote are in [tpm], those of its hardware in [snp] or [tdx]."""

    roots: tuple[str, ...] = ("gce-vtpm", "gce-vtpm-2018")
    hardware: tuple[str, ...] = ("snp", "tdx")  # reports beside the quote, one of which must be there; () asks for none
    projects: tuple[str, ...] = ()  # ids of projects; empty: any
    zones: tuple[str, ...] = ()
    instance_ids: tuple[str, ...] = ()  # decimal

    def __post_init__(self) -> None:
        for root in self.roots:
            check_root("gcp", root)
        if not set(self.hardware) <= {"snp", "tdx"}:
            raise ParseError(POLICY_MALFORMED, "hardware in [gcp] is neither snp nor tdx")
        if not all(instance.isdecimal() for instance in self.instance_ids):
            raise ParseError(POLICY_MALFORMED, "an instance in [gcp] is not a number")
