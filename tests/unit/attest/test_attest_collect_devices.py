"""/dev/tdx_guest, /dev/sev-guest and /dev/nsm: collected evidence verifies, and every refusal."""

from __future__ import annotations

import errno
import hashlib
import socket
import struct

import pytest

from attest_collect_lab import FakeKernel, FakeNsm, FakeSev, FakeTdx, quote_service
from attest_cose_lab import cbor
from attest_lab import NOW
from attest_nitro_lab import Lab as NitroLab
from attest_snp_lab import amd, table
from mitai.attest import verify_quote
from mitai.attest.collect import nsm, sev, tdx
from mitai.attest.collect.guest import ATTEMPTS

DATA = bytes(range(64))
VMPL = "sys/devices/system/cpu/sev/vmpl"
QGS = (socket.AF_VSOCK, (2, 4050))


@pytest.fixture
def kernel(tmp_path):
    kernel = FakeKernel(tmp_path)
    yield kernel
    kernel.end()


# --- TDX ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def td(kernel, lab):
    kernel.plug("dev/tdx_guest", FakeTdx())
    kernel.services[QGS] = quote_service(lab)
    return kernel


def test_tdx_through_the_hosts_quote_service(td, lab):
    td.write("sys/firmware/acpi/tables/data/CCEL", b"the log")
    hardware = tdx.collect(DATA, guest=td.guest)
    assert hardware.event_log == b"the log"
    assert verify_quote(hardware.quote, lab.platform.collateral(), lab.policy, now=NOW).report_data == DATA


def test_tdx_service_port(td, lab, refused):
    td.services = {(socket.AF_VSOCK, (2, 5000)): quote_service(lab)}
    with refused("attest.collect-missing"):
        tdx.collect(DATA, guest=td.guest)
    assert tdx.collect(DATA, guest=td.guest, port=5000).tee == "tdx"
    td.write("etc/tdx-attest.conf", b"# Intel's\nport = 5000\n")
    assert tdx.collect(DATA, guest=td.guest).tee == "tdx"
    td.write("etc/tdx-attest.conf", b"#port=5000\n")
    with refused("attest.collect-missing"):
        tdx.collect(DATA, guest=td.guest)


def test_tdreport(td, refused):
    report = tdx.tdreport(DATA, guest=td.guest)
    assert len(report) == 1024
    td.devices["dev/tdx_guest"].damage = lambda report: report[:128] + bytes(64) + report[192:]
    with refused("attest.collect-malformed"):
        tdx.tdreport(DATA, guest=td.guest)
    td.devices["dev/tdx_guest"].damage = lambda report: b"\x80" + report[1:]
    with refused("attest.collect-malformed"):
        tdx.tdreport(DATA, guest=td.guest)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EIO, "attest.collect-failed"), (errno.ENOTTY, "attest.collect-failed")]
)
def test_tdx_device_fails(td, refused, number, code):
    td.devices["dev/tdx_guest"].error = number
    with refused(code):
        tdx.collect(DATA, guest=td.guest)


def test_tdx_device_missing_or_denied(kernel, td, refused):
    td.denied.add("dev/tdx_guest")
    with refused("attest.collect-permission"):
        tdx.collect(DATA, guest=td.guest)
    (td.root / "dev/tdx_guest").unlink()
    td.denied.clear()
    td.devices.clear()
    with refused("attest.collect-missing"):
        tdx.collect(DATA, guest=td.guest)


def edited(offset: int, value: bytes):
    return lambda answer: answer[:offset] + value + answer[offset + len(value) :]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda answer: b"", "attest.collect-malformed"),
        (lambda answer: answer[:15], "attest.collect-malformed"),
        (lambda answer: edited(8, struct.pack("<I", 20))(answer)[:20], "attest.collect-malformed"),
        (lambda answer: answer[:-1], "attest.collect-malformed"),
        (lambda answer: answer + b"\0", "attest.collect-malformed"),
        (edited(0, b"\x02"), "attest.collect-malformed"),
        (edited(4, b"\x03"), "attest.collect-malformed"),
        (edited(12, b"\x05"), "attest.collect-firmware-error"),
        (edited(16, b"\x01"), "attest.collect-malformed"),
        (edited(20, b"\xff\xff\xff\xff"), "attest.collect-malformed"),
        (edited(24, b"\xff\xff"), "attest.collect-malformed"),  # the quote itself
        (lambda answer: bytes(tdx.MAX_MESSAGE_BYTES + 1), "attest.collect-oversized"),
    ],
)
def test_tdx_service_answers_nonsense(td, lab, refused, change, code):
    td.services[QGS] = quote_service(lab, change)
    with refused(code):
        tdx.collect(DATA, guest=td.guest)


