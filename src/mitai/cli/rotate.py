"""`mitai rotate`: a new data key for a capsule that is published already."""

from __future__ import annotations

import hashlib
import secrets
import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mitai.capsule import MANIFEST_NAME, Manifest, open_capsule, open_manifest
from mitai.capsule import seal as seal_files
from mitai.capsule.manifest import PAYLOAD_TYPE
from mitai.capsule.opening import check_data_key
from mitai.capsule.stores import FolderStore
from mitai.cli.options import JsonFlag, PolicyOption, UploadToken, platform_url, read_policy, token_for
from mitai.cli.output import Output, data
from mitai.cli.owner import verified_broker
from mitai.client.objects import upload
from mitai.errors import BrokerError, ClientError
from mitai.fleet.home import Home, write_private
from mitai.identity import Envelope


def rotate(
    capsule: Annotated[Path, Parameter(help="The sealed folder as it is published.")],
    folder: Annotated[Path, Parameter(help="Where to put it, sealed anew; a new folder.")],
    *,
    url: Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")] = None,
    upload_token: UploadToken = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Seal a published capsule anew, under a new data key, and have the broker release that one from now on.

    The capsule keeps its id, policies, uses and history; co-owners have to set their policies again, as nobody can see
    that the contents are the same. What runs goes on with the former key: its objects stay beside the new ones until
    the gateway's operator removes them. Interrupted, it resumes when the command is repeated.

    Example: `mitai rotate my-model.capsule my-model-2.capsule`
    """
    output, home = Output(json), Home.default()
    gateway, rules = platform_url(home, url), read_policy(home, policy)
    token = upload_token or token_for(home, gateway, "upload")
    former, former_sha256 = _manifest(home, capsule)
    pending = home.pending_key_path(folder)
    if not (folder / MANIFEST_NAME).exists():
        _seal(output, home, capsule, folder, former)
    manifest, manifest_sha256 = _manifest(home, folder)
    if manifest.capsule_id != former.capsule_id or manifest_sha256 == former_sha256:
        raise ClientError("client.other-capsule", f"{folder} holds something else than {capsule}, sealed anew")
    data_key = pending.read_bytes() if pending.exists() else home.data_key(manifest.capsule_id)
    check_data_key(manifest, data_key)
    with closing(verified_broker(home, gateway, rules)) as owner:
        with output.bar(f"uploading {manifest.name} (ciphertext)") as report:
            upload(folder, gateway, token, owner=home.owner().public, progress=report, revision=True)
        envelope = (folder / MANIFEST_NAME).read_bytes()
        index = None
        try:
            index = owner.rotate_key(manifest.capsule_id, envelope, data_key, previous_sha256=former_sha256)
        except BrokerError as error:  # the command may have arrived before, and its answer not
            if owner.capsule(manifest.capsule_id).manifest_sha256 != manifest_sha256:
                raise error
        simulated = owner.session.appraisal.simulated
    if pending.exists():
        home.keep_former_key(manifest.capsule_id, former_sha256)
        pending.replace(home.data_key_path(manifest.capsule_id))
    output.simulated(simulated)
    output.say(f"[green]✔[/] {data(manifest.name)} has a new data key")
    output.say("  the former objects may go once nothing runs with the former key: " + data(shlex.quote(str(capsule))))
    output.result({"capsule": manifest.capsule_id, "manifest_sha256": manifest_sha256, "ledger_index": index})


def _manifest(home: Home, folder: Path) -> tuple[Manifest, str]:
    """Return the manifest in a sealed folder of this owner's, and its digest."""
    try:
        envelope = (folder / MANIFEST_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ClientError("client.no-capsule", f"{folder} holds no sealed capsule") from None
    owner = home.owner().public
    payload = Envelope.decode(envelope).open(PAYLOAD_TYPE, owner)
    return open_manifest(envelope, owner=owner), hashlib.sha256(payload).hexdigest()


def _seal(output: Output, home: Home, capsule: Path, folder: Path, former: Manifest) -> None:
    """Seal the opened capsule anew, from memory to ciphertext, under a key that is on disk before."""
    identity, old_key = home.owner(), home.data_key(former.capsule_id)
    source = open_capsule(FolderStore(capsule), (capsule / MANIFEST_NAME).read_bytes(), old_key, owner=identity.public)
    pending = home.pending_key_path(folder)
    if not pending.exists():
        write_private(pending, secrets.token_bytes(32))
    with output.bar(f"sealing {former.name}") as report:
        seal_files(
            source,
            folder,
            owner=identity,
            name=former.name,
            kind=former.kind,
            data_key=pending.read_bytes(),
            capsule_id=former.capsule_id,
            parents=former.parents,
            labels=former.labels,
            digests=any(file.digests for file in former.files),
            proof_identity=former.proof_identity,
            progress=report,
        )
