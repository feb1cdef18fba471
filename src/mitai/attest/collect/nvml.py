"""NVIDIA GPUs through NVML: reports, certificates, and whether confidential computing is on.

Follows NVIDIA's "NVML API Reference", section "Confidential Computing": `nvmlDeviceGetConfComputeGpuAttestationReport`,
`nvmlDeviceGetConfComputeGpuCertificate`, `nvmlSystemGetConfComputeState`. The library is `pynvml` of the package
`nvidia-ml-py`, an extra; anything with the same functions serves.

Manifests and revocation statuses are fetched elsewhere. NVSwitches need NVIDIA's NSCQ library and are not collected.

Example:
    >>> collect(device_nonce(nonce))[0].kind
    'gpu'
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

from mitai.attest.collect.guest import malformed
from mitai.attest.nvidia.device import NONCE_BYTES, DeviceEvidence
from mitai.attest.nvidia.report import parse_report
from mitai.errors import AttestError, ParseError

WHAT = "NVIDIA's management library (NVML)"


class State(Protocol):
    """`nvmlConfComputeSystemState_t`."""

    environment: int
    ccFeature: int  # noqa: N815 - NVML's name
    devToolsMode: int  # noqa: N815


class Report(Protocol):
    """`nvmlConfComputeGpuAttestationReport_t`."""

    attestationReportSize: int  # noqa: N815
    attestationReport: Sequence[int]  # noqa: N815


class Certificate(Protocol):
    """`nvmlConfComputeGpuCertificate_t`."""

    attestationCertChainSize: int  # noqa: N815
    attestationCertChain: Sequence[int]  # noqa: N815


class Library(Protocol):
    """The functions of `pynvml` that are used here; a device's handle is opaque."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802, D102
    def nvmlShutdown(self) -> None: ...  # noqa: N802, D102
    def nvmlSystemGetConfComputeState(self) -> State: ...  # noqa: N802, D102
    def nvmlSystemGetDriverVersion(self) -> str: ...  # noqa: N802, D102
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802, D102
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802, D102
    def nvmlDeviceGetName(self, handle: object) -> str: ...  # noqa: N802, D102
    def nvmlDeviceGetVbiosVersion(self, handle: object) -> str: ...  # noqa: N802, D102
    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: object) -> Certificate: ...  # noqa: N802, D102
    def nvmlDeviceGetConfComputeGpuAttestationReport(  # noqa: N802, D102
        self, handle: object, nonce: bytes
    ) -> Report: ...


@dataclass(frozen=True, slots=True)
class Gpus:
    """What NVML says of a machine's GPUs."""

    driver: str
    names: tuple[str, ...]
    vbios: tuple[str, ...]
    confidential: bool
    production: bool  # rather than a simulated environment
    dev_tools: bool  # debugging is possible: nothing is protected


def library() -> Library | None:
    """Return `pynvml`, or nothing where it is not installed."""
    try:
        return cast("Library", importlib.import_module("pynvml"))
    except ModuleNotFoundError:
        return None


def describe(nvml: Library) -> Gpus:
    """Return what there is; raise `AttestError` where there is no driver."""
    with _started(nvml):
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        try:
            state: State | None = nvml.nvmlSystemGetConfComputeState()
        except nvml.NVMLError:  # an older driver or card
            state = None
        return Gpus(
            driver=nvml.nvmlSystemGetDriverVersion(),
            names=tuple(nvml.nvmlDeviceGetName(handle) for handle in handles),
            vbios=tuple(nvml.nvmlDeviceGetVbiosVersion(handle) for handle in handles),
            confidential=state is not None and state.ccFeature == 1,
            production=state is not None and state.environment == 2,
            dev_tools=state is not None and state.devToolsMode != 0,
        )


def collect(nonce: bytes, *, nvml: Library | None = None) -> tuple[DeviceEvidence, ...]:
    """Return the evidence of every GPU over a nonce of 32 bytes (see `mitai.attest.nvidia.device_nonce`).

    Raises:
        AttestError: `attest.collect-gpu-missing`, `attest.collect-gpu-failed`, `attest.collect-malformed`.
    """
    if len(nonce) != NONCE_BYTES:
        raise ParseError("attest.nonce-malformed", f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    nvml = nvml or library()
    if nvml is None:
        raise AttestError(
            "attest.collect-gpu-missing",
            "the package nvidia-ml-py is not installed: no GPU can be asked for evidence",
            hint="pip install 'mitai[nvidia]'",
        )
    with _started(nvml):
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        if not handles:
            raise AttestError("attest.collect-gpu-missing", "this machine has no NVIDIA GPU")
        return tuple(_evidence(nvml, handle, nonce) for handle in handles)


def _evidence(nvml: Library, handle: object, nonce: bytes) -> DeviceEvidence:
    answer = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
    chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
    report = _content(answer.attestationReport, answer.attestationReportSize)
    certificates = _content(chain.attestationCertChain, chain.attestationCertChainSize)
    try:
        found = parse_report(report).nonce
    except ParseError as error:
        raise malformed(WHAT, error.message) from error
    if found != nonce:
        raise AttestError("attest.collect-report-data-mismatch", f"{WHAT} gave a report over another nonce")
    return DeviceEvidence(kind="gpu", report=report, certificates=certificates.rstrip(b"\0"))


def _content(buffer: Sequence[int], size: int) -> bytes:
    if not 0 < size <= len(buffer):
        raise malformed(WHAT, f"{size} bytes in a buffer of {len(buffer)}")
    return bytes(buffer[:size])


@contextmanager
def _started(nvml: Library) -> Iterator[None]:
    """Start NVML for the block; its errors leave as ours."""
    try:
        nvml.nvmlInit()
        try:
            yield
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise AttestError(
            "attest.collect-gpu-failed",
            f"{WHAT} refused: {str(error)[:100]}",
            hint="the driver must be loaded, and confidential computing be on in the GPU's firmware settings",
        ) from error
