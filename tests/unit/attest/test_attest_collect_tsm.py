"""configfs-tsm: collected evidence verifies, and every way in which the interface can disappoint."""

from __future__ import annotations

import errno

import pytest

import attest_cca_lab as cca
from attest_collect_lab import REPORTS, FakeKernel, FakeTsm, failure, td_body
from attest_lab import NOW
from attest_snp_lab import NOW as SNP_NOW
from attest_snp_lab import amd, table
from mitai.attest import verify_quote
from mitai.attest.collect import tsm
from mitai.attest.collect.guest import ATTEMPTS

DATA = bytes(range(64))
CCEL = "sys/firmware/acpi/tables/data/CCEL"


@pytest.fixture
def kernel(tmp_path):
    return FakeKernel(tmp_path)


def tdx(lab, **more) -> FakeTsm:
    return FakeTsm("tdx_guest", lambda data, _: lab.platform.quote(td_body(data)), **more)


def snp(**more) -> FakeTsm:
    def report(data: bytes, level: int) -> bytes:
        if len(data) != 64:
            raise failure(errno.EINVAL)
        return amd().report({0x50: data, 0x30: level.to_bytes(4, "little")})

    return FakeTsm("sev_guest", report, **{"floor": 0, "table": b"", **more})


def test_a_td(kernel, lab):
    fake = kernel.mount_tsm(tdx(lab))
    kernel.write(CCEL, b"the log")
    hardware = tsm.collect(DATA, guest=kernel.guest)
    assert hardware.event_log == b"the log"
    machine = verify_quote(hardware.quote, lab.platform.collateral(), lab.policy, now=NOW)
    assert machine.report_data == DATA
    assert len(fake.made) == 1
    assert fake.entries == {}
    assert tsm.provider(kernel.guest) == "tdx_guest"


def test_snp_with_the_hosts_certificates(kernel):
    endorsed = table(vcek=amd().vek(), ask=amd().ask, ark=amd().ark, crl=amd().crl())
    kernel.mount_tsm(snp(table=endorsed))
    hardware = tsm.collect(DATA, guest=kernel.guest)
    assert hardware.endorsements == {"certs": endorsed}
    assert amd().appraise(hardware, now=SNP_NOW).report_data == DATA


def test_snp_below_a_paravisor(kernel):
    kernel.mount_tsm(snp(floor=2))
    report = tsm.collect(DATA, guest=kernel.guest).quote
    assert report[0x30] == 2


def test_snp_without_certificates(kernel):
    kernel.mount_tsm(snp())
    assert tsm.collect(DATA, guest=kernel.guest).endorsements == {}


def test_a_realm(kernel):
    kernel.mount_tsm(FakeTsm("arm_cca_guest", lambda data, _: cca.token(realm={"_10": data})))
    hardware = tsm.collect(DATA, guest=kernel.guest)
    assert cca.check(hardware.quote).report_data == DATA


def test_another_writer_is_noticed(kernel, lab, refused):
    fake = kernel.mount_tsm(tdx(lab, other_writers=[bytes(64)]))
    hardware = tsm.collect(DATA, guest=kernel.guest)
    assert lab.policy is not None
    assert hardware.quote != lab.platform.quote(td_body(bytes(64)))
    assert len(fake.made) == 2
    assert kernel.slept == [0.5]
    fake.other_writers = [bytes(64)] * ATTEMPTS
    with refused("attest.collect-generation-changed"):
        tsm.collect(DATA, guest=kernel.guest)
    assert fake.entries == {}


def test_a_lost_write_is_noticed(kernel, lab, refused):
    """What the kernel refuses when the file is closed is told to nobody; the generation shows it."""
    fake = kernel.mount_tsm(snp(floor=3))
    fake.floor = 9  # no level is in reach
    with refused("attest.collect-generation-changed"):
        tsm.collect(DATA, guest=kernel.guest)


