"""`mitai recovery`: who can give a broker's keys to a new machine, and the words with which they do it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from mitai.attest import Policy
from mitai.broker import protocol
from mitai.broker.protocol import sha256_hex
from mitai.broker.recovery import PLAN_TYPE, Member, Plan, RecoveryKey, decode_plan, read_shares
from mitai.cli.options import JsonFlag, PolicyOption, Positive, UrlArgument, platform_url, read_policy
from mitai.cli.output import Output, data
from mitai.client import recovery
from mitai.errors import ClientError
from mitai.fleet.home import Home, write_private
from mitai.identity import Envelope

app = App(
    name="recovery",
    help="""Keys that survive: who of the owners can give a broker's root key to a new machine or a new build.

Each member makes a recovery key (`keygen`), somebody writes a plan that names them (`plan`), those who have a say sign
it (`sign`), and the broker puts it into force. When its machine is gone, a new one proves itself, and enough members
bring their shares to it (`approve`), each after a look of its own.""",
    help_format="markdown",
    help_epilogue="",
)
KeyOption = Annotated[
    Path | None, Parameter(name="--key", help="Your recovery key; by default `$MITAI_HOME/owner/recovery.key`.")
]
BrokerArgument = Annotated[
    str | None, Parameter(help="The broker's address; by default `/broker` at the local platform's gateway.")
]


@app.command
def keygen(
    out: Annotated[Path | None, Parameter(name="--out", help="Where to write the member file.")] = None,
    *,
    key: KeyOption = None,
    kem: Annotated[
        Literal["x25519", "x-wing"], Parameter(help="`x-wing` also withstands quantum computers.")
    ] = "x-wing",
    json: JsonFlag = False,
) -> None:
    """Make a recovery key, and a member file with your public keys for whoever writes the plan.

    Keep a copy of the recovery key apart from the machines that it shall help to replace.
    """
    output, home = Output(json), Home.default()
    path = key or _key_path(home)
    if path.exists():
        raise ClientError(
            "client.recovery-key-exists", f"there is a recovery key at {path}", hint="name another: --key"
        )
    made = RecoveryKey(kem=kem, seed=secrets.token_bytes(32))
    member = Member(home.owner().public.raw, made.public())
    target = out or Path(f"{home.owner().key_id[:16]}.member.json")
    write_private(path, protocol.encode(made))
    target.write_bytes(protocol.encode(member))
    output.say(f"[green]✔[/] recovery key in {data(path)} (never give this away; keep a copy)")
    output.say(f"  for the plan: {data(target)}")
    output.result({"key": str(path), "member": str(target), "party": home.owner().key_id})


@app.command
def plan(
    *members: Annotated[Path, Parameter(help="Member files of `mitai recovery keygen`.")],
    threshold: Annotated[Positive, Parameter(help="How many members it takes.")],
    peers: Annotated[
        Path | None,
        Parameter(help="Appraisal policy for brokers that get the root key from a running one; default: same build."),
    ] = None,
    url: Annotated[
        str | None, Parameter(help="A running broker whose plan this one follows; none: for a broker without parties.")
    ] = None,
    out: Annotated[Path, Parameter(name="--out", help="Where to write the plan.")] = Path("plan.json"),
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Write a recovery plan. It counts once those who have a say have signed it, and the broker was started with it.

    Example: `mitai recovery plan alice.json bob.json carol.json --threshold 2`
    """
    output, version, audience = Output(json), 1, None
    if url is not None:
        shown, appraisal = recovery.show(url, read_policy(Home.default(), policy))
        version = decode_plan(shown.plan).version + 1 if shown.plan else 1
        audience = appraisal.claims.extra.get("audience")
    named = tuple(protocol.decode(path.read_bytes(), Member, 1 << 16) for path in members)
    rules = Policy.from_toml(peers.read_text()).to_toml() if peers else ""
    made = Plan(version=version, threshold=threshold, members=named, policy=rules, broker=audience)
    payload = protocol.encode(made)
    decode_plan(payload)
    out.write_bytes(Envelope(payload, PLAN_TYPE, ()).encode())
    output.say(f"[green]✔[/] {data(out)}: {threshold} of {len(named)}, version {version}, {sha256_hex(payload)}")
    output.say("  next: mitai recovery sign, by those who have a say; then `recovery` in the broker's configuration")
    output.result({"plan": str(out), "recovery_sha256": sha256_hex(payload), "version": version})


