"""Write `receipts.json`: proofs and ledgers of a simulated platform, made by the Python package.

Run it from the repository's root: `python web/packages/client/test/vectors/make.py`. Every run makes other keys.
"""

from __future__ import annotations

import base64
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mitai.attest import CapsuleClaim, Claims, LedgerClaim, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.channel import KeyRing
from mitai.client.receipts import Proof
from mitai.identity import Identity
from mitai.ledger import FolderStore, Log, Receipt, ReceiptBundle
from mitai.ledger.entry import ReceiptEntry, utc
from mitai.ledger.receipt import CapsuleRef, Usage, receipt_sha256

ORIGIN = "example.org/log"
CODE = Workload("serve", bytes(32))
OPEN = CapsuleRef(id="c1", manifest_sha256="d" * 64)
ADAPTER = CapsuleRef(id="a1", manifest_sha256="d" * 64)
NOW = datetime.now(UTC)


def files(log: Log, folder: Path) -> dict[str, str]:
    """Return what a log publishes, in base64 by path."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    kept = {path: data for path, data in named.items() if path.startswith("tile/") and "entries" not in path}
    return {path: base64.b64encode(data).decode() for path, data in (kept | {"checkpoint": log.checkpoint()}).items()}


class Maker:
    """One simulated platform, one ledger key."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, Identity.generate()
        self.platform = SimPlatform.create(folder / "sim")
        self.policy = Policy(
            allow_simulation=True, sim_roots=(self.platform.sim_root,), workloads=(reference_values(CODE),)
        )

    def log(self, name: str, entries: list[bytes]) -> Log:
        """Return a log of these entries."""
        log = Log(FolderStore(self.folder / name), self.key, ORIGIN)
        log.append(entries)
        return log

    def proof(
        self,
        name: str,
        *,
        gap: timedelta = timedelta(),
        model: CapsuleRef = OPEN,
        adapters: tuple[CapsuleRef, ...] = (),
        ledger: bool = True,
    ) -> str:
        """Return a kept proof."""
        receipt_key, logged = Identity.generate(), NOW + gap
        receipt = Receipt(
            exchange="e1",
            request_sha256="a" * 64,
            response_sha256="b" * 64,
            model="m",
            capsules=(model,),
            adapters=adapters,
            policies=(),
            usage=Usage(prompt_tokens=1, completion_tokens=2),
            evidence_sha256="c" * 64,
            started=utc(logged),
            finished=utc(logged),
        )
        envelope = receipt.sign(receipt_key)
        entry = ReceiptEntry(time=utc(logged), exchange="e1", receipt_sha256=receipt_sha256(envelope)).encode()
        log = self.log(name, [b"another", entry])
        bundle = ReceiptBundle(
            envelope=envelope,
            entry=entry,
            index=1,
            proof=log.inclusion_proof(1),
            checkpoint=log.checkpoint().decode(),
        )
        claims = Claims(
            workload="serve",
            key_config=KeyRing.generate().current_config(),
            receipt_key=receipt_key.public.raw,
            capsules=tuple(CapsuleClaim(each.id, each.manifest_sha256) for each in (OPEN, ADAPTER)),
            ledger=LedgerClaim(ORIGIN, log.vkey, log.checkpoint()) if ledger else None,
        )
        nonce = bytes(range(32))
        evidence = self.platform.attester(CODE).evidence(claims.encode(), nonce)
        proof = Proof(
            bundle=bundle,
            evidence=evidence,
            nonce=nonce,
            verified_at=NOW,
            request_sha256="a" * 64,
            response_sha256="b" * 64,
        )
        return proof.encode().decode()


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(Path(folder))
        short = maker.log("short", [b"one", b"two"])
        published = {"short": files(short, Path(folder) / "short")}
        short.append([b"three"] * 300)
        published["grown"] = files(short, Path(folder) / "short")
        for name, entries in {"fork": [b"one", b"TWO", b"three"], "older": [b"one"]}.items():
            published[name] = files(maker.log(name, entries), Path(folder) / name)
        vectors = {
            "policy": maker.policy.to_toml(),
            "proofs": {
                "holds": maker.proof("p1"),
                "late": maker.proof("p2", gap=timedelta(days=2)),
                "early": maker.proof("p3", gap=timedelta(days=-2)),
                "other-model": maker.proof("p4", model=CapsuleRef(id="c1", manifest_sha256="e" * 64)),
                "adapter": maker.proof("p6", adapters=(ADAPTER,)),
                "other-adapter": maker.proof("p7", adapters=(CapsuleRef(id="a2", manifest_sha256="d" * 64),)),
                "no-ledger": maker.proof("p5", ledger=False),
            },
            "vkey": short.vkey,
            "ledgers": published,
        }
    Path(__file__).with_name("receipts.json").write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