def test_a_report_over_other_bytes_is_refused(kernel, lab, refused):
    kernel.mount_tsm(FakeTsm("tdx_guest", lambda data, _: lab.platform.quote(td_body(bytes(64)))))
    with refused("attest.collect-report-data-mismatch"):
        tsm.collect(DATA, guest=kernel.guest)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.EINTR])
def test_busy(kernel, lab, refused, number):
    fake = kernel.mount_tsm(tdx(lab, errors={"outblob": [number] * 2}))
    assert tsm.collect(DATA, guest=kernel.guest).tee == "tdx"
    fake.errors = {"outblob": [number] * ATTEMPTS}
    with refused("attest.collect-busy"):
        tsm.collect(DATA, guest=kernel.guest)
    assert fake.entries == {}


@pytest.mark.parametrize(
    ("file", "number", "code"),
    [
        ("mkdir", errno.ENXIO, "attest.collect-missing"),  # no provider is loaded
        ("mkdir", errno.EACCES, "attest.collect-permission"),
        ("inblob", errno.EPERM, "attest.collect-permission"),
        ("outblob", errno.ETIMEDOUT, "attest.collect-timeout"),  # the host's quoting enclave does not answer
        ("outblob", errno.EFBIG, "attest.collect-oversized"),
        ("outblob", errno.ENXIO, "attest.collect-missing"),
        ("outblob", errno.EIO, "attest.collect-failed"),
        ("outblob", errno.EINVAL, "attest.collect-failed"),
        ("auxblob", errno.EIO, "attest.collect-failed"),
        ("privlevel_floor", errno.EIO, "attest.collect-failed"),
    ],
)
def test_failures(kernel, refused, file, number, code):
    fake = kernel.mount_tsm(snp(errors={file: [number]}))
    with refused(code) as refusal:
        tsm.collect(DATA, guest=kernel.guest)
    assert errno.errorcode[number] in refusal.value.message or code.endswith(("timeout", "oversized"))
    assert fake.entries == {}


def test_a_request_that_cannot_be_removed_does_no_harm(kernel):
    kernel.mount_tsm(snp(errors={"rmdir": [errno.EBUSY]}))
    assert tsm.collect(DATA, guest=kernel.guest).tee == "snp"


def test_no_interface(kernel, refused):
    with refused("attest.collect-missing"):
        tsm.collect(DATA, guest=kernel.guest)
    kernel.write(f"{REPORTS}/x", b"")
    with refused("attest.collect-missing"):  # a folder that is not configfs makes no files
        tsm.collect(DATA, guest=kernel.guest)


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"provider": b"another_guest\n"}, "attest.collect-provider-unknown"),
        ({"provider": b"\xff\xfe"}, "attest.collect-provider-unknown"),
        ({"generation": b"many\n"}, "attest.collect-malformed"),
        ({"generation": b""}, "attest.collect-malformed"),
        ({"generation": b"7\n"}, "attest.collect-generation-changed"),
        ({"outblob": b""}, "attest.collect-malformed"),
        ({"outblob": bytes(1183)}, "attest.collect-malformed"),
        ({"outblob": bytes(tsm.MAX_BLOB_BYTES + 1)}, "attest.collect-oversized"),
        ({"auxblob": bytes(tsm.MAX_BLOB_BYTES + 1)}, "attest.collect-oversized"),
    ],
)
def test_too_much_too_little_and_nonsense(kernel, refused, answers, code):
    fake = kernel.mount_tsm(snp(answers=answers))
    with refused(code):
        tsm.collect(DATA, guest=kernel.guest)
    assert fake.entries == {}


@pytest.mark.parametrize("size", [0, 32, 65])
def test_report_data_has_64_bytes(kernel, refused, size):
    with refused("attest.collect-report-data-malformed"):
        tsm.collect(bytes(size), guest=kernel.guest)


def test_a_short_write_is_refused(kernel, refused, monkeypatch):
    kernel.mount_tsm(snp())
    write = tsm.os.write
    monkeypatch.setattr(tsm.os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with refused("attest.collect-malformed"):
        tsm.collect(DATA, guest=kernel.guest)