def test_tdx_service_hangs_up_or_is_slow(td, refused):
    td.services[QGS] = lambda connection: connection.recv(1 << 16)
    with refused("attest.collect-malformed"):
        tdx.collect(DATA, guest=td.guest)

    def never(family, address):
        raise TimeoutError

    from dataclasses import replace

    with refused("attest.collect-timeout"):
        tdx.collect(DATA, guest=replace(td.guest, connect=never))


def test_a_quote_over_other_bytes_is_refused(td, lab, refused):
    other = tdx.quote_of(tdx.tdreport(bytes(64), guest=td.guest), guest=td.guest)
    td.services[QGS] = quote_service(lab, lambda answer: answer[:24] + other)
    with refused("attest.collect-report-data-mismatch"):
        tdx.collect(DATA, guest=td.guest)


# --- SEV-SNP --------------------------------------------------------------------------------------------------------


def sev_guest(kernel, **more) -> FakeSev:
    fake = FakeSev(**more)
    kernel.plug("dev/sev-guest", fake)
    return fake


def test_snp_with_certificates(kernel):
    endorsed = table(vcek=amd().vek(), ask=amd().ask, ark=amd().ark, crl=amd().crl())
    fake = sev_guest(kernel, table=endorsed)
    hardware = sev.collect(DATA, guest=kernel.guest)
    assert hardware.endorsements["certs"].rstrip(b"\0") == endorsed.rstrip(b"\0")
    assert amd().appraise(hardware).report_data == DATA
    assert fake.calls == [2]


def test_snp_without_certificates(kernel):
    sev_guest(kernel)
    hardware = sev.collect(DATA, guest=kernel.guest)
    assert hardware.endorsements == {}
    assert amd().appraise(amd().hardware(hardware.quote)).report_data == DATA


def test_snp_hosts_table_larger_than_any_buffer(kernel):
    fake = sev_guest(kernel, needed_bytes=0x5000)
    assert sev.collect(DATA, guest=kernel.guest).endorsements == {}
    assert fake.calls == [2, 0]


def test_snp_privilege_level(kernel, refused):
    sev_guest(kernel, vmpl=2)
    with refused("attest.collect-firmware-error") as refusal:
        sev.collect(DATA, guest=kernel.guest)
    assert "0x16" in refusal.value.message
    assert sev.collect(DATA, guest=kernel.guest, vmpl=3).quote[0x30] == 3
    kernel.write(VMPL, b"2\n")
    assert sev.collect(DATA, guest=kernel.guest).quote[0x30] == 2
    kernel.write(VMPL, b"many\n")
    with refused("attest.collect-malformed"):
        sev.collect(DATA, guest=kernel.guest)


@pytest.mark.parametrize(
    "busy", [(errno.EAGAIN, 0, 0), (errno.EBUSY, 0, 0), (errno.EINTR, 0, 0), (errno.EIO, 0, 2)], ids=str
)
def test_snp_busy(kernel, refused, busy):
    fake = sev_guest(kernel, errors=[busy] * (ATTEMPTS - 1))
    assert sev.collect(DATA, guest=kernel.guest).tee == "snp"
    assert kernel.slept == [0.5] * (ATTEMPTS - 1)
    fake.errors = [busy] * ATTEMPTS
    with refused("attest.collect-busy"):
        sev.collect(DATA, guest=kernel.guest)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ((errno.ENOTTY, 0, 0), "attest.collect-channel-closed"),
        ((errno.ETIMEDOUT, 0, 2), "attest.collect-timeout"),
        ((errno.EIO, 0x16, 0), "attest.collect-firmware-error"),
        ((errno.EIO, 0, 7), "attest.collect-failed"),
        ((errno.EIO, 0xFF, 0), "attest.collect-failed"),  # the firmware was not called
        ((errno.EBADMSG, 0, 0), "attest.collect-failed"),
        ((errno.ENXIO, 0, 0), "attest.collect-missing"),
    ],
)
def test_snp_failures(kernel, refused, error, code):
    sev_guest(kernel, errors=[error])
    with refused(code):
        sev.collect(DATA, guest=kernel.guest)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda response: b"\x27" + response[1:], "attest.collect-firmware-error"),
        (lambda response: response[:4] + b"\0\0\0\0" + response[8:], "attest.collect-malformed"),
        (lambda response: response[:32], "attest.collect-malformed"),  # a report of zeros
        (
            lambda response: response[: 32 + 0x50] + bytes(64) + response[32 + 0x90 :],
            "attest.collect-report-data-mismatch",
        ),
    ],
)
def test_snp_answers_nonsense(kernel, refused, answer, code):
    sev_guest(kernel, answer=answer)
    with refused(code):
        sev.collect(DATA, guest=kernel.guest)


def test_snp_device_missing_or_denied(kernel, refused):
    with refused("attest.collect-missing"):
        sev.collect(DATA, guest=kernel.guest)
    sev_guest(kernel)
    kernel.denied.add("dev/sev-guest")
    with refused("attest.collect-permission"):
        sev.collect(DATA, guest=kernel.guest)
    with refused("attest.collect-permission"):
        sev.derived_key(guest=kernel.guest)


