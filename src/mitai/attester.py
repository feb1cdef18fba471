"""The hardware under a process: its own TEE, or a simulated platform where a configuration names one.

Example:
    >>> attester = own_attester("serve", sim="platform/sim")
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import structlog

from mitai.attest import Attester, Hardware
from mitai.attest.collateral import Cache, HttpTransport, Store, complete
from mitai.attest.collect import GuestAttester, nvml
from mitai.attest.sim import SimPlatform, installed_workload
from mitai.errors import AttestError

log = structlog.get_logger("mitai.attester")


def own_attester(workload: str, *, sim: str | None, gpus: bool = False) -> Attester:
    """Return the machine's own TEE, or the simulated platform in the folder `sim`.

    Args:
        workload: What this process says it is, in simulation; real hardware measures it by itself.
        sim: Folder of a simulated platform; None: the machine's TEE. Not yet run on hardware.
        gpus: NVIDIA GPUs attest too.

    Raises:
        MitaiError: There is no such folder; or this machine is no confidential guest.
    """
    if sim is not None:
        return SimPlatform.open(Path(sim)).attester(installed_workload(workload))
    endorse = partial(endorsed, store=Cache(HttpTransport()))
    return GuestAttester.open(gpus=nvml.library() if gpus else None, endorse=endorse)


def endorsed(hardware: Hardware, store: Store) -> Hardware:
    """Return evidence with its vendor's endorsements; without those that can't be had, as verifiers may have them."""
    try:
        return complete(hardware, store)
    except AttestError as error:
        log.warning("no endorsements", code=error.code)
        return hardware
