"""Verifying quotes: ours against `dcap-qvl` (Rust), with all collateral and with the collateral already verified.

Rows: `attest-tdx-ms`, `attest-tdx-cached-ms`, `attest-sgx-ms`, `attest-sgx-cached-ms`. The quotes are the public
vectors where `MITAI_VECTORS` (or `../shared/vectors`) has them, else simulated ones of the same form. The peer has no
cache of verified collateral: it is measured with everything.
"""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl

from benchmarks.harness import interleave, milliseconds, progress, row
from mitai.attest import Collateral, Policy, TcbRules, VerifiedCache, verify_quote
from mitai.attest.dcap.quote import EnclaveReport
from mitai.attest.dcap.tcb import TcbStatus
from mitai.attest.sim import SimPlatform, Workload, intel, registers

RUNS = 30
VECTORS = {"tdx": "tdx/phala-v4-uptodate", "sgx": "sgx/phala-v3-config-sw-hardening"}
TIMES = {"tdx": 1750332747, "sgx": 1750334171}
ACCEPTED = TcbRules(tuple(set(TcbStatus) - {TcbStatus.REVOKED}), ("any",))


def subject(tee: str) -> tuple[str, bytes, Collateral, bytes, int, Policy]:
    """Return where it is from, quote, collateral, root, time (Unix seconds) and policy."""
    vectors = Path(os.environ.get("MITAI_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
    folder = vectors / VECTORS[tee]
    if (folder / "quote.bin").is_file():
        collateral = Collateral.from_quote_collateral_v3((folder / "collateral.json").read_bytes())
        root = (folder / "intel_root_ca.der").read_bytes()
        return "public vector", (folder / "quote.bin").read_bytes(), collateral, root, TIMES[tee], Policy(tcb=ACCEPTED)
    with tempfile.TemporaryDirectory() as name:
        platform = SimPlatform.create(Path(name) / "platform")
    policy = Policy(allow_simulation=True, sim_roots=(platform.sim_root,), tcb=ACCEPTED)
    if tee == "tdx":
        quote = platform.quote(intel.td_report(registers(Workload("bench", bytes(32))), bytes(64)))
    else:
        attributes = bytes.fromhex("0500000000000000e700000000000000")
        quote = platform.quote(
            EnclaveReport(bytes(16), bytes(4), attributes, bytes(32), bytes(32), 0, 0, bytes(64)), version=3
        )
    return "simulated", quote, platform.collateral(tee), platform.root_certificate, int(time.time()), policy


def theirs(collateral: Collateral) -> dcap_qvl.QuoteCollateralV3:
    """Return the collateral in the peer's type (made once: its parsing of our struct is not measured)."""
    names = (
        "pck_crl_issuer_chain",
        "root_ca_crl",
        "pck_crl",
        "tcb_info_issuer_chain",
        "tcb_info",
        "tcb_info_signature",
    )
    names += ("qe_identity_issuer_chain", "qe_identity", "qe_identity_signature")
    return dcap_qvl.QuoteCollateralV3(*(getattr(collateral, name) for name in names))


def main() -> None:
    """Print the four rows."""
    for tee in ("tdx", "sgx"):
        source, quote, collateral, root, seconds, policy = subject(tee)
        now = datetime.fromtimestamp(seconds, UTC)
        progress(f"attest: {tee} quote, {source}, {len(quote)} bytes")
        peer_collateral = theirs(collateral)
        cache = VerifiedCache()
        decoded = collateral.encode()
        full, cached, peer = interleave(
            RUNS,
            milliseconds(lambda: verify_quote(quote, Collateral.decode(decoded), policy, now=now)),  # noqa: B023
            milliseconds(lambda: verify_quote(quote, Collateral.decode(decoded), policy, now=now, cache=cache)),  # noqa: B023
            milliseconds(lambda: dcap_qvl.verify_with_root_ca(quote, peer_collateral, root, seconds)),  # noqa: B023
        )
        row(f"attest-{tee}-ms", full, "ms", peer="dcap-qvl", peer_samples=peer, quote=source)
        row(f"attest-{tee}-cached-ms", cached, "ms", peer="dcap-qvl, no cache", peer_samples=peer, quote=source)


if __name__ == "__main__":
    main()
