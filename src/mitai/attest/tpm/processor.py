"""The processor's own report below or beside a vTPM, for the clouds whose machines have both.

What the machine booted is in the TPM's registers, so rules for event logs are left to the TPM's log.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from mitai.attest import snp
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.eventlog import EventLogRules
from mitai.attest.machine import Hardware, Machine

if TYPE_CHECKING:
    from mitai.attest.policy import Policy


def appraise_processor(
    checks: Checklist,
    hardware: Hardware,
    policy: Policy,
    *,
    now: datetime,
    cache: VerifiedCache | None,
    snp_trust: snp.Trust | None,
) -> Machine:
    """Verify a report of SEV-SNP or TDX; raise `AttestError` as their verifiers do."""
    if hardware.tee == "snp":
        return snp.appraise(checks, hardware, policy.snp, now=now, cache=cache, trust=snp_trust)
    from mitai.attest.dcap.appraise import (
        appraise as appraise_td,  # it imports the policy, which imports the TPM's rules
    )

    policy = msgspec.structs.replace(policy, event_log=EventLogRules())
    return appraise_td(checks, hardware, policy, now=now, cache=cache)
