"""Launch digests; the expected ones were computed by sev-snp-measure 0.0.13 on the same 8 KiB of firmware."""

from __future__ import annotations

import struct
import uuid

import pytest

from attest_snp_lab import firmware
from mitai.attest.snp.launch import launch_digest, vcpu_signature

QEMU = (
    "c02f5464f8ac4b40ab5a813999b5f4124d74feb08ec4865dfa2c651858b22a906673b640d0fc247499e35e7ac619e0a4",
    "25d0ea428681fd4f11b49e54d3e2963351d2a0f67db99f5240c394b17c61bb58bbfbc74c7e50f75952340f6f7938aac9",
    "372981a7eb0af6800fb9a4d75c33424e5a4a8ae24cad3bafbfae06a92698998d38b32c6d6b66d276bbab059eb42db707",
)
EC2 = (
    "241977e40ec03ece622abbe95fe5c8e0f62219b15875ed234361ced8b85c854387e3302da11b406600156551dc3288b8",
    "7c977dcc23b07e0119b3b090412db3253336b8b03fde1eed743da0f11ff126c7d6bdb244f3963104a91f602577a4307e",
    "fcc8dfab3ff3cf4cfb4a31fd2e95f73b484091ba1fbaf61a3805d3ade81d3211276cb5f57b67f53cc782c61175bd609c",
)
GCE = (
    "1de1cb42ea50fe8c0656ed20aa4bb9a85bcb611763f3e8b96aee4bcf5726dfbda1c85ead6130f03c53a5109548db7401",
    "26a2beed85766b9d7f7f68b1aa4cdcea66b4502d53f40b2bcfdea2881491ac3f5fd7ae47c0fe68d221510ea696c5b2e8",
    "a8d1741348797d9b68e3640446ce7897f6463e1b354d14120aba2c07c887eee11ce435e0d94397206bf3085669df164f",
)
CASES = ({}, {"kernel": b"kernel"}, {"kernel": b"kernel", "initrd": b"initrd", "cmdline": "console=ttyS0"})


@pytest.mark.parametrize(("vmm", "expected"), [("qemu", QEMU), ("ec2", EC2), ("gce", GCE)])
def test_digests(vmm, expected):
    for case, digest in zip(CASES, expected, strict=True):
        found = launch_digest(firmware(), vcpus=2, vcpu="EPYC-Genoa-v1", guest_features=0x21, vmm=vmm, **case)
        assert found.hex() == digest


def test_signature_instead_of_a_name():
    digest = "5f51a9aed9b566bbbb3e69f36bbf556048f4256875388e7291048cc6ae0c5eaebd43ee3be5e2d0f07ac4874b75fc3d5a"
    assert launch_digest(firmware(kernel_hashes=False), vcpus=1, vcpu=0x00B00F21).hex() == digest


def test_known_hash_of_the_firmware():
    known = "6ec3953ece50b00c2907f455ba206e98c2924b43a6a5747466593de683315765dd5fa2c16e89901a7354ceb5e0592f52"
    tail = firmware()[-4096:]
    found = launch_digest(
        tail, vcpus=2, vcpu="EPYC-Genoa", guest_features=0x21, kernel=b"kernel", ovmf_hash=bytes.fromhex(known)
    )
    assert found.hex() == QEMU[1]


@pytest.mark.parametrize(
    ("model", "signature"),
    [
        ("EPYC", 0x800F12),
        ("EPYC-v4", 0x800F12),
        ("EPYC-IBPB", 0x800F12),
        ("EPYC-Rome-v3", 0x830F10),
        ("EPYC-Milan", 0xA00F11),
        ("EPYC-Genoa-v1", 0xA10F10),
        ("EPYC-Turin", 0xB00F00),
    ],
)
def test_processor_models(model, signature):
    assert vcpu_signature(model) == signature


@pytest.mark.parametrize("model", ["", "Skylake", "EPYC-Venice", "EPYC-Milan-vx", "EPYC-"])
def test_unknown_model(model, refused):
    with refused("attest.snp-launch-unsupported"):
        vcpu_signature(model)


