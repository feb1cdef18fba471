"""`mitai seal`, `publish`, `revoke`: what the owner of a model does, on a machine of the owner's own."""

from __future__ import annotations

import hashlib
import secrets
import shlex
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from mitai.attest import ClaimRules, Policy
from mitai.broker.protocol import Amounts
from mitai.capsule import MANIFEST_NAME, Manifest, Sealed, open_manifest
from mitai.capsule import seal as seal_folder
from mitai.capsule.opening import check_data_key
from mitai.cli.models import check_model
from mitai.cli.options import (
    JsonFlag,
    Natural,
    PolicyOption,
    Positive,
    UploadToken,
    platform_url,
    read_policy,
    token_for,
)
from mitai.cli.output import Output, data
from mitai.client.objects import upload
from mitai.client.owner import Owner
from mitai.errors import BrokerError, CapsuleError, ClientError
from mitai.fleet.home import Home, write_private

DEFAULT_TERM = timedelta(days=30)


def seal(
    folder: Annotated[Path, Parameter(help="A model folder: config, tokenizer, safetensors.")],
    out: Annotated[Path | None, Parameter(name="--out", help="Where to; by default `NAME.capsule`.")] = None,
    *,
    name: Annotated[str | None, Parameter(help="The model's name; by default the folder's.")] = None,
    kind: Annotated[
        str, Parameter(help="`model`: can be served; any other word, such as `data`: any folder.")
    ] = "model",
    proof: Annotated[
        Path | None,
        Parameter(help="What `mitai proof prepare` made of it: the manifest names the identity that proofs have, too."),
    ] = None,
    digests: Annotated[
        bool, Parameter(negative="", help="Name every byte in the manifest: a host can check all it stores. Slower.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Encrypt a model folder into a capsule: ciphertext that anybody may store.

    The capsule is signed with your identity (`owner/identity.pem`, made on first use); its key is kept in `owner/keys`,
    both under `$MITAI_HOME`. Interrupted sealing resumes when the command is repeated.

    Example: `mitai seal my-model`, which makes `my-model.capsule`
    """
    output, home = Output(json), Home.default()
    name = name or folder.resolve().name
    dest = out or Path(f"{name}.capsule")
    identity = _proof_identity(folder, proof, kind) if proof else None
    sealed = _seal(output, home, folder, dest, name, kind=kind, digests=digests, identity=identity)
    output.say(f"[green]✔[/] capsule {sealed.capsule_id} in {data(dest)}")
    output.say(f"  its key: {data(home.data_key_path(sealed.capsule_id))} (never upload this)")
    if identity:
        output.say(f"  proofs name this model: {identity}")
        output.say(f"  your public key, for whoever verifies with the manifest: {home.owner().public.raw.hex()}")
    output.say(f"  next: mitai publish {data(shlex.quote(str(dest)))}")
    output.result(
        {
            "capsule": sealed.capsule_id,
            "folder": str(dest),
            "manifest_sha256": sealed.manifest_sha256,
            "name": name,
            "kind": kind,
            "proof_identity": identity,
        }
    )


def publish(
    capsule: Annotated[Path, Parameter(help="A sealed folder, made by `mitai seal`.")],
    *,
    url: Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")] = None,
    uses: Annotated[
        Positive | None, Parameter(help="How many releases of the key to allow; by default any number.")
    ] = None,
    days: Annotated[
        int, Parameter(validator=Number(gte=1, lte=36500), help="For how many days the key may be released.")
    ] = DEFAULT_TERM.days,
    tokens: Annotated[Natural | None, Parameter(help="How many tokens all releases together may declare.")] = None,
    steps: Annotated[Natural | None, Parameter(help="How many training steps, likewise.")] = None,
    epsilon: Annotated[
        Decimal | None, Parameter(help="How much privacy loss (epsilon), likewise; in steps of 0.000001.")
    ] = None,
    cedar: Annotated[Path | None, Parameter(help="Your own Cedar policy, instead of the ready-made one.")] = None,
    upload_token: UploadToken = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Verify the key broker, hand it the key under your policy, and upload the ciphertext.

    The ready-made policy: inference only, only by the measured code that your appraisal policy names, for a time.
    A capsule that is published already gets the new policy in place of its own; `--uses` counts from its first release
    on.

    Example: `mitai publish my-model.capsule --uses 10 --days 30`
    """
    output, home = Output(json), Home.default()
    gateway = platform_url(home, url)
    token = upload_token or token_for(home, gateway, "upload")
    own = cedar.read_text(encoding="utf-8") if cedar else None
    terms = Terms(uses, datetime.now(UTC) + timedelta(days=days), own, Amounts(tokens, steps, micros(epsilon)))
    done = _publish(
        output,
        home,
        capsule,
        gateway=gateway,
        token=token,
        policy=read_policy(home, policy),
        terms=terms,
        replace=True,
    )
    manifest, told = done.manifest, "policy replaced: " if done.known else ""
    output.say(
        f"[green]✔[/] published {manifest.capsule_id} ({data(manifest.name)}): {told}ledger entry {done.ledger_index}"
    )
    output.say(f"  next: mitai deploy {manifest.capsule_id}")
    output.simulated(done.simulated)
    output.result(
        {
            "capsule": manifest.capsule_id,
            "name": manifest.name,
            "ledger_index": done.ledger_index,
            "policy_replaced": done.known,
            "simulated": done.simulated,
        }
    )


def revoke(
    capsule: Annotated[str, Parameter(help="The capsule's id.")],
    *,
    url: Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")] = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Withdraw your consent for a capsule, for good: its key is not released any more.

    Replicas that hold the key already keep it until they stop.

    Example: `mitai revoke CAPSULE_ID`
    """
    output, home = Output(json), Home.default()
    with closing(verified_broker(home, platform_url(home, url), read_policy(home, policy))) as owner:
        index = owner.revoke(capsule)
        simulated = owner.session.appraisal.simulated
    output.say(f"[green]✔[/] revoked {data(capsule)}: ledger entry {index}")
    output.simulated(simulated)
    output.result({"capsule": capsule, "ledger_index": index, "simulated": simulated})


class Terms:
    """Under which conditions a key is handed over.

    Args:
        uses: How many releases; None: any number.
        until: Until when.
        cedar: The owner's own policy text; None: the ready-made one.
        amounts: How much all releases together may declare; None: any amount.
    """

    def __init__(
        self,
        uses: int | None = None,
        until: datetime | None = None,
        cedar: str | None = None,
        amounts: Amounts | None = None,
    ) -> None:
        self.uses, self.until, self.cedar = uses, until or datetime.now(UTC) + DEFAULT_TERM, cedar
        self.amounts = amounts if amounts != Amounts() else None


def micros(epsilon: Decimal | None) -> int | None:
    """Return an epsilon in millionths."""
    if epsilon is None:
        return None
    if not (epsilon.is_finite() and 0 <= epsilon <= 1000 and epsilon == round(epsilon, 6)):
        raise ClientError("client.epsilon", "an epsilon is a number from 0 to 1000 with at most 6 decimals")
    return int(epsilon * 1_000_000)


def seal_publish(output: Output, home: Home, model: tuple[Path, str], gateway: str, token: str) -> tuple[str, str]:
    """Seal and publish once; what is sealed already is used again. Return capsule id and model name."""
    folder, name = model
    state = "\n".join(f"{p.relative_to(folder)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in _files(folder))
    dest = home.root / "owner" / "capsules" / hashlib.sha256(f"{folder}\n{state}".encode()).hexdigest()[:16]
    if not (dest / MANIFEST_NAME).exists():
        _seal(output, home, folder, dest, name)
    policy = read_policy(home, None)
    done = _publish(output, home, dest, gateway=gateway, token=token, policy=policy, terms=Terms(), replace=False)
    told = "as before" if done.known else f"ledger entry {done.ledger_index}"
    output.note(f"sealed and published {name}: capsule {done.manifest.capsule_id}, {told}")
    return done.manifest.capsule_id, name


def inference_policy(policy: Policy, until: datetime) -> str:
    """Return the ready-made Cedar policy: inference only, by code that `policy` names, until a time."""
    rules = []
    for values in policy.workloads:
        registers = [f'"{name}={value}"' for name, value in values.registers.items()]
        pinned = ", ".join(register for register in registers if not register.endswith('=any"'))
        if values.name == "serve":
            rules.append(
                "permit (\n"
                '  principal == Workload::"serve",\n  action == Action::"inference",\n  resource\n)\n'
                f"when {{\n  context.measurements.containsAll([{pinned}]) &&\n"
                f'  context.time < datetime("{until:%Y-%m-%dT%H:%M:%SZ}")\n}};\n'
            )
    if not policy.allow_simulation:
        rules.append("forbid (principal, action, resource) when { context.simulated };\n")
    if not any(rule.startswith("permit") for rule in rules):
        raise ClientError("client.no-reference-values", "the appraisal policy has no measurements of workload 'serve'")
    return "\n".join(rules)


def _proof_identity(folder: Path, prepared: Path, kind: str) -> str:
    """Return the identity of what was prepared, if that is the model in the folder."""
    from mitai.proof.prepared import Prepared, check_prepared

    if kind != "model":
        raise ClientError("client.option-malformed", "--proof is for models", hint="leave --kind out")
    check_model(folder)
    found = Prepared.open(prepared)
    check_prepared(found, folder)
    return found.card.identity


def _seal(
    output: Output,
    home: Home,
    folder: Path,
    dest: Path,
    name: str,
    *,
    kind: str = "model",
    digests: bool = False,
    identity: str | None = None,
) -> Sealed:
    """Seal under a key that is on disk before anything is sealed with it, so that no crash can lose it."""
    if kind == "model":
        check_model(folder)
    pending, finished = home.pending_key_path(dest), (dest / MANIFEST_NAME).exists()
    if finished and pending.exists():  # killed after the last step of sealing
        sealed_before = open_manifest((dest / MANIFEST_NAME).read_bytes(), owner=home.owner().public)
        check_data_key(sealed_before, pending.read_bytes())
        pending.replace(home.data_key_path(sealed_before.capsule_id))
    if not finished and not pending.exists():
        write_private(pending, secrets.token_bytes(32))
    try:
        with output.bar(f"sealing {name}") as report:
            sealed = seal_folder(
                folder,
                dest,
                owner=home.owner(),
                name=name,
                kind=kind,
                data_key=pending.read_bytes() if pending.exists() else None,
                digests=digests,
                proof_identity=identity or msgspec.UNSET,
                progress=report,
            )
    except CapsuleError as error:
        if error.code == "capsule.io-failed":
            raise CapsuleError(error.code, f"{error.message} (from {folder} to {dest})", hint=error.hint) from error
        if error.code not in {"capsule.exists", "capsule.destination-not-empty"}:
            raise
        hint = "give another folder: mitai seal FOLDER OTHER; or remove that one"
        raise CapsuleError(error.code, f"{error.message}: {dest}", hint=hint) from error
    pending.replace(home.data_key_path(sealed.capsule_id))
    return sealed


@dataclass(frozen=True)
class Published:
    """What came of publishing."""

    manifest: Manifest
    ledger_index: int | None  # None: it was registered before, and its policy was left alone
    known: bool  # it was registered before
    simulated: bool


def _publish(
    output: Output,
    home: Home,
    capsule: Path,
    *,
    gateway: str,
    token: str,
    policy: Policy,
    terms: Terms,
    replace: bool,
) -> Published:
    """Verify the broker, upload, register; `replace` the policy of a capsule that is registered already."""
    identity = home.owner()
    try:
        envelope = (capsule / MANIFEST_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ClientError(
            "client.no-capsule", f"{capsule} holds no sealed model", hint="make one: mitai seal MODEL_FOLDER"
        ) from None
    manifest = open_manifest(envelope, owner=identity.public)
    data_key = home.data_key(manifest.capsule_id)
    cedar = terms.cedar or inference_policy(policy, terms.until)
    with closing(verified_broker(home, gateway, policy)) as owner:
        if not owner.session.appraisal.claims.extra.get("witnesses"):
            output.note(
                "warning: nobody witnesses this broker's ledger: its host can put its whole database back unseen"
            )
        simulated = owner.session.appraisal.simulated
        with output.bar(f"uploading {manifest.name} (ciphertext)") as report:
            upload(capsule, gateway, token, owner=identity.public, progress=report)
        try:
            index = owner.publish(
                manifest.capsule_id,
                envelope,
                data_key,
                policy=cedar,
                uses=terms.uses,
                not_after=terms.until,
                amounts=terms.amounts,
            )
        except BrokerError as error:
            rotated = error.code == "capsule.id-foreign" and manifest.capsule_id in owner.capsules()
            if error.code != "broker.capsule-exists" and not rotated:
                raise
        else:
            return Published(manifest, index, known=False, simulated=simulated)
        if not replace:
            return Published(manifest, None, known=True, simulated=simulated)
        index = owner.set_policy(
            manifest.capsule_id, cedar, uses=terms.uses, not_after=terms.until, amounts=terms.amounts
        )
    return Published(manifest, index, known=True, simulated=simulated)


def verified_broker(home: Home, gateway: str, policy: Policy, name: str = "owner") -> Owner:
    """Verify the broker and that it appraises workloads as we do; register this owner if it is new there."""
    owner = Owner(f"{gateway}/broker", home.owner(), policy)
    shared = msgspec.structs.replace(policy, claims=ClaimRules())  # what claims must say is each client's own matter
    ours = hashlib.sha256(shared.to_toml().encode()).hexdigest()
    if ours not in owner.session.appraisal.claims.policies:
        raise ClientError(
            "client.broker-policy",
            "the broker is genuine, but appraises workloads by another policy than yours",
            hint="its operator must configure the policy that you trust",
        )
    try:
        owner.register(name)
    except BrokerError as error:
        if error.code != "broker.party-exists":
            raise
    return owner


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
