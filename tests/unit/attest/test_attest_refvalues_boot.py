"""Computed expectations: MRTD of a TDVF image, RTMR1 and RTMR2 of a directly booted kernel.

The expected digests are written out a second time here, step by step from the specifications, without the code under
test; real event logs and a real signature are compared in `tests/vectors/test_attest_refvalues_vectors.py`.
"""

from __future__ import annotations

import hashlib
import struct
import typing
from dataclasses import replace

import pytest

from attest_boot_lab import FIRMWARE_BYTES, PAGE, PIECES, TDX_METADATA, Kernel, Piece, firmware, table_entry
from mitai.attest import ovmf
from mitai.attest.refvalues import boot
from mitai.attest.refvalues.boot import LAYOUTS, authenticode, patch_kernel, rtmr1, rtmr2
from mitai.attest.refvalues.expected import supported_tees, tdx_registers
from mitai.attest.refvalues.tdvf import mrtd, parse_tdvf
from mitai.errors import ParseError

GIB = 1 << 30
INITRD = b"initrd" * 1000


def sha384(*parts: bytes) -> bytes:
    return hashlib.sha384(b"".join(parts)).digest()


def page_add(address: int) -> bytes:
    return (b"MEM.PAGE.ADD" + bytes(4) + struct.pack("<Q", address)).ljust(128, b"\0")


def measured(address: int, content: bytes) -> bytes:
    return b"".join(
        (b"MR.EXTEND" + bytes(7) + struct.pack("<Q", address + at)).ljust(128, b"\0") + content[at : at + 256]
        for at in range(0, len(content), 256)
    )


def code_of(call, *arguments) -> str:
    with pytest.raises(ParseError) as error:
        call(*arguments)
    return error.value.code


# -- MRTD --------------------------------------------------------------------------------------------------------


def test_mrtd_page_by_page():
    image = firmware()
    expected = [
        page_add(0xFFFF_4000 + page) + measured(0xFFFF_4000 + page, image[4 * PAGE + page :][:PAGE])
        for page in range(0, 12 * PAGE, PAGE)
    ]
    expected += [page_add(0xFFFF_0000 + page) for page in range(0, 4 * PAGE, PAGE)]
    expected += [page_add(0x80_9000), page_add(0x80_A000)]
    assert mrtd(image) == sha384(*expected)


def test_mrtd_section_by_section():
    image = firmware((PIECES[0],))
    expected = [page_add(0xFFFF_4000 + page) for page in range(0, 12 * PAGE, PAGE)]
    expected.append(measured(0xFFFF_4000, image[4 * PAGE :]))
    assert mrtd(image, "section") == sha384(*expected)
    assert mrtd(image, "section") != mrtd(image, "page")


def test_memory_above_the_images_bytes_is_zero():
    image = firmware((Piece(0, 100, 0x1000, PAGE, 0, 1),))
    assert mrtd(image) == sha384(page_add(0x1000), measured(0x1000, image[:100].ljust(PAGE, b"\0")))


@pytest.mark.parametrize("offset", [4 * PAGE, 16 * PAGE - 1, FIRMWARE_BYTES - 2048 + 24])
def test_mrtd_follows_every_measured_byte(offset):
    image = bytearray(firmware())
    image[offset] ^= 0x10
    try:
        assert mrtd(bytes(image)) != mrtd(firmware())
    except ParseError:
        assert offset > 15 * PAGE  # the metadata


@pytest.mark.parametrize(
    "piece",
    [
        Piece(0, PAGE, 0x1001, PAGE, 0, 1),
        Piece(0, PAGE, 0x1000, PAGE + 1, 0, 1),
        Piece(0, 2 * PAGE, 0x1000, PAGE, 0, 1),
        Piece(FIRMWARE_BYTES, PAGE, 0x1000, PAGE, 0, 1),
        Piece(0, PAGE, 0x1000, PAGE, 7, 1),
        Piece(0, PAGE, 0x1000, PAGE, 0, 4),
        Piece(0, PAGE, 0x1000, PAGE, 0, 3),
        Piece(0, 0, 0x1000, 1 << 32, 3, 0),
        Piece(0, 0, 1 << 52, PAGE, 3, 0),
    ],
)
def test_malformed_sections(piece):
    assert code_of(parse_tdvf, firmware((piece,))) == "attest.tdvf-malformed"


_SECTION = PIECES[0].encode()