@pytest.mark.parametrize(
    "fields",
    [
        {"vmm": "xen"},
        {"vcpus": 0},
        {"vcpus": 5000},
        {"guest_features": -1},
        {"vcpu": 1 << 32},
        {"ovmf_hash": bytes(32)},
        {"ovmf_hash": b""},
    ],
)
def test_unsupported(fields, refused):
    with refused("attest.snp-launch-unsupported"):
        launch_digest(firmware(), **{"vcpus": 1, "vcpu": "EPYC", **fields})


def change(offset: int, content: bytes) -> bytes:
    data = bytearray(firmware())
    data[offset : offset + len(content)] = content
    return bytes(data)


METADATA = 8192 - 0x800
FOOTER = 8192 - 32 - 18


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(4096),
        bytes(4097),
        change(FOOTER, b"\x01\x00"),
        change(FOOTER, b"\xff\xff"),
        change(FOOTER, b"\x13\x00"),
        change(FOOTER - 18, b"\x01\x00"),
        change(FOOTER - 18, b"\xff\x0f"),
        change(METADATA, b"ESEV"),
        change(METADATA + 8, b"\x02"),
        change(METADATA + 12, b"\x07"),
        change(METADATA + 12, b"\xff\xff"),
        firmware(sections=struct.pack("<III", 0x800000, 0x1000, 9)),
        firmware(sections=struct.pack("<III", 0x800001, 0x1000, 1)),
        firmware(sections=struct.pack("<III", 0x800000, 0x1001, 1)),
        firmware(sections=struct.pack("<III", 0x800000, 0x8000000, 1)),
        firmware(sections=struct.pack("<III", 0x800000, 0x1000, 1) * 65),
    ],
)
def test_malformed_firmware(data, refused):
    with refused("attest.snp-firmware-malformed"):
        launch_digest(data, vcpus=1, vcpu="EPYC-Milan")


def test_metadata_must_be_there(refused):
    whole = firmware()
    guid = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
    assert guid in whole
    with refused("attest.snp-firmware-malformed"):
        launch_digest(whole.replace(guid, bytes(16)), vcpus=1, vcpu="EPYC-Milan")
    entry = struct.pack("<I", 0x800) + struct.pack("<H", 22) + guid
    for content in (b"\0\0\0\x80", struct.pack("<I", 4), struct.pack("<I", 0x2001)):
        with refused("attest.snp-firmware-malformed"):
            launch_digest(whole.replace(entry, content + entry[4:]), vcpus=1, vcpu="EPYC-Milan")


def test_entry_that_is_too_short(refused):
    with refused("attest.snp-firmware-malformed"):
        launch_digest(firmware(ap_reset=b"\x04\xb0\x80"), vcpus=1, vcpu="EPYC-Milan")


def test_kernel_needs_firmware_that_measures_it(refused):
    with refused("attest.snp-firmware-malformed"):
        launch_digest(firmware(kernel_hashes=False), vcpus=1, vcpu="EPYC-Milan", kernel=b"kernel")
    two_pages = struct.pack("<III", 0x810000, 0x2000, 0x10)
    with refused("attest.snp-firmware-malformed"):
        launch_digest(firmware(sections=two_pages), vcpus=1, vcpu="EPYC-Milan", kernel=b"kernel")
    at_the_end = firmware().replace(struct.pack("<II", 0x810C00, 0x400), struct.pack("<II", 0x810FF0, 0x400))
    with refused("attest.snp-firmware-malformed"):
        launch_digest(at_the_end, vcpus=1, vcpu="EPYC-Milan", kernel=b"kernel")


def test_further_processors_need_an_address(refused):
    bare = firmware(ap_reset=None)
    launch_digest(bare, vcpus=1, vcpu="EPYC-Milan")
    with refused("attest.snp-firmware-malformed"):
        launch_digest(bare, vcpus=2, vcpu="EPYC-Milan")
