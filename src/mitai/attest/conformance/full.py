"""Stage `verify-full`: the release says what runs, the hardware says what runs, and both say the same.

Modes `standard` and `bundle` take what should run from a sigstore bundle, `pinned` from the caller. Each part is a
stage of its own; a refusal names the part that refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from mitai.attest.conformance import measurement, sev, sigstore, tdx
from mitai.attest.conformance.measurement import MULTI_PLATFORM, HardwareMeasurement, Measurement
from mitai.attest.conformance.outcome import MALFORMED, REJECTED, Malformed, Outcome, Rejected, run_stage

STAGE = "verify-full"
_Block = dict[str, object]


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: str
    mode: Literal["standard", "bundle", "pinned"]
    sigstore: _Block | None = None
    attestation_sev: _Block | None = None
    attestation_tdx: _Block | None = None
    hardware_measurements: tuple[HardwareMeasurement, ...] | None = None
    pinned_measurement: Measurement | None = None


class _Rejection(msgspec.Struct, frozen=True):
    code: str


class _Outputs(msgspec.Struct, frozen=True):
    measurement: Measurement


def run(data: bytes) -> Outcome:
    """Stage `verify-full`."""
    return run_stage(STAGE, data, _Input, _appraise)


def _appraise(given: _Input) -> dict[str, object]:
    # 1. what should run
    outputs: dict[str, object] = {"mode": given.mode}
    if given.mode == "pinned":
        released = given.pinned_measurement
    elif given.sigstore is not None:
        released = _measured(sigstore.run, {"verification_time_unix": None, **given.sigstore})
        outputs["sigstore_measurement"] = msgspec.to_builtins(released)
    else:
        released = None
    if released is None or (given.attestation_sev is None) == (given.attestation_tdx is None):
        raise Rejected("BUNDLE_MALFORMED", STAGE)
    # 2. what the hardware says
    if given.attestation_sev is not None:
        running = _measured(sev.run, given.attestation_sev)
    else:
        running = _measured(tdx.run, given.attestation_tdx or {})
        # 3. on TDX, MRTD and RTMR0 depend on the machine, which must be a known one
        if released.type == MULTI_PLATFORM or given.hardware_measurements is not None:
            machine = measurement.find_hardware(running, given.hardware_measurements or ())
            outputs["matched_hardware"] = msgspec.to_builtins(machine)
    # 4. both say the same
    measurement.check_shape(released)
    measurement.compare(released, running)
    return {
        **outputs,
        "platform": "tdx" if given.attestation_sev is None else "sev-snp",
        "attestation_measurement": msgspec.to_builtins(running),
        "final_measurement_fingerprint_hex": running.fingerprint(),
    }


def _measured(stage: Callable[[bytes], Outcome], block: _Block) -> Measurement:
    """Run a stage on its part of the input; return the measurement that it accepted."""
    exit_code, output = stage(msgspec.json.encode({"schema_version": "1", **block}))
    if exit_code == MALFORMED:
        raise Malformed
    if exit_code == REJECTED:
        raise Rejected(msgspec.convert(output["rejection"], _Rejection).code, str(output["stage"]))
    return msgspec.convert(output["outputs"], _Outputs).measurement