@pytest.mark.parametrize(
    "image",
    [
        b"",
        bytes(PAGE),
        bytes(PAGE + 1),
        firmware(metadata=struct.pack("<4sIII", b"TDVX", 48, 1, 1) + _SECTION),
        firmware(metadata=struct.pack("<4sIII", b"TDVF", 48, 2, 1) + _SECTION),
        firmware(metadata=struct.pack("<4sIII", b"TDVF", 48, 1, 2) + _SECTION),
        firmware(metadata=struct.pack("<4sIII", b"TDVF", 16, 1, 0)),
        firmware(metadata=struct.pack("<4sIII", b"TDVF", 16 + 65 * 32, 1, 65)),
        firmware(pointer=struct.pack("<I", FIRMWARE_BYTES + 1)),
        firmware(pointer=struct.pack("<I", 8)),
        firmware(pointer=b""),
        firmware(table=b""),
        firmware(table=bytes(7)),
        firmware(table=table_entry(TDX_METADATA, b"") * 2),
        firmware(table=b"\xff" * 18),
        firmware(footer=bytes(18)),
    ],
)
def test_malformed_firmware(image):
    assert code_of(parse_tdvf, image) == "attest.tdvf-malformed"
    assert "tdx" not in supported_tees(image) or ovmf.TDX_METADATA in ovmf.entries(image, "x")


def test_which_tees_a_firmware_supports():
    both = firmware(table=table_entry(TDX_METADATA, b"") + table_entry(str(ovmf.SEV_METADATA), b""))
    assert supported_tees(both) == ("tdx", "snp")
    assert supported_tees(b"no firmware") == ()


# -- the kernel --------------------------------------------------------------------------------------------------


def expected_authenticode(kernel: Kernel, image: bytes) -> bytes:
    """Of the lab's layout: headers of 0x600 bytes, then the sections in the file's order."""
    optional = 0x40 + 24
    security = optional + (112 if kernel.magic == 0x20B else 96) + 32
    headers = image[: optional + 64] + image[optional + 68 : security] + image[security + 8 : 0x600]
    return sha384(headers, image[0x600:0x1000], image[0x1000:0x1800], kernel.trailing)


@pytest.mark.parametrize(
    "kernel",
    [
        Kernel(),
        Kernel(magic=0x10B),
        Kernel(trailing=b"more"),
        Kernel(signature=b"a signature" * 9),
        Kernel(signature=b"a signature" * 9, trailing=b"more"),
    ],
)
def test_authenticode(kernel):
    image = kernel.encode()
    assert authenticode(image) == expected_authenticode(kernel, image)


def test_authenticode_without_a_directory_of_signatures():
    image = Kernel(directories=4).encode()
    optional = 0x40 + 24
    assert authenticode(image) == sha384(image[: optional + 64], image[optional + 68 : 0x1800])


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"MZ" + bytes(100),
        bytes(0x1800),
        Kernel().encode()[:0x60],
        Kernel(magic=0x107).encode(),
        Kernel(sections=((0x1000, 0x2000),)).encode(),
        Kernel(sections=((0x600, 0xA00), (0x600, 0xA00))).encode()[:0x1000],
        b"MZ" + b"\xff" * 0x1000,
    ],
)
def test_malformed_images(image):
    assert code_of(authenticode, image) == "attest.kernel-malformed"


def test_a_signature_longer_than_the_image():
    image = bytearray(Kernel().encode())
    struct.pack_into("<I", image, 0x40 + 24 + 112 + 36, 0xFFFF_FFFF)
    assert code_of(authenticode, bytes(image)) == "attest.kernel-malformed"


def test_sections_that_overlap_are_refused_before_anything_is_hashed(monkeypatch):
    image = Kernel(sections=((0x600, 0xA00),) * 3).encode()
    monkeypatch.setattr(boot.hashlib, "new", None)
    assert code_of(authenticode, image) == "attest.kernel-malformed"


def test_large_images(monkeypatch):
    monkeypatch.setattr(boot, "MAX_IMAGE_BYTES", 100)
    assert code_of(authenticode, bytes(101)) == "attest.kernel-malformed"


def initrd_address(kernel: bytes, size: int, memory: int) -> int:
    return struct.unpack_from("<I", patch_kernel(kernel, size, memory), 0x218)[0]


