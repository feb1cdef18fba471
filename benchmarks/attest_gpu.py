"""Verifying a GPU's evidence: with everything, and with chain, manifests and statuses already verified.

Rows: `attest-gpu-ms`, `attest-gpu-cached-ms`. "Everything" is the JSON as it travels, the report, a chain of five
certificates, two manifests (XML) with four certificates each, and seven OCSP responses with seven responders': 27
signatures under P-384. Cached, it is the JSON and the report's own signature. The evidence is the public vector of an
H100, where `MITAI_VECTORS` (or `../shared/vectors`) has it. There is no peer in Python but NVIDIA's own verifier, which
needs its services; it takes seconds.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import interleave, milliseconds, progress, row
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.nvidia import DeviceEvidence, NvidiaRules, appraise_entries, decode_devices, encode_devices

RUNS = 30
CALLS = 5  # per sample
NOW = datetime(2025, 10, 24, 12, tzinfo=UTC)
GRACE_S = 65 * 86400  # the vector's statuses of the device are two months older than those of the manifests
NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")


def evidence() -> bytes:
    """Return `devices` of a bundle with one GPU and all its endorsements."""
    vectors = Path(os.environ.get("MITAI_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
    files = vectors / "nvidia" / "h100-550.90.07-full"
    entry = DeviceEvidence(
        kind="gpu",
        report=(files / "report.bin").read_bytes(),
        certificates=(files / "cert_chain.pem").read_bytes(),
        rims=tuple((files / name).read_bytes() for name in ("driver_rim.xml", "vbios_rim.xml")),
        ocsp=tuple(path.read_bytes() for path in sorted((files / "ocsp").iterdir())),
    )
    return encode_devices((entry,))


def bench_gpu() -> None:
    """Print the two rows."""
    try:
        devices = evidence()
    except FileNotFoundError:
        progress("attest: no public GPU vector here, set MITAI_VECTORS")
        return
    progress("attest: H100 with two manifests and seven revocation statuses")
    cache, rules = VerifiedCache(), NvidiaRules(min_gpus=1, ocsp_grace_s=GRACE_S)

    def check(cache: VerifiedCache | None = None) -> None:
        appraise_entries(Checklist(), decode_devices(devices), NONCE, rules, now=NOW, cache=cache)

    full, cached = interleave(RUNS, milliseconds(check, CALLS), milliseconds(lambda: check(cache), CALLS))
    row("attest-gpu-ms", full, "ms", evidence="public vector")
    row("attest-gpu-cached-ms", cached, "ms", evidence="public vector")


if __name__ == "__main__":
    bench_gpu()
