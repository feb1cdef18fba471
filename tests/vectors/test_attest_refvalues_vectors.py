"""Computed expectations against machines that really booted: event logs of the shared vectors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mitai.attest.eventlog import ALG_SHA384, parse_event_log
from mitai.attest.refvalues.boot import LAYOUTS, extended, rtmr1_of

FOLDER = Path(os.environ.get("MITAI_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "eventlog"
_KERNEL, _RTMR0, _RTMR1 = 0x80000003, 1, 2  # EV_EFI_BOOT_SERVICES_APPLICATION; registers as a CCEL numbers them

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason=f"no event logs in {FOLDER} (set MITAI_VECTORS)")


@pytest.mark.parametrize(
    ("log", "layout"),
    [("trustee-CCEL_data_ovmf/log.bin", "qemu-8-ovmf-2023"), ("dstack-ccel-tpm/ccel.bin", "qemu")],
)
def test_rtmr1_of_a_real_boot(log, layout):
    """From the kernel's digest alone, the layout gives the register that the machine had."""
    events = [event for event in parse_event_log((FOLDER / log).read_bytes()) if event.register == _RTMR1]
    (kernel,) = (event.digests[ALG_SHA384] for event in events if event.kind == _KERNEL)
    register = extended(event.digests[ALG_SHA384] for event in events)
    assert rtmr1_of(kernel, LAYOUTS[layout]) == register
    others = {rtmr1_of(kernel, other) for other in LAYOUTS.values()}
    assert len(others) == 2  # the logs tell the two places of the separator apart


def test_the_register_is_the_recorded_one():
    index = json.loads((FOLDER.parent / "index.json").read_text())["entries"]
    (entry,) = (entry for entry in index if entry["id"] == "eventlog/trustee-CCEL_data_ovmf")
    events = parse_event_log((FOLDER / "trustee-CCEL_data_ovmf/log.bin").read_bytes())
    (kernel,) = (event.digests[ALG_SHA384] for event in events if event.kind == _KERNEL)
    recorded = entry["expected"]["replayed_rtmrs_sha384"]["1"]
    assert rtmr1_of(kernel, LAYOUTS["qemu-8-ovmf-2023"]).hex() == recorded