def test_snp_derived_key(kernel, refused):
    fake = sev_guest(kernel)
    key = sev.derived_key(guest=kernel.guest)
    selected = 0b1111  # policy, image id, family id, measurement
    assert key == hashlib.sha256(b"chip" + struct.pack("<QIIQ", selected, 0, 0, 0)).digest()
    assert sev.derived_key(guest=kernel.guest, vmpl=1) != key
    fake.vmpl = 1
    with refused("attest.collect-firmware-error"):
        sev.derived_key(guest=kernel.guest)
    fake.answer = lambda response: bytes(64)
    with refused("attest.collect-malformed"):
        sev.derived_key(guest=kernel.guest)


# --- Nitro ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def enclave(kernel):
    fake = FakeNsm()
    kernel.plug("dev/nsm", fake)
    return kernel, fake


def test_nitro(enclave):
    kernel, fake = enclave
    hardware = nsm.collect(DATA, guest=kernel.guest)
    assert NitroLab.build().appraise(hardware.quote).report_data == DATA
    fields = {"user_data": DATA, "nonce": None, "public_key": None}
    assert fake.requests == [cbor({"Attestation": fields})]


def test_nitro_with_nonce_and_key(enclave, refused):
    kernel, fake = enclave
    hardware = nsm.collect(DATA, nonce=bytes(20), public_key=bytes(300), guest=kernel.guest)
    assert NitroLab.build().appraise(hardware.quote).report_data == DATA
    assert fake.requests == [cbor({"Attestation": {"user_data": DATA, "nonce": bytes(20), "public_key": bytes(300)}})]
    with refused("attest.collect-report-data-malformed"):
        nsm.collect(DATA, nonce=bytes(1025), guest=kernel.guest)


def test_nitro_registers(enclave, refused):
    kernel, fake = enclave
    assert nsm.describe_pcr(3, guest=kernel.guest) == (b"\x03" * 48, True)
    assert fake.requests == [cbor({"DescribePCR": {"index": 3}})]
    with refused("attest.collect-firmware-error") as refusal:
        nsm.describe_pcr(300, guest=kernel.guest)
    assert "InvalidIndex" in refusal.value.message
    for damaged in ({"lock": 1, "data": b""}, {"lock": True}):
        fake.answer = lambda _, damaged=damaged: cbor({"DescribePCR": damaged})
        with refused("attest.collect-malformed"):
            nsm.describe_pcr(3, guest=kernel.guest)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda response: b"", "attest.collect-malformed"),
        (lambda response: response[:-1], "attest.collect-malformed"),
        (lambda response: response + b"\0", "attest.collect-malformed"),
        (lambda response: response + bytes(0x3000), "attest.collect-malformed"),  # truncated by the driver
        (lambda response: cbor("Attestation"), "attest.collect-malformed"),
        (lambda response: cbor({}), "attest.collect-malformed"),
        (lambda response: cbor({"Attestation": 5}), "attest.collect-malformed"),
        (lambda response: cbor({"Attestation": {"document": "text"}}), "attest.collect-malformed"),
        (lambda response: cbor({"Attestation": {"document": b""}}), "attest.collect-malformed"),
        (lambda response: cbor({"DescribePCR": {}}), "attest.collect-malformed"),
        (lambda response: cbor({"Error": "InternalError"}), "attest.collect-firmware-error"),
    ],
)
def test_nitro_answers_nonsense(enclave, refused, answer, code):
    kernel, fake = enclave
    fake.answer = answer
    with refused(code):
        nsm.collect(DATA, guest=kernel.guest)


def test_nitro_answers_an_older_request(enclave, refused):
    kernel, fake = enclave
    older = cbor({"Attestation": {"document": NitroLab.build().document(user_data=bytes(64))}})
    fake.answer = lambda _: older
    with refused("attest.collect-report-data-mismatch"):
        nsm.collect(DATA, guest=kernel.guest)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ETIMEDOUT, "attest.collect-timeout"),
        (errno.ENODATA, "attest.collect-failed"),
        (errno.EMSGSIZE, "attest.collect-oversized"),
        (errno.EPERM, "attest.collect-permission"),
    ],
)
def test_nitro_failures(enclave, refused, number, code):
    kernel, fake = enclave
    fake.error = number
    with refused(code):
        nsm.collect(DATA, guest=kernel.guest)


def test_nitro_length_beyond_the_buffer(enclave, refused):
    """The length is the kernel's to give; a collector does not trust it."""
    kernel, fake = enclave

    def ioctl(request, argument):
        struct.pack_into("<Q", argument, 24, 1 << 40)
        return 0

    fake.ioctl = ioctl
    with refused("attest.collect-malformed"):
        nsm.collect(DATA, guest=kernel.guest)
