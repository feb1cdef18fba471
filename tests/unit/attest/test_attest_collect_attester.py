"""Which collector a machine gets, the attester over it, GPUs, dstack."""

from __future__ import annotations

import ctypes
import errno
import socket
import sys

import msgspec
import pytest

from attest_collect_lab import (
    REPORTS,
    Device,
    FakeKernel,
    FakeNsm,
    FakeSev,
    FakeTdx,
    FakeTpm,
    FakeTsm,
    Nv,
    dstack_agent,
    http_service,
    ok,
    quote_service,
    td_body,
)
from attest_lab import CLAIMS, NONCE, NOW, WORKLOAD
from attest_nvidia_lab import NvidiaLab
from attest_snp_lab import amd
from attest_tpm_lab import SoftTpm, claims, hcl_report
from mitai.attest import nvidia, verify
from mitai.attest.collect import Guest, GuestAttester, Options, collector, detect, dstack, guest, nvml
from mitai.attest.evidence import NO_DEVICES, report_data
from mitai.attest.sim.measure import event_log
from mitai.errors import AttestError, MitaiError

DATA = bytes(range(64))
AZURE = b"7783-7084-3265-9085-8269-3286-77\n"


@pytest.fixture
def kernel(tmp_path):
    kernel = FakeKernel(tmp_path)
    yield kernel
    kernel.end()


# --- detection ------------------------------------------------------------------------------------------------------


def test_nothing(kernel, refused):
    assert detect(kernel.guest) == ()
    with refused("attest.collect-none"):
        GuestAttester.open(guest=kernel.guest)


@pytest.mark.parametrize(
    ("files", "kinds"),
    [
        ({"dev/nsm": b""}, ("nsm",)),
        ({"dev/tdx_guest": b""}, ("tdx-guest",)),
        ({"dev/tdx_guest": b"", f"{REPORTS}/x": b""}, ("configfs-tsm", "tdx-guest")),
        ({"dev/sev-guest": b"", f"{REPORTS}/x": b""}, ("configfs-tsm", "sev-guest")),
        ({"sys/module/arm_cca_guest/x": b"", f"{REPORTS}/x": b""}, ("configfs-tsm",)),
        ({f"{REPORTS}/x": b""}, ()),  # the interface without a processor behind it
        ({"var/run/dstack.sock": b"", "dev/tdx_guest": b""}, ("dstack", "tdx-guest")),
        ({"dev/tpmrm0": b""}, ()),  # which of its keys attests, nobody said
        ({"dev/tpmrm0": b"", "sys/class/dmi/id/chassis_asset_tag": AZURE}, ("azure-vtpm",)),
        ({"sys/class/dmi/id/chassis_asset_tag": AZURE}, ()),
        ({"dev/tpmrm0": b"", "sys/class/dmi/id/product_name": b"Google Compute Engine\n"}, ("gcp-vtpm",)),
        ({"dev/tpmrm0": b"", "sys/class/dmi/id/product_name": b"Another\n"}, ()),
    ],
)
def test_detection(kernel, files, kinds):
    for path, data in files.items():
        kernel.write(path, data)
    assert detect(kernel.guest) == kinds


def test_what_may_not_be_looked_at_is_not_there(kernel, monkeypatch):
    def denied(path):
        raise PermissionError(path)

    monkeypatch.setattr(type(kernel.root), "exists", denied)
    assert detect(kernel.guest) == ()


def test_unknown_collectors_are_refused(kernel, refused):
    with refused("attest.collect-kind-unknown"):
        collector("abacus", kernel.guest)
    with refused("attest.collect-ak-missing"):
        collector("tpm", kernel.guest)


# --- the attester ---------------------------------------------------------------------------------------------------


def test_a_tds_evidence_verifies_end_to_end(kernel, lab):
    kernel.plug("dev/tdx_guest", Device())
    kernel.mount_tsm(FakeTsm("tdx_guest", lambda data, _: lab.platform.quote(td_body(data))))
    kernel.write("sys/firmware/acpi/tables/data/CCEL", event_log(WORKLOAD))

    def endorse(hardware):
        return msgspec.structs.replace(hardware, collateral=lab.platform.collateral())

    attester = GuestAttester.open(guest=kernel.guest, endorse=endorse)
    assert (attester.kind, attester.tee) == ("configfs-tsm", "tdx")
    evidence = attester.evidence(CLAIMS.encode(), NONCE)
    assert evidence.devices == NO_DEVICES
    appraisal = verify(evidence, lab.policy, nonce=NONCE, now=NOW)
    assert appraisal.claims == CLAIMS
    assert appraisal.measurements == lab.verify().measurements


