"""What attestation tests share: a simulated machine whose every part can be forged, and the public vectors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from mitai.attest import Claims, Collateral, Evidence, Policy, TcbRules, TdxRules, verify
from mitai.attest.dcap.tcb import TcbStatus
from mitai.attest.policy import SgxRules
from mitai.attest.sim import SimPlatform, Workload, intel, reference_values

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
NONCE = bytes(range(32))
CLAIMS = Claims(workload="serve", key_config=b"an HPKE key configuration", receipt_key=bytes(32))
WORKLOAD = Workload("serve", bytes(32))

# Accepts every platform and every TD, so that a test sees the status that was found.
LAX = Policy(
    tcb=TcbRules(accepted_statuses=tuple(set(TcbStatus) - {TcbStatus.REVOKED}), accepted_advisories=("any",)),
    tdx=TdxRules(
        td_attributes_required="00" * 8, td_attributes_allowed="ff" * 8, xfam_allowed="ff" * 8, mrservicetd="any"
    ),
    sgx=SgxRules(allow_debug=True),
)


@dataclass
class Lab:
    """A machine, its authority's keys, and a policy that trusts them."""

    platform: SimPlatform
    policy: Policy

    @staticmethod
    def build(folder: Path) -> Lab:
        platform = SimPlatform.create(folder, clock=lambda: NOW)
        policy = Policy(allow_simulation=True, sim_roots=(platform.sim_root,), workloads=(reference_values(WORKLOAD),))
        return Lab(platform, policy)

    @property
    def authority(self) -> intel.Authority:
        return self.platform._authority

    def evidence(self, claims: bytes | None = None) -> Evidence:
        return self.platform.attester(WORKLOAD).evidence(claims if claims is not None else CLAIMS.encode(), NONCE)

    def verify(self, evidence: Evidence | None = None, policy: Policy | None = None, **more):
        return verify(
            evidence if evidence is not None else self.evidence(),
            policy if policy is not None else self.policy,
            **{"nonce": NONCE, "now": NOW, **more},
        )

    def resign(self, tcb: dict | None = None, qe: dict | None = None, tee: str = "tdx") -> Collateral:
        """Return collateral with changes in TCB info or QE identity, properly signed."""
        collateral = self.platform.collateral(tee)
        changes = {}
        for name, change in (("tcb_info", tcb), ("qe_identity", qe)):
            if change is not None:
                text = json.dumps({**json.loads(getattr(collateral, name)), **change})
                changes |= {name: text, f"{name}_signature": intel.sign(self.authority.keys["signer"], text.encode())}
        return replace(collateral, **changes)

    def lists(self, **revoked: int) -> Collateral:
        """Return collateral whose revocation lists (`root`, `ca`) hold a serial number."""
        window = (NOW - timedelta(hours=1), NOW + timedelta(days=30))
        names = {"root": "root_ca_crl", "ca": "pck_crl"}
        changes = {names[issuer]: self.authority.crl(issuer, *window, (serial,)) for issuer, serial in revoked.items()}
        return replace(self.platform.collateral(), **changes)


def replace(value, **changes):
    """Return a copy of a struct with changes."""
    return msgspec.structs.replace(value, **changes)


def flip(data: bytes, offset: int, mask: int = 1) -> bytes:
    """Return the bytes with one of them changed."""
    return data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1 :]


def vector_folder() -> Path:
    """Return the folder of public vectors; skip the test where there is none."""
    folder = Path(os.environ.get("MITAI_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
    if not (folder / "index.json").is_file():
        pytest.skip("no public vectors here: set MITAI_VECTORS to their folder")
    return folder


def vector_entries() -> list[dict]:
    """Return the entries of the vectors' index; empty where there are none."""
    folder = Path(os.environ.get("MITAI_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")
    if not (folder / "index.json").is_file():
        return []
    return json.loads((folder / "index.json").read_text())["entries"]


def vector_file(entry: dict, name: str) -> bytes:
    """Return one file of an entry."""
    return (vector_folder() / entry["files"][name]["path"]).read_bytes()


def vector_time(entry: dict) -> datetime:
    """Return the time at which an entry is to be verified."""
    return datetime.fromtimestamp(entry["verification_time_unix"], UTC)
