"""`mitai doctor`: what this machine can do, and what is missing for it to be confidential.

Looks, never changes anything. The root folder is a parameter so that tests can play other machines.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["yes", "no", "note"]

_DEVICES = (
    ("Intel TDX guest", "dev/tdx_guest", "a TDX guest"),
    ("AMD SEV-SNP guest", "dev/sev-guest", "an SEV-SNP guest"),
    ("AWS Nitro enclave", "dev/nsm", "a Nitro enclave"),
    ("Intel SGX", "dev/sgx_enclave", "SGX enclaves"),
    ("Quotes through configfs-tsm", "sys/kernel/config/tsm/report", "the kernel's common interface to quotes"),
    ("TPM 2.0", "dev/tpmrm0", "a (virtual) TPM"),
)
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


def examine(root: Path = Path("/")) -> list[Finding]:
    """Return everything that can be said of the machine whose file system starts at `root`."""
    return [*_tee(root), *_cpu(root), *_gpu(root), *_engines(), *_machine()]


def _tee(root: Path) -> list[Finding]:
    found = [
        Finding("tee", name, "yes", f"/{path}: {meaning}")
        if (root / path).exists()
        else Finding("tee", name, "no", f"no /{path}")
        for name, path, meaning in _DEVICES
    ]
    confidential = any(finding.verdict == "yes" for finding in found[:3])
    advice = (
        "this machine can hold secrets that its host can't read; collecting its evidence comes with a later release"
        if confidential
        else "not a confidential guest: mitai runs here in simulation, which protects nothing from this machine's owner"
    )
    return [*found, Finding("tee", "Confidential", "yes" if confidential else "no", advice)]


def _cpu(root: Path) -> list[Finding]:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    model = Finding("cpu", "Processor", "note", fields.get("model name", platform.machine()))
    features = [
        Finding("cpu", name, "yes" if flags.issuperset(needed) else "no", meaning)
        for name, needed, meaning in _CPU_FLAGS
    ]
    return [model, *features]


def _gpu(root: Path) -> list[Finding]:
    cards = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if not cards:
        return [Finding("gpu", "NVIDIA GPU", "no", "none: models run on the CPU")]
    names = []
    for card in cards:
        fields = dict(line.split(":", 1) for line in card.read_text().splitlines() if ":" in line)
        names.append(fields.get("Model", "unknown").strip())
    detail = f"{', '.join(names)}; GPU evidence is not collected by this version yet"
    return [Finding("gpu", "NVIDIA GPU", "yes", detail)]


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