@pytest.mark.parametrize("kind", ["tdx-guest", "sev-guest", "nsm", "dstack", "azure-vtpm", "gcp-vtpm", "tpm"])
def test_every_kind(kernel, lab, kind):
    """Each kind is the collector of that name; `tee` is what it gives."""
    fake = FakeTpm(tpm=SoftTpm())
    fake.handles[0x81000003] = template = fake.tpm.public()
    runtime = claims(fake.tpm)
    certificate = amd().vek()
    fake.nv = {
        0x01400001: Nv(hcl_report(amd().report(), runtime)),
        0x01C10000: Nv(certificate),
        0x01C10001: Nv(template),
    }
    fake.templates[template] = 0x80000000
    for path, device in {"tdx_guest": FakeTdx(), "sev-guest": FakeSev(), "nsm": FakeNsm(), "tpmrm0": fake}.items():
        kernel.plug(f"dev/{path}", device)
    kernel.services = {
        (socket.AF_VSOCK, (2, 4050)): quote_service(lab),
        (socket.AF_UNIX, str(kernel.root / dstack.SOCKET)): dstack_agent(lab, "[]"),
    }
    attester = GuestAttester.open(kind, guest=kernel.guest, options=Options(ak_handle=0x81000003))
    tees = {"tdx-guest": "tdx", "sev-guest": "snp", "nsm": "nitro", "dstack": "tdx", "azure-vtpm": "az-snp-vtpm"}
    assert attester.tee == tees.get(kind, kind)


def test_the_collector_is_tried_when_it_is_opened(kernel, refused):
    kernel.plug("dev/sev-guest", FakeSev(errors=[(errno.ENOTTY, 0, 0)]))
    with refused("attest.collect-channel-closed"):
        GuestAttester.open(guest=kernel.guest)


def test_evidence_above_the_limit_is_not_handed_out(kernel, refused):
    kernel.plug("dev/sev-guest", FakeSev())
    attester = GuestAttester.open(guest=kernel.guest)
    with refused("attest.collect-oversized"):
        attester.evidence(bytes(4 << 20), NONCE)


def test_a_sealing_key_of_snp(kernel):
    fake = FakeSev()
    kernel.plug("dev/sev-guest", fake)
    attester = GuestAttester.open(guest=kernel.guest)
    key = attester.sealing_key(b"state")
    assert len(key) == 32
    assert key == GuestAttester.open(guest=kernel.guest).sealing_key(b"state")
    assert key != attester.sealing_key(b"other")
    answer = fake.answer
    fake.answer = lambda response: response[:32] + bytes([1]) * 32 if len(response) == 64 else answer(response)
    assert key != attester.sealing_key(b"state")  # another chip


def test_no_sealing_key_elsewhere(kernel, refused):
    kernel.plug("dev/nsm", FakeNsm())
    attester = GuestAttester.open(guest=kernel.guest)
    with refused("attest.collect-sealing-unavailable") as refusal:
        attester.sealing_key(b"state")
    assert "broker" in refusal.value.hint


# --- dstack ---------------------------------------------------------------------------------------------------------


def test_dstack(kernel, lab):
    kernel.services[socket.AF_UNIX, str(kernel.root / dstack.SOCKET)] = dstack_agent(lab, '[{"imr": 3}]')
    hardware = dstack.collect(DATA, guest=kernel.guest)
    assert hardware.event_log == b'[{"imr": 3}]'


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"quote": "xy"}, "attest.collect-malformed"),
        ({"quote": ""}, "attest.collect-malformed"),
        ({"quote": "", "event_log": "x" * (1 << 20)}, "attest.collect-oversized"),
        ({}, "attest.collect-malformed"),
    ],
)
def test_dstack_answers_nonsense(kernel, refused, body, code):
    service = http_service(lambda line, request: ok(body))
    kernel.services[socket.AF_UNIX, str(kernel.root / dstack.SOCKET)] = service
    with refused(code):
        dstack.collect(DATA, guest=kernel.guest)


