"""`mitai measure`: what a machine that boots these images will measure, computed without the machine."""

from __future__ import annotations

import hashlib
import json as json_text
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mitai.attest.refvalues.boot import LAYOUTS
from mitai.attest.refvalues.expected import snp_registers, supported_tees, tdx_registers
from mitai.attest.refvalues.release import Measurements, Release, sign_release
from mitai.attest.refvalues.statement import Subject
from mitai.cli.options import JsonFlag, Natural, Positive
from mitai.cli.output import Output
from mitai.errors import ClientError
from mitai.identity import Identity

_Layout = Literal["qemu", "qemu-8", "qemu-8-ovmf-2023", "ovmf-2025.05"]
_Vmm = Literal["qemu", "ec2", "gce"]


@dataclass(frozen=True)
class _Images:
    """What was given, told apart by content."""

    firmware: bytes
    kernel: bytes | None
    initrd: bytes
    subjects: tuple[Subject, ...]


def measure(
    image: Annotated[
        tuple[Path, ...], Parameter(negative="", help="Firmware (OVMF), kernel and initrd, in any order.")
    ],
    /,
    *,
    cmdline: Annotated[str, Parameter(help="The kernel's command line.")] = "",
    memory: Annotated[Positive, Parameter(help="The guest's memory in MiB; it matters for TDX below 2816.")] = 4096,
    layout: Annotated[_Layout, Parameter(help="TDX: which hypervisor and firmware; see the specification.")] = "qemu",
    vcpus: Annotated[Natural, Parameter(help="SEV-SNP: how many virtual processors; 0: leave SEV-SNP out.")] = 0,
    vcpu: Annotated[str, Parameter(help="SEV-SNP: their model.")] = "EPYC-Milan",
    vmm: Annotated[_Vmm, Parameter(help="SEV-SNP: which hypervisor.")] = "qemu",
    name: Annotated[str, Parameter(help="The workload's name.")] = "workload",
    toml: Annotated[bool, Parameter(negative="", help="Print `[[workloads]]` for an appraisal policy.")] = False,
    sign: Annotated[Path | None, Parameter(help="Print a release manifest, signed by this identity.")] = None,
    release: Annotated[Natural, Parameter(help="With --sign: the release's number, which only grows.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Compute the registers that these images give in a TDX or SEV-SNP guest.

    Examples: `mitai measure OVMF.fd`, `mitai measure OVMF.fd bzImage initrd.img --cmdline "console=ttyS0" --toml`
    """
    out = Output(json)
    images = _read(image)
    found: dict[str, dict[str, str]] = {}
    tees = supported_tees(images.firmware)
    parts = (images.firmware, images.kernel, images.initrd, cmdline)
    if "tdx" in tees:
        found["tdx"] = tdx_registers(*parts, memory_bytes=memory << 20, layout=LAYOUTS[layout])
    if "snp" in tees and vcpus:
        found["snp"] = snp_registers(*parts, vcpus=vcpus, vcpu=vcpu, vmm=vmm)
    elif "snp" in tees:
        out.note("SEV-SNP left out: give --vcpus and --vcpu")
    if not found:
        raise ClientError("client.nothing-to-measure", "this firmware gives no register", hint="for SEV-SNP: --vcpus N")
    if sign is not None:
        measurements = tuple(Measurements(tee, registers) for tee, registers in found.items())
        manifest = Release(name, release, datetime.now(UTC).replace(microsecond=0), measurements)
        identity = Identity.load(sign)
        sys.stdout.write(sign_release(manifest, identity, images.subjects).decode() + "\n")
        out.note(f'verifiers write under [[releases]]: key = "{identity.public.raw.hex()}"')
    elif toml:
        sys.stdout.write("\n".join(_fragment(name, tee, registers) for tee, registers in found.items()))
    else:
        out.table(
            ("tee", "register", "value"),
            [(tee, register, value) for tee, registers in found.items() for register, value in registers.items()],
        )
        out.result({"name": name, "measurements": found})


def _read(paths: tuple[Path, ...]) -> _Images:
    kinds: dict[str, bytes] = {}
    subjects = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ClientError("client.image-unreadable", f"{path}: {error.strerror}", hint="check the path") from error
        kind = "firmware" if supported_tees(data) else "kernel" if data[:2] == b"MZ" else "initrd"
        if kind in kinds:
            raise ClientError("client.images-ambiguous", f"{path} is a second {kind}", hint="give one of each")
        kinds[kind] = data
        subjects.append(Subject(path.name, {"sha256": hashlib.sha256(data).hexdigest()}))
    if "firmware" not in kinds:
        raise ClientError(
            "client.no-firmware",
            "none of these images is OVMF built for TDX or SEV-SNP",
            hint="what is measured first is the firmware: give the file that the hypervisor loads",
        )
    return _Images(kinds["firmware"], kinds.get("kernel"), kinds.get("initrd", b""), tuple(subjects))


def _fragment(name: str, tee: str, registers: dict[str, str]) -> str:
    """Return TOML; JSON's strings are TOML's, but for one character that TOML wants escaped."""
    quoted_name = json_text.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
    head = ["[[workloads]]", f"name = {quoted_name}", f'tee = "{tee}"', "[workloads.registers]"]
    return "\n".join([*head, *(f'{register} = "{value}"' for register, value in registers.items()), ""])