@app.command
def sign(plan: Annotated[Path, Parameter(help="A plan.")], *, json: JsonFlag = False) -> None:
    """Read a plan out, and add your signature to it."""
    output, identity = Output(json), Home.default().owner()
    envelope = Envelope.decode(plan.read_bytes())
    _describe(output, decode_plan(envelope.payload))
    signatures = tuple(one for one in envelope.signatures if one.keyid != identity.key_id)
    added = identity.sign(envelope.payload, PLAN_TYPE).signatures
    plan.write_bytes(msgspec.structs.replace(envelope, signatures=(*signatures, *added)).encode())
    output.say(f"[green]✔[/] signed as {identity.key_id[:16]} ({len(signatures) + 1} in all)")
    output.result({"recovery_sha256": sha256_hex(envelope.payload), "signatures": len(signatures) + 1})


@app.command
def show(
    url: BrokerArgument = None,
    *,
    out: Annotated[Path | None, Parameter(name="--out", help="Write the members' sealed shares to this file.")] = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Verify a broker, and see who could recover its root key.

    Keep the sealed shares (`--out`) apart from the broker: they are of use to their members only, and change with every
    plan and every rotation of the root key.
    """
    output, home = Output(json), Home.default()
    shown, appraisal = recovery.show(_broker(home, url), read_policy(home, policy))
    output.simulated(appraisal.simulated)
    if not shown.plan:
        output.say("nobody: there is no recovery plan, and no new machine or build can ever open this broker's state")
        output.result({"recovery_sha256": None})
        return
    plan = decode_plan(shown.plan)
    _describe(output, plan)
    epoch = read_shares(shown.shares, appraisal.claims.extra.get("audience")).epoch if shown.shares else None
    output.say(f"plan {sha256_hex(shown.plan)}")
    if out is not None and shown.shares:
        out.write_bytes(shown.shares)
        output.say(f"[green]✔[/] shares of epoch {epoch} in {data(out)}")
    output.result(
        {
            "recovery_sha256": sha256_hex(shown.plan),
            "version": plan.version,
            "threshold": plan.threshold,
            "members": [sha256_hex(member.party) for member in plan.members],
            "policy": plan.policy,
            "epoch": epoch,
        }
    )


@app.command
def approve(
    url: UrlArgument = None,
    *,
    share: Annotated[Path, Parameter(name="--share", help="The sealed shares, as `mitai recovery show` wrote them.")],
    key: KeyOption = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Verify a broker that waits for shares, and bring it yours. Your policy must name its machine, build and ledger.

    Whoever has enough shares has every key that the broker holds: approve only what you would publish to.
    """
    output, home = Output(json), Home.default()
    made = protocol.decode((key or _key_path(home)).read_bytes(), RecoveryKey, 4096)
    progress = recovery.approve(_broker(home, url), share.read_bytes(), made, read_policy(home, policy))
    output.say(f"[green]✔[/] the broker has {progress.have} of the {progress.need} shares that it takes")
    output.result({"have": progress.have, "need": progress.need})


def _describe(output: Output, plan: Plan) -> None:
    where = "any broker without parties" if plan.broker is None else f"broker {plan.broker[:16]}"
    output.say(f"version {plan.version}, for {where}: {plan.threshold} of {len(plan.members)} members recover")
    for member in plan.members:
        output.say(f"  {sha256_hex(member.party)}")
    if not plan.policy:
        output.say("running brokers give the root key to: the same build")
        return
    rules = Policy.from_toml(plan.policy)
    simulated = ", [red]simulated ones too[/]" if rules.allow_simulation else ""
    output.say(f"running brokers give the root key to machines{simulated} that its policy accepts (all of it: --json):")
    for values in rules.workloads:
        registers = " ".join(f"{name}={value}" for name, value in values.registers.items())
        output.say(f"  {data(values.name)} on {values.tee}: {registers}")


def _broker(home: Home, url: str | None) -> str:
    return platform_url(home, url) + ("/broker" if url is None else "")


def _key_path(home: Home) -> Path:
    return home.root / "owner" / "recovery.key"