def test_dstack_logs_have_a_limit(kernel, lab, refused, monkeypatch):
    monkeypatch.setattr(dstack, "MAX_EVENT_LOG_BYTES", 10)
    kernel.services[socket.AF_UNIX, str(kernel.root / dstack.SOCKET)] = dstack_agent(lab, "[" + " " * 10)
    with refused("attest.collect-malformed"):
        dstack.collect(DATA, guest=kernel.guest)


# --- GPUs -----------------------------------------------------------------------------------------------------------


class NvmlError(Exception):
    pass


class StateStruct(ctypes.Structure):  # nvmlConfComputeSystemState_t
    _fields_ = [("environment", ctypes.c_uint), ("ccFeature", ctypes.c_uint), ("devToolsMode", ctypes.c_uint)]


class CertificateStruct(ctypes.Structure):  # nvmlConfComputeGpuCertificate_t
    _fields_ = [
        ("certChainSize", ctypes.c_uint),
        ("attestationCertChainSize", ctypes.c_uint),
        ("certChain", ctypes.c_uint8 * 0x1000),
        ("attestationCertChain", ctypes.c_uint8 * 0x1400),
    ]


class ReportStruct(ctypes.Structure):  # nvmlConfComputeGpuAttestationReport_t
    _fields_ = [
        ("isCecAttestationReportPresent", ctypes.c_uint),
        ("attestationReportSize", ctypes.c_uint),
        ("cecAttestationReportSize", ctypes.c_uint),
        ("nonce", ctypes.c_uint8 * 0x20),
        ("attestationReport", ctypes.c_uint8 * 0x2000),
        ("cecAttestationReport", ctypes.c_uint8 * 0x1000),
    ]


class FakeNvml:
    """`pynvml` with GPUs of our own."""

    NVMLError = NvmlError

    def __init__(self, lab: NvidiaLab, count: int = 1, state=(2, 1, 0)) -> None:
        self.lab = lab
        self.chips = [lab.chip(pdi=b"gpu%05d" % number) for number in range(count)]
        self.state = state
        self.fails: set[str] = set()
        self.started = 0
        self.size: int | None = None
        self.nonce: bytes | None = None

    def _call(self, name: str) -> None:
        if name in self.fails:
            raise NvmlError("Not Supported")
        assert self.started > 0 or name == "init"

    def nvmlInit(self):
        self._call("init")
        self.started += 1

    def nvmlShutdown(self):
        self.started -= 1

    def nvmlSystemGetConfComputeState(self):
        self._call("state")
        return StateStruct(*self.state)

    def nvmlSystemGetDriverVersion(self):
        return "570.10.20"

    def nvmlDeviceGetCount(self):
        self._call("count")
        return len(self.chips)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.chips[index]

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA H100"

    def nvmlDeviceGetVbiosVersion(self, handle):
        return "96.00.9F.00.01"

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle):
        self._call("certificate")
        answer = CertificateStruct()
        pem = handle.pem + b"\0"
        answer.attestationCertChainSize = len(pem)
        answer.attestationCertChain[: len(pem)] = pem
        return answer

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle, nonce):
        self._call("report")
        assert len(nonce) == 0x20
        answer = ReportStruct()
        report = self.lab.report(handle, nonce=self.nonce or bytes(nonce))
        answer.attestationReportSize = len(report) if self.size is None else self.size
        answer.attestationReport[: len(report)] = report
        return answer


@pytest.fixture(scope="module")
def nvidia_lab():
    return NvidiaLab()


def test_gpus(nvidia_lab):
    fake = FakeNvml(nvidia_lab, 2)
    entries = nvml.collect(nvidia.device_nonce(NONCE), nvml=fake)
    assert fake.started == 0
    endorsed = msgspec.structs.replace(entries[0], rims=nvidia_lab.rims(), ocsp=nvidia_lab.statuses(*fake.chips))
    devices = nvidia_lab.verify(endorsed, *entries[1:], nonce=NONCE)
    assert [device.kind for device in devices] == ["gpu", "gpu"]


def test_gpus_bound_to_the_processor(kernel, nvidia_lab):
    """The processor's report covers the GPU's evidence, and both answer the same nonce."""
    kernel.plug("dev/sev-guest", FakeSev())
    attester = GuestAttester.open(guest=kernel.guest, gpus=FakeNvml(nvidia_lab))
    evidence = attester.evidence(CLAIMS.encode(), NONCE)
    expected = report_data(NONCE, CLAIMS.encode(), evidence.devices)
    assert amd().appraise(amd().hardware(evidence.quote)).report_data == expected
    (entry,) = nvidia.decode_devices(evidence.devices)
    endorsed = nvidia_lab.full(attester.gpus.chips[0])
    entry = msgspec.structs.replace(entry, rims=endorsed.rims, ocsp=endorsed.ocsp)
    assert nvidia_lab.verify(entry, nonce=NONCE)[0].kind == "gpu"


