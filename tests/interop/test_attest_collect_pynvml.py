"""The real `pynvml`: its functions are those that are called, its structures those that the fake has."""

from __future__ import annotations

import ctypes

import pytest

from mitai.attest.collect import nvml
from mitai.errors import AttestError

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


def test_every_function_is_there():
    wanted = [name for name in vars(nvml.Library) if name.startswith("nvml")]
    assert len(wanted) == 10
    assert all(callable(getattr(pynvml, name)) for name in wanted)
    assert issubclass(pynvml.NVMLError, Exception)


def test_structures_and_constants():
    report, certificate = pynvml.c_nvmlConfComputeGpuAttestationReport_t, pynvml.c_nvmlConfComputeGpuCertificate_t
    assert (ctypes.sizeof(report), report.attestationReport.offset) == (12 + 0x20 + 0x2000 + 0x1000, 12 + 0x20)
    assert (ctypes.sizeof(certificate), certificate.attestationCertChain.offset) == (8 + 0x1000 + 0x1400, 8 + 0x1000)
    assert [name for name, _ in pynvml.c_nvmlConfComputeSystemState_t._fields_] == [
        "environment",
        "ccFeature",
        "devToolsMode",
    ]
    assert pynvml.NVML_CC_SYSTEM_FEATURE_ENABLED == 1
    assert pynvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD == 2
    assert pynvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF == 0


def test_a_machine_without_driver():
    """Where there is a driver the GPUs are described; elsewhere the library's error leaves as ours."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(AttestError, match="collect-gpu-failed"):
            nvml.describe(nvml.library())
        return
    pynvml.nvmlShutdown()
    assert nvml.describe(nvml.library()).driver
