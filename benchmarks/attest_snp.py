"""Verifying an SEV-SNP report: with everything, and with certificates and revocation list already verified.

Rows: `attest-snp-ms`, `attest-snp-cached-ms`. "Everything" is four signatures: root over signing key, signing key over
VLEK (RSA 4096), root over its revocation list, VLEK over the report (ECDSA P-384). The evidence is a public vector of a
real machine, where `MITAI_VECTORS` (or `../shared/vectors`) has it. There is no peer in Python to compare with.
"""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import interleave, milliseconds, progress, row
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.machine import Hardware
from mitai.attest.snp import SnpRules, appraise

RUNS = 30
NOW = datetime(2025, 6, 1, tzinfo=UTC)


def evidence() -> Hardware:
    """Return a VLEK-signed report of a Milan with its chain and the root's revocation list."""
    vectors = Path(os.environ.get("MITAI_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors") / "snp"
    files = vectors / "trustee-aws-vlek-v3"
    lines = (vectors / "amd-ark-crls" / "test_amd_milan_crl.pem").read_text().strip().splitlines()
    endorsements = {
        "vek": (files / "vek.der").read_bytes(),
        "chain": (files / "ask_or_asvk.pem").read_bytes() + (files / "ark.pem").read_bytes(),
        "crl": base64.b64decode("".join(lines[1:-1])),
    }
    return Hardware(tee="snp", quote=(files / "report.bin").read_bytes(), endorsements=endorsements)


def bench_snp() -> None:
    """Print the two rows."""
    try:
        hardware = evidence()
    except FileNotFoundError:
        progress("attest: no public SEV-SNP vector here, set MITAI_VECTORS")
        return
    progress("attest: SEV-SNP report, VLEK of a cloud, with revocation list")
    cache, rules = VerifiedCache(), SnpRules(crl_required=True)

    full, cached = interleave(
        RUNS,
        milliseconds(lambda: appraise(Checklist(), hardware, rules, now=NOW)),
        milliseconds(lambda: appraise(Checklist(), hardware, rules, now=NOW, cache=cache)),
    )
    row("attest-snp-ms", full, "ms", quote="public vector")
    row("attest-snp-cached-ms", cached, "ms", quote="public vector")


if __name__ == "__main__":
    bench_snp()
