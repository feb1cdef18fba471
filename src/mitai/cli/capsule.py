"""`mitai capsule inspect`: what a capsule's signed manifest says; and how other commands read one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mitai.capsule import MANIFEST_NAME, Manifest, open_manifest
from mitai.cli.evidence import from_hex, read_file
from mitai.cli.options import JsonFlag
from mitai.cli.output import Output, printable
from mitai.errors import ClientError
from mitai.fleet.home import Home
from mitai.identity import Envelope, PublicKey

CapsuleOption = Annotated[Path | None, Parameter(help="A capsule's folder, or its signed manifest.")]
OwnerOption = Annotated[str | None, Parameter(help="Hex: the public key of the capsule's owner; by default your own.")]

app = App(name="capsule", help="Sealed models and data as others see them.", help_epilogue="")


@app.command
def inspect(
    capsule: Annotated[Path, Parameter(help="A capsule's folder, or its signed manifest.")],
    *,
    owner: OwnerOption = None,
    json: JsonFlag = False,
) -> None:
    """Check the owner's signature on a capsule's manifest, and show what it says. No key is needed.

    Receipts name the manifest's digest, proofs of answers its proof identity: both are the same model.

    Example: `mitai capsule inspect my-model.capsule`
    """
    output = Output(json)
    manifest, digest = read_manifest(capsule, owner)
    facts = {
        "capsule": manifest.capsule_id,
        "name": manifest.name,
        "kind": manifest.kind,
        "created": manifest.created,
        "owner": manifest.owner,
        "manifest_sha256": digest,
        "proof_identity": manifest.proof_identity or None,
        "parents": list(manifest.parents),
        "labels": manifest.labels,
        "files": {file.name: file.size for file in manifest.files},
    }
    shown = {**facts, "files": len(manifest.files), "bytes": sum(file.size for file in manifest.files)}
    output.table(
        ("", ""), [(name, printable(str(value))) for name, value in shown.items() if value not in (None, [], {})]
    )
    output.say("[green]✔[/] signed by this owner")
    output.result(facts)


def read_manifest(path: Path, owner: str | None) -> tuple[Manifest, str]:
    """Return the manifest that an owner signed, and its digest.

    Args:
        path: A capsule's folder, or the manifest.
        owner: The owner's public key in hex; None: of this home.

    Raises:
        MitaiError: It can't be read, or is not this owner's.
    """
    home = Home.default()
    if not owner and not home.has_owner():
        raise ClientError(
            "client.owner-unnamed", "it is not said who has to have signed the capsule", hint="give --owner"
        )
    key = PublicKey(from_hex("--owner", owner)) if owner else home.owner().public
    envelope = read_file(path / MANIFEST_NAME if path.is_dir() else path)
    return open_manifest(envelope, owner=key), hashlib.sha256(Envelope.decode(envelope).payload).hexdigest()