@pytest.mark.parametrize("name", ["init", "count", "report", "certificate"])
def test_gpu_failures(nvidia_lab, refused, name):
    fake = FakeNvml(nvidia_lab)
    fake.fails = {name}
    with refused("attest.collect-gpu-failed"):
        nvml.collect(bytes(32), nvml=fake)
    assert fake.started == 0


def test_no_gpu(nvidia_lab, refused, monkeypatch):
    with refused("attest.collect-gpu-missing"):
        nvml.collect(bytes(32), nvml=FakeNvml(nvidia_lab, 0))
    monkeypatch.setattr(nvml, "library", lambda: None)
    with refused("attest.collect-gpu-missing") as refusal:
        nvml.collect(bytes(32))
    assert "nvidia-ml-py" in refusal.value.message


@pytest.mark.parametrize("size", [0, 100, 0x2001])
def test_gpu_reports_of_a_wrong_size(nvidia_lab, refused, size):
    fake = FakeNvml(nvidia_lab)
    fake.size = size
    with refused("attest.collect-malformed"):
        nvml.collect(bytes(32), nvml=fake)


def test_a_gpu_report_over_another_nonce(nvidia_lab, refused):
    fake = FakeNvml(nvidia_lab)
    fake.nonce = bytes(31) + b"\1"
    with refused("attest.collect-report-data-mismatch"):
        nvml.collect(bytes(32), nvml=fake)
    with refused("attest.nonce-malformed"):
        nvml.collect(bytes(31), nvml=fake)


def test_what_nvml_says(nvidia_lab):
    told = nvml.describe(FakeNvml(nvidia_lab))
    assert (told.confidential, told.production, told.dev_tools) == (True, True, False)
    assert told.names == ("NVIDIA H100",)
    assert told.vbios == ("96.00.9F.00.01",)
    debugged = nvml.describe(FakeNvml(nvidia_lab, state=(1, 0, 1)))
    assert (debugged.confidential, debugged.production, debugged.dev_tools) == (False, False, True)
    older = FakeNvml(nvidia_lab)
    older.fails = {"state"}
    assert not nvml.describe(older).confidential


def test_the_library_is_pynvml(monkeypatch, nvidia_lab):
    fake = FakeNvml(nvidia_lab)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml.library() is fake
    assert len(nvml.collect(bytes(32))) == 1
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.library() is None


# --- the real calls -------------------------------------------------------------------------------------------------


def test_real_calls(tmp_path):
    """The defaults of `Guest` are the system's own calls: a socket's queue is read with an ioctl, a service is met."""
    here = Guest(root=tmp_path)
    (tmp_path / "file").write_bytes(b"content")
    assert guest.read(here, "file", 7, "a file") == b"content"
    with pytest.raises(AttestError):
        guest.read(here, "file", 6, "a file")
    with pytest.raises(AttestError) as missing:
        guest.read(here, "other", 6, "a file")
    assert missing.value.code == "attest.collect-missing"
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with here.connect(socket.AF_UNIX, path) as ours, server.accept()[0] as theirs:
            theirs.sendall(b"12345")
            argument = bytearray(4)
            here.ioctl(ours.fileno(), 0x541B, argument)  # FIONREAD
            assert int.from_bytes(argument, sys.byteorder) == 5
    with pytest.raises(ConnectionRefusedError):
        here.connect(socket.AF_UNIX, path)


def test_ioctl_on_what_takes_none(tmp_path):
    (tmp_path / "dev").mkdir()
    for device in ("sev-guest", "nsm", "tdx_guest"):
        (tmp_path / "dev" / device).write_bytes(b"")
    for kind, code in {
        "sev-guest": "attest.collect-channel-closed",
        "nsm": "attest.collect-failed",
        "tdx-guest": "attest.collect-failed",
    }.items():
        with pytest.raises(MitaiError) as refusal:
            collector(kind, Guest(root=tmp_path))(DATA)
        assert refusal.value.code == code


def test_refusals_name_errors_without_numbers():
    assert "OSError" in guest.refusal(OSError("no number"), "it").message