def test_qemu_places_the_initrd():
    """QEMU's `x86_load_linux`: as high as the kernel allows below the ACPI tables under 2 (or 2.75) GiB."""
    anywhere, limited = Kernel().encode(), Kernel(xloadflags=0, initrd_addr_max=0x37FF_FFFF).encode()
    for memory, low in ((GIB, GIB), (2 * GIB, 2 * GIB), (11 * GIB // 4, 2 * GIB), (64 * GIB, 2 * GIB)):
        assert initrd_address(anywhere, 5000, memory) == (low - 0x28000 - 1 - 5000) & ~0xFFF
    assert initrd_address(anywhere, 5000, 11 * GIB // 4 - 4096) == (11 * GIB // 4 - 4096 - 0x28000 - 1 - 5000) & ~0xFFF
    assert initrd_address(limited, 5000, 64 * GIB) == (0x37FF_FFFF - 5000) & ~0xFFF


def test_qemu_patches_the_header():
    kernel = Kernel().encode()
    patched = patch_kernel(kernel, 0, GIB)
    assert (patched[0x210], patched[0x211]) == (0xB0, 0x81)
    assert struct.unpack_from("<H", patched, 0x224) == (0xFE00,)
    assert struct.unpack_from("<II", patched, 0x228) == (0x20000, 0x7FFF_FFFF)
    assert patched[0x218:0x220] == kernel[0x218:0x220]  # no initrd
    assert patched[:0x210] == kernel[:0x210]
    assert patched[0x22C:] == kernel[0x22C:]


@pytest.mark.parametrize(
    ("kernel", "initrd"),
    [
        (b"", 0),
        (bytes(0x2000), 0),
        (Kernel(protocol=0x20B).encode(), 0),
        (Kernel(loadflags=0).encode(), 0),
        (Kernel().encode(), 1 << 30),
    ],
)
def test_kernels_that_qemu_would_load_otherwise(kernel, initrd):
    assert code_of(patch_kernel, kernel, initrd, 1 << 29) == "attest.kernel-malformed"


# -- RTMRs -------------------------------------------------------------------------------------------------------


def replayed(*digests: bytes) -> bytes:
    register = bytes(48)
    for digest in digests:
        register = sha384(register, digest)
    return register


def test_rtmr1():
    kernel = Kernel().encode()
    calling = sha384(b"Calling EFI Application from Boot Option")
    ends = sha384(b"Exit Boot Services Invocation"), sha384(b"Exit Boot Services Returned with Success")
    image = authenticode(patch_kernel(kernel, len(INITRD), GIB))
    separator = sha384(bytes(4))
    found = rtmr1(kernel, INITRD, memory_bytes=GIB, layout=LAYOUTS["qemu"])
    assert found == replayed(image, calling, separator, *ends)
    found = rtmr1(kernel, INITRD, memory_bytes=GIB, layout=LAYOUTS["qemu-8-ovmf-2023"])
    assert found == replayed(image, calling, *ends)
    found = rtmr1(kernel, INITRD, memory_bytes=GIB, layout=LAYOUTS["ovmf-2025.05"])
    assert found == replayed(authenticode(kernel), calling, separator, *ends)


def test_rtmr2():
    text = "console=ttyS0 initrd=initrd\0".encode("utf-16-le")
    assert rtmr2(INITRD, "console=ttyS0", layout=LAYOUTS["qemu"]) == replayed(sha384(text), sha384(INITRD))
    text = "console=ttyS0\0".encode("utf-16-le")
    assert rtmr2(b"", "console=ttyS0", layout=LAYOUTS["qemu"]) == replayed(sha384(text))
    plain = replace(LAYOUTS["qemu"], cmdline_suffix="")
    assert rtmr2(INITRD, "console=ttyS0", layout=plain) == replayed(sha384(text), sha384(INITRD))


def test_registers():
    kernel = Kernel().encode()
    found = tdx_registers(firmware(), kernel, INITRD, "quiet", memory_bytes=GIB)
    assert found["mrtd"] == mrtd(firmware()).hex()
    assert found["rtmr1"] == rtmr1(kernel, INITRD, memory_bytes=GIB, layout=LAYOUTS["qemu"]).hex()
    assert (found["rtmr0"], found["rtmr3"]) == ("any", "00" * 48)
    found = tdx_registers(firmware(), memory_bytes=GIB, layout=LAYOUTS["qemu-8"])
    assert found["mrtd"] == mrtd(firmware(), "section").hex()
    assert (found["rtmr1"], found["rtmr2"]) == ("any", "any")


def test_the_command_offers_every_layout():
    from mitai.cli import measure

    assert set(typing.get_args(measure._Layout)) == set(LAYOUTS)
