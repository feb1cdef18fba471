"""`mitai doctor` on machines that are not here: folders and fakes that look like them."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from attest_collect_lab import REPORTS, FakeKernel, FakeTpm, Nv
from mitai.attest.collect import vtpm
from mitai.cli.doctor import Machine, examine

TAG = "sys/class/dmi/id/chassis_asset_tag"
AZURE = b"7783-7084-3265-9085-8269-3286-77\n"


def verdicts(root):
    return {finding.what: finding.verdict for finding in examine(root)}


def on(kernel: FakeKernel, **more) -> dict:
    return {finding.what: finding for finding in examine(machine=Machine(kernel.guest, **more))}


@pytest.fixture
def kernel(tmp_path):
    return FakeKernel(tmp_path)


def test_a_bare_machine_is_not_confidential(tmp_path):
    found = verdicts(tmp_path)
    assert found["Confidential"] == "no"
    assert found["Evidence collector"] == "no"
    assert found["NVIDIA GPU"] == "no"
    assert found["AES instructions"] == "no"


def test_a_tdx_guest_with_a_gpu(tmp_path):
    for path in ("dev/tdx_guest", "sys/kernel/config/tsm/report/x", "proc/driver/nvidia/gpus/0/information"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("Model: NVIDIA H100\nIRQ: 5\n")
    (tmp_path / "proc/cpuinfo").write_text(
        "model name : Xeon\nflags : aes avx2 avx512f amx_int8 amx_bf16\n\nnonsense\n"
    )
    found = verdicts(tmp_path)
    assert found["Intel TDX guest"] == found["Confidential"] == found["AMX"] == "yes"
    details = {finding.what: finding.detail for finding in examine(tmp_path)}
    assert "H100" in details["NVIDIA GPU"]
    assert details["Processor"] == "Xeon"
    assert details["Evidence collector"].startswith("configfs-tsm")
    assert "tdx-guest" in details["Evidence collector"]
    assert "Missing" not in found


@pytest.mark.parametrize(
    ("files", "step"),
    [
        ({"proc/cpuinfo": b"flags : hypervisor tdx_guest\n"}, "modprobe tdx-guest"),
        ({"proc/cpuinfo": b"flags : hypervisor sev_snp\n"}, "modprobe sev-guest"),
        ({"sys/devices/system/cpu/sev/vmpl": b"0\n"}, "modprobe sev-guest"),
        ({"dev/sev-guest": b""}, "mount -t configfs"),
        ({"dev/tdx_guest": b"", "sys/kernel/config/x": b""}, "Linux 6.7"),
    ],
)
def test_what_is_missing_and_the_next_step(kernel, files, step):
    for path, data in files.items():
        kernel.write(path, data)
    assert step in on(kernel)["Missing"].detail


def test_an_snp_host_is_no_guest(kernel):
    kernel.write("proc/cpuinfo", b"flags : sev_snp\n")
    assert "Missing" not in on(kernel)


def test_no_permission(kernel):
    for path in ("dev/tpmrm0", "dev/sev-guest", "sys/firmware/acpi/tables/data/CCEL"):
        kernel.write(path, b"")
    found = on(kernel, access=lambda path, mode: False)
    assert found["TPM 2.0"].verdict == found["Event log of a TD (CCEL)"].verdict == "note"
    assert "add the user to group tss" in found["TPM 2.0"].detail
    assert "evidence goes without it" in found["Event log of a TD (CCEL)"].detail
    assert found["Sealing keys"].verdict == "no"
    asked = []
    on(kernel, access=lambda path, mode: asked.append((path.name, mode)) or True)
    assert ("CCEL", os.R_OK) in asked
    assert ("tpmrm0", os.R_OK | os.W_OK) in asked


def test_an_snp_guest(kernel):
    for path in ("dev/sev-guest", f"{REPORTS}/x", "sys/firmware/acpi/tables/data/CCEL"):
        kernel.write(path, b"")
    found = on(kernel)
    assert found["Confidential"].verdict == found["Sealing keys"].verdict == "yes"
    assert found["Event log of a TD (CCEL)"].verdict == "yes"


def test_azure(kernel):
    kernel.write(TAG, AZURE)
    assert on(kernel)["Confidential"].verdict == "no"
    fake = FakeTpm()
    kernel.plug("dev/tpmrm0", fake)
    plain = on(kernel)["Confidential"]
    assert plain.verdict == "no"
    assert "confidential size" in plain.detail
    fake.nv[vtpm.AZURE_REPORT] = Nv(b"a report")
    found = on(kernel)
    assert found["Confidential"].verdict == "yes"
    assert found["Evidence collector"].detail.startswith("azure-vtpm")
    kernel.write("proc/cpuinfo", b"flags : hypervisor sev_snp\n")
    assert "Missing" not in on(kernel)  # the paravisor has the driver
    kernel.denied.add("dev/tpmrm0")
    denied = on(kernel)["Confidential"]
    assert denied.verdict == "no"
    assert "no permission" in denied.detail


def test_google(kernel):
    kernel.write("sys/class/dmi/id/product_name", b"Google Compute Engine\n")
    kernel.write("dev/tpmrm0", b"")
    shielded = on(kernel)["Confidential"]
    assert shielded.verdict == "no"
    assert "Confidential VM" in shielded.detail
    for path in ("dev/sev-guest", f"{REPORTS}/x"):
        kernel.write(path, b"")
    assert on(kernel)["Confidential"].verdict == "yes"


def test_a_tpm_alone(kernel):
    kernel.write("dev/tpmrm0", b"")
    found = on(kernel)
    assert found["Evidence collector"].verdict == "note"
    assert "handle" in found["Evidence collector"].detail
    assert found["Confidential"].verdict == "no"


class NvmlError(Exception):
    pass


class FakeNvml:
    """The questions that the doctor has for `pynvml`."""

    NVMLError = NvmlError

    def __init__(self, *state: int) -> None:
        self.state = state

    def nvmlInit(self):
        if not self.state:
            raise NvmlError("Driver Not Loaded")

    def nvmlShutdown(self):
        pass

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlSystemGetConfComputeState(self):
        return SimpleNamespace(environment=self.state[0], ccFeature=self.state[1], devToolsMode=self.state[2])

    def nvmlSystemGetDriverVersion(self):
        return "570.10.20"

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA H100"

    def nvmlDeviceGetVbiosVersion(self, handle):
        return "96.00.9F.00.01"


@pytest.mark.parametrize(
    ("library", "verdict", "words"),
    [
        (None, "no", "pip install 'mitai[nvidia]'"),
        (FakeNvml(), "no", "load NVIDIA's driver"),
        (FakeNvml(0, 0, 0), "no", "turn it on"),
        (FakeNvml(2, 1, 1), "no", "debugging"),
        (FakeNvml(1, 1, 0), "no", "debugging"),
        (FakeNvml(2, 1, 0), "yes", "driver 570.10.20, firmware 96.00.9F.00.01"),
    ],
)
def test_gpu_modes(kernel, library, verdict, words):
    kernel.write("proc/driver/nvidia/gpus/0/information", b"Model: NVIDIA H100\n")
    found = on(kernel, nvml=library)["GPU confidential computing"]
    assert found.verdict == verdict
    assert words in found.detail
