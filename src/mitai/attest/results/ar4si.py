"""Trustworthiness claims: a verdict in the eight categories that relying parties of any verifier understand.

Follows draft-ietf-rats-ar4si-09, section 3: a claim is a number from -128 to 127, and its range is a tier.

Invariants:

- A simulated machine is always contraindicated, whatever the policy said about simulation.
- A machine whose memory its host can read never affirms that it is hidden; one in debug mode is contraindicated.
- A refusal is always contraindicated; its vector says where, as far as the verifier got.

Example:
    >>> vector(appraisal.machine, workload_known=True)
    {'instance-identity': 2, 'configuration': 2, 'executables': 2, 'hardware': 2, 'runtime-opaque': 2}
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from mitai.attest.machine import Machine
from mitai.errors import MitaiError

CATEGORIES: Final = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)
AFFIRMED: Final = 2
UNSAFE: Final = 32
UNRECOGNIZED_CODE: Final = 33
CONTRAINDICATED: Final = 96
NOT_GENUINE: Final = 97
_OPAQUE: Final = {"encrypted": AFFIRMED, "isolated": UNSAFE, "visible": CONTRAINDICATED}
CRYPTOGRAPHY_FAILED: Final = 99

# What a refusal in one of these steps says; any other step contraindicates the whole identity.
_REFUSED: Final = {
    "workload": {"executables": UNRECOGNIZED_CODE},
    "event log": {"executables": UNRECOGNIZED_CODE},
    "td": {"configuration": CONTRAINDICATED},
    "enclave": {"configuration": CONTRAINDICATED},
    "policy": {"configuration": CONTRAINDICATED},
    "tcb": {"hardware": CONTRAINDICATED},
}


class Tier(StrEnum):
    """How far a claim can be trusted, best first."""

    AFFIRMING = "affirming"
    NONE = "none"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


ORDER: Final = (Tier.AFFIRMING, Tier.NONE, Tier.WARNING, Tier.CONTRAINDICATED)


def tier(claim: int) -> Tier:
    """Return the tier of one claim."""
    match abs(claim):
        case 0 | 1:
            return Tier.NONE
        case size if size < 32:
            return Tier.AFFIRMING
        case size if size < 96:
            return Tier.WARNING
    return Tier.CONTRAINDICATED


def worst(claims: Iterable[int]) -> Tier:
    """Return the least trusted tier among claims that say something; `none` where no claim does."""
    tiers = {tier(claim) for claim in claims} - {Tier.NONE}
    return max(tiers, key=ORDER.index, default=Tier.NONE)


def at_most(status: Tier, limit: Tier) -> bool:
    """Tell whether a status claims no more trust than a limit; `none` claims nothing."""
    return status is Tier.NONE or ORDER.index(status) >= ORDER.index(limit)


def vector(machine: Machine, *, workload_known: bool) -> dict[str, int]:
    """Return the claims about a machine that was accepted."""
    status = machine.tcb_status
    return {
        "instance-identity": NOT_GENUINE if machine.simulated else AFFIRMED,
        "configuration": UNSAFE if "Configuration" in status else AFFIRMED,
        "executables": AFFIRMED if workload_known else UNRECOGNIZED_CODE,
        "hardware": NOT_GENUINE if machine.simulated else AFFIRMED if status in {"", "UpToDate"} else UNSAFE,
        "runtime-opaque": CONTRAINDICATED if machine.simulated else _OPAQUE[machine.memory],
    }


def refusal_vector(error: MitaiError) -> dict[str, int]:
    """Return the claims about evidence that was refused."""
    step = (error.step or "").partition(" ")[2]
    failed = {"instance-identity": CRYPTOGRAPHY_FAILED, "hardware": CRYPTOGRAPHY_FAILED}
    return dict(_REFUSED.get(step, failed))
