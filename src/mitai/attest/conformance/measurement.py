"""Stages `verify-measurement` and `verify-hardware-measurements`: comparing what was measured on different platforms.

A measurement is a type and registers in hex. The suite's release type holds one SNP register and TDX's RTMR1 and RTMR2;
MRTD and RTMR0 depend on the machine and are looked up in a list of known hardware instead.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.attest.conformance.outcome import Outcome, Rejected, run_stage

STAGE, HARDWARE_STAGE = "verify-measurement", "verify-hardware-measurements"
SNP = "https://tinfoil.sh/predicate/sev-snp-guest/v2"
TDX = "https://tinfoil.sh/predicate/tdx-guest/v2"
MULTI_PLATFORM = "https://tinfoil.sh/predicate/snp-tdx-multiplatform/v1"
_REGISTERS = {SNP: 1, TDX: 5, MULTI_PLATFORM: 3}
_NO_RTMR3 = "00" * 48

Hex = Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2})*\Z")]


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A type and its registers."""

    type: str
    registers: tuple[Hex, ...]

    def lower(self) -> tuple[str, ...]:
        """Return the registers in lower case."""
        return tuple(register.lower() for register in self.registers)

    def fingerprint(self) -> str:
        """Return the register where there is one, SHA-256 over type and registers otherwise."""
        registers = self.lower()
        return (
            registers[0]
            if len(registers) == 1
            else hashlib.sha256((self.type + "".join(registers)).encode()).hexdigest()
        )


class HardwareMeasurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MRTD and RTMR0 of one kind of machine."""

    id: str
    mrtd: Hex
    rtmr0: Hex


class _Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: str
    source: Measurement
    target: Measurement | None = None


class _HardwareInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: str
    enclave_measurement: Measurement
    hardware_measurements: tuple[HardwareMeasurement, ...]


def run(data: bytes) -> Outcome:
    """Stage `verify-measurement`."""
    return run_stage(STAGE, data, _Input, _appraise)


def run_hardware(data: bytes) -> Outcome:
    """Stage `verify-hardware-measurements`."""
    return run_stage(HARDWARE_STAGE, data, _HardwareInput, _appraise_hardware)


def _appraise(given: _Input) -> dict[str, object]:
    check_shape(given.source)
    if given.target is not None:
        check_shape(given.target)
        compare(given.source, given.target)
    return {
        "source_fingerprint_hex": given.source.fingerprint(),
        "target_fingerprint_hex": given.target.fingerprint() if given.target else None,
    }


def check_shape(measurement: Measurement) -> None:
    """Refuse unknown types and wrong numbers of registers."""
    if measurement.type not in _REGISTERS:
        raise Rejected("MEASUREMENT_TYPE_UNKNOWN", STAGE)
    if len(measurement.registers) != _REGISTERS[measurement.type]:
        raise Rejected("MEASUREMENT_REGISTER_COUNT_INVALID", STAGE)


def compare(source: Measurement, target: Measurement) -> None:
    """Refuse measurements that are not of the same software."""
    if source.type != target.type and target.type == MULTI_PLATFORM:
        source, target = target, source
    released, found = source.lower(), target.lower()
    if source.type == target.type:
        same = released == found
    elif (source.type, target.type) == (MULTI_PLATFORM, SNP):
        same = released[0] == found[0]
    elif (source.type, target.type) == (MULTI_PLATFORM, TDX):
        same = released[1:] == found[2:4]
        if same and found[4] != _NO_RTMR3:
            raise Rejected("MEASUREMENT_RTMR3_NONZERO", STAGE)
    else:
        raise Rejected("MEASUREMENT_TYPE_COMBINATION_UNSUPPORTED", STAGE)
    if not same:
        raise Rejected("MEASUREMENT_MISMATCH", STAGE)


def _appraise_hardware(given: _HardwareInput) -> dict[str, object]:
    matched = find_hardware(given.enclave_measurement, given.hardware_measurements)
    return {"matched_id": matched.id, "matched_mrtd": matched.mrtd.lower(), "matched_rtmr0": matched.rtmr0.lower()}


def find_hardware(enclave: Measurement, known: tuple[HardwareMeasurement, ...]) -> HardwareMeasurement:
    """Return the first known machine with the enclave's MRTD and RTMR0."""
    if enclave.type != TDX:
        raise Rejected("ENCLAVE_MEASUREMENT_TYPE_INVALID", HARDWARE_STAGE)
    if len(enclave.registers) != _REGISTERS[TDX]:
        raise Rejected("ENCLAVE_REGISTER_COUNT_INVALID", HARDWARE_STAGE)
    for machine in known:
        if (machine.mrtd.lower(), machine.rtmr0.lower()) == enclave.lower()[:2]:
            return machine
    raise Rejected("HARDWARE_NO_MATCH", HARDWARE_STAGE)
