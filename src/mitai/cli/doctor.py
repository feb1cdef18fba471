"""`mitai doctor`: what this machine can do, and what is missing for it to be confidential.

Looks, never changes anything. The root folder, the question for permissions and NVIDIA's library are parameters so that
tests can play other machines. What a collector needs is in `docs/spec/collectors.md`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mitai.attest.collect import Guest, Kind, detect, logs, nvml, vtpm
from mitai.attest.collect.tpm import Tpm
from mitai.errors import AttestError

Verdict = Literal["yes", "no", "note"]
Access = Callable[[Path, int], bool]

_DEVICES = (
    ("Intel TDX guest", "dev/tdx_guest", "a TDX guest", "run as root, or give this user access with a udev rule"),
    (
        "AMD SEV-SNP guest",
        "dev/sev-guest",
        "an SEV-SNP guest",
        "run as root, or give this user access with a udev rule",
    ),
    ("AWS Nitro enclave", "dev/nsm", "a Nitro enclave", "run as root"),
    ("Intel SGX", "dev/sgx_enclave", "SGX enclaves", "add the user to group sgx"),
    ("Quotes through configfs-tsm", "sys/kernel/config/tsm/report", "the kernel's interface to reports", "run as root"),
    ("TPM 2.0", "dev/tpmrm0", "a (virtual) TPM", "add the user to group tss"),
    ("dstack's guest agent", "var/run/dstack.sock", "a container in a dstack VM", "run as root"),
)
_LOGS = (
    ("Event log of a TD (CCEL)", logs.CCEL),
    ("Event log of a TPM", logs.TCG),
    ("List of measured files (IMA)", logs.IMA),
)
_COLLECTED: dict[Kind, str] = {
    "nsm": "attestation documents of AWS Nitro",
    "azure-vtpm": "Azure's vTPM with the paravisor's report",
    "dstack": "TDX quotes from dstack's guest agent",
    "configfs-tsm": "reports of the processor through the kernel",
    "sev-guest": "SEV-SNP reports",
    "tdx-guest": "TDX reports, made quotes by the host's quote service on vsock",
    "gcp-vtpm": "Compute Engine's vTPM",
}
_CPU_FLAGS = (
    ("AES instructions", ("aes",), "sealing would be many times slower without"),
    ("AVX2", ("avx2",), "engines use it"),
    ("AVX-512", ("avx512f",), "engines use it"),
    ("AMX", ("amx_int8", "amx_bf16"), "engines use it"),
)
_ENGINES = (
    ("transformers", "transformers", "the default engine: pip install 'mitai[serve]'"),
    ("torch", "torch", "needed by the default engine: pip install 'mitai[serve]'"),
    ("llama.cpp", "llama_cpp", "optional, not used by this version yet"),
    ("vLLM", "vllm", "optional, not used by this version yet"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    area: str
    what: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Machine:
    """Where to look, and how."""

    guest: Guest = field(default_factory=Guest)
    access: Access = os.access
    nvml: nvml.Library | None = None

    def permits(self, path: str, mode: int = os.R_OK | os.W_OK) -> bool:
        """Return whether this user may use a path."""
        return self.access(self.guest.root / path, mode)


def examine(root: Path = Path("/"), machine: Machine | None = None) -> list[Finding]:
    """Return everything that can be said of a machine: that below `root`, unless another way to look is given."""
    machine = machine or Machine(Guest(root=root), nvml=nvml.library())
    return [*_tee(machine), *_cpu(machine.guest.root), *_gpu(machine), *_engines(), *_machine()]


def _tee(machine: Machine) -> list[Finding]:
    found = [_device(machine, *device) for device in _DEVICES]
    found += [_log(machine, *log) for log in _LOGS]
    kinds = detect(machine.guest)
    found += _drivers(machine) if "azure-vtpm" not in kinds else []  # there the paravisor has the processor's drivers
    if kinds:
        others = f" (also there: {', '.join(kinds[1:])})" if kinds[1:] else ""
        found.append(Finding("tee", "Evidence collector", "yes", f"{kinds[0]}: {_COLLECTED[kinds[0]]}{others}"))
    elif machine.guest.has("dev/tpmrm0"):
        advice = "tpm: what booted can be attested, once the TPM's attestation key is made and its handle configured"
        found.append(Finding("tee", "Evidence collector", "note", advice))
    else:
        found.append(Finding("tee", "Evidence collector", "no", "none: no interface above gives evidence"))
    sealing = machine.guest.has("dev/sev-guest") and machine.permits("dev/sev-guest")
    keys = (
        "derived by SEV-SNP's firmware" if sealing else "only SEV-SNP derives keys for a guest; a key broker can help"
    )
    found.append(Finding("tee", "Sealing keys", "yes" if sealing else "no", keys))
    confidential, advice = _confidential(machine, kinds)
    return [*found, Finding("tee", "Confidential", "yes" if confidential else "no", advice)]


def _device(machine: Machine, name: str, path: str, meaning: str, remedy: str) -> Finding:
    if not machine.guest.has(path):
        return Finding("tee", name, "no", f"no /{path}")
    if not machine.permits(path):
        return Finding("tee", name, "note", f"/{path}: {meaning}, but no permission; next: {remedy}")
    return Finding("tee", name, "yes", f"/{path}: {meaning}")


def _log(machine: Machine, name: str, path: str) -> Finding:
    if not machine.guest.has(path):
        return Finding("tee", name, "no", f"no /{path}")
    if not machine.permits(path, os.R_OK):
        return Finding("tee", name, "note", f"/{path} may not be read: evidence goes without it; next: run as root")
    return Finding("tee", name, "yes", f"/{path}")


def _drivers(machine: Machine) -> list[Finding]:
    """Return what the processor or the cloud offers and the kernel does not use yet."""
    flags = _flags(machine.guest.root)
    missing = []
    if "tdx_guest" in flags and not machine.guest.has("dev/tdx_guest"):
        missing.append("this is a TDX guest, but its driver is not loaded; next: modprobe tdx-guest")
    is_snp = machine.guest.has("sys/devices/system/cpu/sev") or {"sev_snp", "hypervisor"} <= flags
    if is_snp and not machine.guest.has("dev/sev-guest"):
        missing.append("this is an SEV-SNP guest, but its driver is not loaded; next: modprobe sev-guest")
    guests = [path for path in ("dev/tdx_guest", "dev/sev-guest") if machine.guest.has(path)]
    if guests and not machine.guest.has("sys/kernel/config/tsm/report"):
        step = (
            "use Linux 6.7 or later"
            if machine.guest.has("sys/kernel/config")
            else "mount -t configfs none /sys/kernel/config"
        )
        missing.append(f"the kernel's report interface is not there, only /{guests[0]}; next: {step}")
    return [Finding("tee", "Missing", "note", detail) for detail in missing]


def _confidential(machine: Machine, kinds: tuple[Kind, ...]) -> tuple[bool, str]:
    """Return whether the processor protects this machine from its host, as far as can be seen from inside."""
    if "azure-vtpm" in kinds:
        return _azure(machine)
    if set(kinds) - {"gcp-vtpm"}:
        return True, (
            "this machine can hold secrets that its host can't read; who wants to know for sure verifies its evidence"
        )
    if kinds:
        return False, (
            "a Shielded VM: its boot is measured, its memory is not protected; next: choose a Confidential VM with "
            "AMD SEV-SNP or Intel TDX"
        )
    return False, (
        "not a confidential guest: mitai runs here in simulation, which protects nothing from this machine's owner; "
        "next: start a guest of Intel TDX, AMD SEV-SNP, Arm CCA or AWS Nitro"
    )


def _azure(machine: Machine) -> tuple[bool, str]:
    try:
        with Tpm.open(machine.guest) as tpm:
            there = tpm.nv_index(vtpm.AZURE_REPORT) is not None
    except AttestError as error:
        return False, f"an Azure VM whose TPM can't be asked ({error.message}); next: {error.hint or 'see the code'}"
    if there:
        return True, "an Azure confidential VM: its paravisor's report is in the TPM"
    return False, "an Azure VM without a paravisor's report; next: choose a confidential size (DC or EC series)"


def _cpuinfo(root: Path) -> dict[str, str]:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in fields.items()}


def _flags(root: Path) -> set[str]:
    fields = _cpuinfo(root)
    return set(fields.get("flags", fields.get("Features", "")).split())


def _cpu(root: Path) -> list[Finding]:
    flags = _flags(root)
    model = Finding("cpu", "Processor", "note", _cpuinfo(root).get("model name", platform.machine()))
    features = [
        Finding("cpu", name, "yes" if flags.issuperset(needed) else "no", meaning)
        for name, needed, meaning in _CPU_FLAGS
    ]
    return [model, *features]


def _gpu(machine: Machine) -> list[Finding]:
    cards = sorted((machine.guest.root / "proc/driver/nvidia/gpus").glob("*/information"))
    if not cards:
        return [Finding("gpu", "NVIDIA GPU", "no", "none: models run on the CPU")]
    names = []
    for card in cards:
        fields = dict(line.split(":", 1) for line in card.read_text().splitlines() if ":" in line)
        names.append(fields.get("Model", "unknown").strip())
    return [Finding("gpu", "NVIDIA GPU", "yes", ", ".join(names)), _gpu_evidence(machine.nvml)]


def _gpu_evidence(library: nvml.Library | None) -> Finding:
    """Return whether the GPUs give evidence."""
    name = "GPU confidential computing"
    if library is None:
        return Finding("gpu", name, "no", "can't be asked; next: pip install 'mitai[nvidia]'")
    try:
        told = nvml.describe(library)
    except AttestError as error:
        return Finding("gpu", name, "no", f"{error.message}; next: load NVIDIA's driver")
    versions = f"driver {told.driver}, firmware {', '.join(sorted(set(told.vbios)))}"
    if not told.confidential:
        step = "have the host turn it on for the GPU (Hopper or later), in a confidential guest"
        return Finding("gpu", name, "no", f"off ({versions}); next: {step}")
    if told.dev_tools or not told.production:
        return Finding(
            "gpu", name, "no", f"on in a debugging mode that protects nothing ({versions}); next: CC mode 'on'"
        )
    return Finding("gpu", name, "yes", f"on ({versions})")


def _engines() -> list[Finding]:
    found = []
    for name, module, meaning in _ENGINES:
        there = importlib.util.find_spec(module) is not None
        detail = f"version {_version(module)}" if there else meaning
        found.append(Finding("engine", name, "yes" if there else "no", detail))
    return found


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _machine() -> list[Finding]:
    free = shutil.disk_usage(Path.home()).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        Finding("machine", "Cores", "note", str(os.cpu_count())),
        Finding("machine", "Memory", "note", f"{memory / 2**30:.1f} GiB"),
        Finding("machine", "Disk free in home", "note", f"{free / 2**30:.1f} GiB"),
        Finding("machine", "Python", "note", platform.python_version()),
        Finding("machine", "Port 8700", *_port(8700)),
    ]


def _port(port: int) -> tuple[Verdict, str]:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    return ("note", "in use: a platform is up, or choose another with --port") if taken else ("yes", "free")
