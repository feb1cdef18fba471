"""Verifying a bare TPM quote and an Azure confidential VM: with everything, and with certificates already verified.

Rows: `attest-tpm-ms`, `attest-az-snp-vtpm-ms`, `attest-az-snp-vtpm-cached-ms`, `attest-eventlog-ms`. A bare quote
under a pinned key has nothing to remember. The Azure row is the processor's report (two RSA 4096 signatures of AMD's
chain, one ECDSA P-384) and the TPM's quote (RSA 2048) over 24 registers; the event log is that of a Compute Engine
VM, replayed to SHA-256 registers with secure boot read from it. Public vectors, where `MITAI_VECTORS` (or
`../shared/vectors`) has them. There is no peer in Python to compare with.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import interleave, milliseconds, progress, row
from mitai.attest import Policy, azure, tpm
from mitai.attest.cache import VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.eventlog import ALG_SHA256, EventLogRules, check_pcr_log, replay
from mitai.attest.tpm import TpmEvidence, TpmRules
from mitai.attest.tpm.trustee import hardware_of_trustee

RUNS = 30
NOW = datetime.fromtimestamp(1740000000, UTC)


def bench_tpm() -> None:
    """Print the four rows."""
    vectors = Path(os.environ.get("MITAI_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
    try:
        bare = hardware_of_trustee((vectors / "tpm" / "trustee-tpm-evidence" / "evidence.json").read_bytes())
        cloud = (vectors / "tpm" / "trustee-az-snp-vtpm-evidence-v2" / "evidence.json").read_bytes()
        log = (vectors / "eventlog" / "goeventlog-cos-101-amd-sev" / "log.bin").read_bytes()
    except FileNotFoundError:
        progress("attest: no public TPM vectors here, set MITAI_VECTORS")
        return
    progress("attest: TPM quote, Azure vTPM on SEV-SNP, event log")
    virtual = hardware_of_trustee(cloud)
    spki = hashlib.sha256(TpmEvidence.decode(bare.quote).ak_spki).hexdigest()
    pinned, policy, cache = Policy(tpm=TpmRules(aks=(f"spki:{spki}",))), Policy(), VerifiedCache()
    pcrs = {number: bytes(32) for number in range(24)} | replay(log, ALG_SHA256)
    quote, full, cached, boot = interleave(
        RUNS,
        milliseconds(lambda: tpm.appraise(Checklist(), bare, pinned, now=NOW)),
        milliseconds(lambda: azure.appraise(Checklist(), virtual, policy, now=NOW)),
        milliseconds(lambda: azure.appraise(Checklist(), virtual, policy, now=NOW, cache=cache)),
        milliseconds(lambda: check_pcr_log(log, pcrs, ALG_SHA256, EventLogRules(secure_boot=True))),
    )
    row("attest-tpm-ms", quote, "ms", quote="public vector")
    row("attest-az-snp-vtpm-ms", full, "ms", quote="public vector")
    row("attest-az-snp-vtpm-cached-ms", cached, "ms", quote="public vector")
    row("attest-eventlog-ms", boot, "ms", log="public vector")


if __name__ == "__main__":
    bench_tpm()
