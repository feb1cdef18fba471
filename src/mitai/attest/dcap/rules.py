"""How current an Intel platform must be: the section `[tcb]` of an appraisal policy."""

from __future__ import annotations

import msgspec

from mitai.attest.dcap.tcb import TcbStatus
from mitai.attest.fields import POLICY_MALFORMED, check_hex
from mitai.errors import ParseError


class TcbRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How current the platform must be."""

    accepted_statuses: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    accepted_advisories: tuple[str, ...] = ()  # every reported advisory must be listed; "any" accepts all
    min_evaluation_number: int = 0  # Intel's tcbEvaluationDataNumber, of TCB info and QE identity
    collateral_grace_s: int = 0  # how long TCB info, QE identity and CRLs may be past their end
    fmspc: tuple[str, ...] = ()  # the only kinds of machine that are accepted; empty: all
    pce_ids: tuple[str, ...] = ()  # the only provisioning certification enclaves that are accepted; empty: all
    second_opinion: bool = False  # ask the library dcap-qvl too; a disagreement refuses

    def __post_init__(self) -> None:
        if self.min_evaluation_number < 0 or self.collateral_grace_s < 0:
            raise ParseError(POLICY_MALFORMED, "a number in [tcb] is negative")
        if TcbStatus.REVOKED in self.accepted_statuses:
            raise ParseError(POLICY_MALFORMED, "a platform that Intel has revoked can't be accepted")
        for value in self.fmspc:
            check_hex("fmspc", value, 6)
        for value in self.pce_ids:
            check_hex("pce_ids", value, 2)
