"""Adapter for the tinfoil-conformance suite: one appraisal, JSON in, JSON and an exit code out.

`python -m mitai.attest.conformance STAGE < input.json` exits 0 (accepted), 10 (rejected; the output names the code),
20 (no such stage here) or 30 (the input is malformed). A stage is a module; it drives the ordinary checks of
`mitai.attest`, and only the names of the refusals are translated.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mitai.attest.conformance import ehbp, full, measurement, sev, sigstore, tdx
from mitai.attest.conformance.outcome import ACCEPTED, MALFORMED, MAX_INPUT_BYTES, REJECTED, Outcome, refusal

__all__ = ["ACCEPTED", "MALFORMED", "MAX_INPUT_BYTES", "REJECTED", "STAGES", "UNSUPPORTED", "main"]

UNSUPPORTED = 20
STAGES: dict[str, Callable[[bytes], Outcome]] = {
    "verify-attestation-sev": sev.run,
    "verify-attestation-tdx": tdx.run,
    "verify-ehbp-key-binding": ehbp.run,
    "verify-full": full.run,
    "verify-hardware-measurements": measurement.run_hardware,
    "verify-measurement": measurement.run,
    "verify-sigstore": sigstore.run,
}


def main(arguments: list[str], data: bytes) -> tuple[int, bytes]:
    """Run one stage; return exit code and output."""
    stage = " ".join(arguments)
    run = STAGES.get(stage)
    exit_code, output = run(data) if run else (UNSUPPORTED, refusal(stage, "STAGE_UNKNOWN"))
    return exit_code, msgspec.json.encode(output)
