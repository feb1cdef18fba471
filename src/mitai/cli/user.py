"""`mitai receipt`: what a user of a model can check of an answer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from mitai.cli.capsule import CapsuleOption, OwnerOption, read_manifest
from mitai.cli.options import JsonFlag, PolicyOption, read_policy, refuse_options
from mitai.cli.output import SIMULATED, Output
from mitai.cli.verify import brief, machine_of
from mitai.client import Proof, receipts
from mitai.errors import ClientError
from mitai.fleet.home import Home
from mitai.ledger.assurance import tier
from mitai.ledger.receipt import Receipt


def receipt(
    which: Annotated[str | None, Parameter(help="A receipt's id, how it begins, or a file; else the newest.")] = None,
    *,
    list_all: Annotated[bool, Parameter(name="--list", negative="", help="List the kept receipts.")] = False,
    policy: PolicyOption = None,
    client: Annotated[
        Path | None,
        Parameter(help="Whose folder says which keys parties, or a service of proofs, have; else those of this home."),
    ] = None,
    capsule: CapsuleOption = None,
    owner: OwnerOption = None,
    json: JsonFlag = False,
) -> None:
    """Check the receipt of an answer, offline: the machine, its signature, its place in the ledger.

    Receipts are kept in `$MITAI_HOME/user/receipts`. Such a file can be given to anybody; it holds digests, no words.
    One of parties that computed together is checked by their keys: each has signed, and all say the same; one
    of a service of proofs by its key, and by the proof where that is kept beside it.
    With the manifest of the capsule that answered, and its owner's key, it shows by which identity proofs name it.

    Example: `mitai receipt 4579`, the kept one whose id begins so
    """
    out, home = Output(json), Home.default()
    kept = sorted(home.receipts.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if list_all:
        out.table(("receipt", "kept at"), [(path.stem, str(path)) for path in reversed(kept)])
        out.result({"receipts": [path.stem for path in reversed(kept)]})
        return
    path = receipt_path(home, which, kept)
    content = path.read_bytes()
    kind = _kind(content)
    if kind == "mitai proof receipt v1":
        from mitai.cli import proven

        refuse_options(client or home.proof_client, policy=policy, capsule=capsule)
        proven.receipt(out, path, client or home.proof_client)
        return
    if kind == "mitai parties proof v1":
        from mitai.cli import parties

        refuse_options(client or home.mpc_client, policy=policy, capsule=capsule)
        parties.receipt(out, content, client or home.mpc_client)
        return
    proof = Proof.decode(content)
    checked, appraisal = receipts.check(proof, read_policy(home, policy))
    origin = appraisal.claims.ledger.origin if appraisal.claims.ledger else ""
    capsules = [capsule.id for capsule in checked.capsules]
    adapters = [capsule.id for capsule in checked.adapters]
    promised = [] if checked.assurances is msgspec.UNSET else [tier(one) for one in checked.assurances]
    identity = proof_identity(checked, capsule, owner) if capsule else None
    rows = [
        ("exchange", checked.exchange),
        ("model", checked.model),
        ("capsules", ", ".join(capsules) or "none"),
        *([("adapters", ", ".join(adapters))] if adapters else []),
        *([("proof identity", identity or "none")] if capsule else []),
        *([("also promised", ", ".join(promised))] if promised else []),
        ("tokens", f"{checked.usage.prompt_tokens} in, {checked.usage.completion_tokens} out"),
        ("time", f"{checked.started} to {checked.finished}"),
        ("request (ciphertext)", checked.request_sha256),
        ("answer (ciphertext)", checked.response_sha256),
        ("ledger", f"{origin} entry {proof.bundle.index}"),
        ("machine", brief(appraisal)),
    ]
    out.table(("", ""), rows)
    out.say("[green]✔[/] signed by the verified machine, and in the ledger")
    if appraisal.simulated:
        out.say(SIMULATED)
    usage = {"prompt_tokens": checked.usage.prompt_tokens, "completion_tokens": checked.usage.completion_tokens}
    out.result(
        {
            "verdict": "holds",
            "simulated": appraisal.simulated,
            "exchange": checked.exchange,
            "model": checked.model,
            "capsules": capsules,
            "adapters": adapters,
            "proof_identity": identity,
            "assurances": promised,
            "usage": usage,
            "started": checked.started,
            "finished": checked.finished,
            "request_sha256": checked.request_sha256,
            "response_sha256": checked.response_sha256,
            "ledger": {"origin": origin, "index": proof.bundle.index},
            "machine": machine_of(appraisal),
        }
    )


def proof_identity(checked: Receipt, capsule: Path, owner: str | None) -> str | None:
    """Return by which identity proofs name the model whose manifest this is, if it is one that answered."""
    manifest, digest = read_manifest(capsule, owner)
    if digest not in {used.manifest_sha256 for used in checked.capsules}:
        raise ClientError(
            "client.capsule-differs",
            "the answer came from another capsule, or another revision of it",
            hint="see: capsules",
        )
    return manifest.proof_identity or None


class _Kind(msgspec.Struct):
    v: str = ""


def _kind(content: bytes) -> str:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        return msgspec.json.decode(content, type=_Kind).v
    return ""


def receipt_path(home: Home, which: str | None, kept: list[Path]) -> Path:
    """Return the kept receipt that `which` names: an id, a file, or how just one of the ids begins."""
    if which is None:
        if not kept:
            raise ClientError("client.no-receipt", f"no receipt is kept in {home.receipts}", hint="ask: mitai chat")
        return kept[-1]
    for path in (home.receipts / f"{which}.json", Path(which)):
        if path.is_file():
            return path
    found = [path for path in kept if which and path.stem.startswith(which)]
    if len(found) > 1:
        raise ClientError(
            "client.receipt-ambiguous", f"{len(found)} receipts begin with {which!r}", hint="see: mitai receipt --list"
        )
    if not found:
        raise ClientError("client.no-receipt", f"there is no receipt {which!r}", hint="see: mitai receipt --list")
    return found[0]
