"""Parsing of SEV-SNP reports: every version, every reserved bit."""

from __future__ import annotations

import struct

import pytest

from attest_snp_lab import ALGORITHM, CPUID, KEY_INFO, MITIGATIONS, PLATFORM, POLICY, VMPL, amd, table
from mitai.attest.snp import parse_report
from mitai.attest.snp.report import (
    MAX_TABLE_BYTES,
    PLATFORM_BITS,
    POLICY_BITS,
    parse_certificate_table,
    tcb_components,
)

RESERVED_V5 = [0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x208, 0x29F]


def test_fields():
    report = parse_report(amd().report())
    assert (report.version, report.guest_svn, report.vmpl, report.signing_key) == (3, 7, 0, "vcek")
    assert report.policy_flags == {"smt"}
    assert report.policy_abi == (0, 31)
    assert report.platform_flags == {"smt", "tsme", "ecc", "alias-check-complete"}
    assert report.author_key_en
    assert not report.mask_chip_key
    assert report.product == "Genoa"
    assert str(report.current) == "1.55.40"
    assert report.launch_mit_vector is None
    assert len(report.signed) == 0x2A0


def test_versions():
    assert parse_report(amd().report(version=2)).product is None
    assert parse_report(amd().report(version=4)).current_mit_vector is None
    newest = parse_report(amd().report(version=5))
    assert (newest.launch_mit_vector, newest.current_mit_vector) == (5, 7)


@pytest.mark.parametrize("version", [0, 1, 6, 0xFFFFFFFF])
def test_unknown_version(version, refused):
    with refused("attest.snp-report-version-unsupported"):
        parse_report(amd().report({0: struct.pack("<I", version)}))


@pytest.mark.parametrize("size", [0, 1, 1183, 1185, 4096])
def test_size(size, refused):
    with refused("attest.snp-report-malformed"):
        parse_report(amd().report()[:size].ljust(size, b"\0"))


@pytest.mark.parametrize("offset", RESERVED_V5)
@pytest.mark.parametrize("version", [3, 4, 5])
def test_reserved_bytes(version, offset, refused):
    with refused("attest.snp-report-malformed"):
        parse_report(amd().report({offset: b"\x01"}, version=version))


@pytest.mark.parametrize(("version", "offset"), [(2, 0x188), (2, 0x18A), (3, MITIGATIONS), (4, MITIGATIONS + 15)])
def test_fields_of_later_versions(version, offset, refused):
    with refused("attest.snp-report-malformed"):
        parse_report(amd().report({offset: b"\x01"}, version=version))


@pytest.mark.parametrize("offset", [0x2A0 + 48, 0x2A0 + 71, 0x2A0 + 72 + 48, 0x2A0 + 143, 0x2A0 + 144, 1183])
def test_reserved_bytes_of_the_signature(offset, refused):
    report = bytearray(amd().report())
    report[offset] = 1
    with refused("attest.snp-report-malformed"):
        parse_report(bytes(report))


@pytest.mark.parametrize("bit", range(5, 32))
def test_reserved_key_information(bit, refused):
    with refused("attest.snp-report-malformed"):
        parse_report(amd().report({KEY_INFO: struct.pack("<I", 1 << bit)}))


@pytest.mark.parametrize("selector", range(8))
def test_signing_key(selector, refused):
    report = amd().report({KEY_INFO: struct.pack("<I", selector << 2)})
    if selector < 2:
        assert parse_report(report).signing_key == ("vcek", "vlek")[selector]
        return
    with refused("attest.snp-unsigned" if selector == 7 else "attest.snp-signing-key-unsupported"):
        parse_report(report)


@pytest.mark.parametrize("algorithm", [0, 2, 1 << 31])
def test_signature_algorithm(algorithm, refused):
    with refused("attest.snp-signature-algorithm-unsupported"):
        parse_report(amd().report({ALGORITHM: struct.pack("<I", algorithm)}))


@pytest.mark.parametrize("vmpl", [4, 0xFFFFFFFF])
def test_report_of_the_host(vmpl, refused):
    with refused("attest.snp-vmpl-invalid"):
        parse_report(amd().report({VMPL: struct.pack("<I", vmpl)}))


@pytest.mark.parametrize("bit", range(16, 64))
def test_policy_bits(bit, refused):
    known = {number: name for name, number in POLICY_BITS.items()}
    policy = (1 << 17) ^ (1 << bit)
    report = amd().report({POLICY: struct.pack("<Q", policy)})
    if bit in known:
        assert parse_report(report).policy_flags == {known[bit]}
        return
    with refused("attest.snp-policy-reserved"):
        parse_report(report)


@pytest.mark.parametrize("bit", range(64))
def test_platform_bits(bit):
    known = {number: name for name, number in PLATFORM_BITS.items()}
    report = parse_report(amd().report({PLATFORM: struct.pack("<Q", 1 << bit)}))
    assert report.platform_info == 1 << bit
    assert report.platform_flags == ({known[bit]} if bit in known else set())


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [(0x19, 0x01, "Milan"), (0x19, 0x11, "Genoa"), (0x19, 0xA0, "Genoa"), (0x1A, 0x02, "Turin"), (0x1A, 0x11, "Turin")],
)
def test_products(family, model, product):
    assert parse_report(amd().report({0x188: bytes((family, model, 0))})).product == product


@pytest.mark.parametrize(("family", "model"), [(0x17, 0x31), (0x19, 0x20), (0x1A, 0x50), (0, 0)])
def test_unknown_product(family, model, refused):
    with refused("attest.snp-product-unknown"):
        parse_report(amd().report({0x188: bytes((family, model, 0))}))


def test_names_of_tcb_components():
    assert tcb_components("Milan", bytes((4, 1, 9, 9, 9, 9, 24, 219))) == {
        "bootloader": 4,
        "tee": 1,
        "snp": 24,
        "microcode": 219,
    }
    assert list(tcb_components("Turin", bytes(8))) == ["fmc", "bootloader", "tee", "snp", "microcode"]


def test_cpuid_of_the_lab():
    for product, cpuid in CPUID.items():
        assert parse_report(amd().report({0x188: cpuid})).product == product


def test_certificate_table():
    blobs = parse_certificate_table(table(vcek=b"one", other=b"two") + b"padding")
    assert blobs == {"63da758d-e664-4564-adc5-f4b93be8accd": b"one", "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6": b"two"}
    assert parse_certificate_table(bytes(24)) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(23),
        table(vcek=b"one")[:24],
        table(vcek=b"one")[:-1],
        table(vcek=b"one")[:24] * 2 + bytes(24) + b"one",
        bytes(MAX_TABLE_BYTES + 1),
        b"".join(bytes([1 + n]) * 16 + struct.pack("<II", 0, 60) for n in range(2)) + bytes(24),
    ],
    ids=["empty", "short", "no end", "outside", "double", "large", "overlap"],
)
def test_malformed_certificate_table(data, refused):
    with refused("attest.snp-certificate-table-malformed"):
        parse_certificate_table(data)
