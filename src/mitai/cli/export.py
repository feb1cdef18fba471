"""`mitai export`: ask to let a capsule out in the clear, see what is asked, vote, collect what all owners allowed."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number

from mitai.broker.protocol import MAX_DELEGATES, MAX_THRESHOLD, sha256_hex
from mitai.capsule import open_capsule
from mitai.cli.evidence import read_file
from mitai.cli.options import JsonFlag, PolicyOption, platform_url, read_policy
from mitai.cli.output import Output, data, plural
from mitai.cli.owner import verified_broker
from mitai.client.exports import Pending, RecipientKey, read_recipient, write_plaintext
from mitai.client.objects import HttpStore
from mitai.client.owner import Owner
from mitai.errors import ClientError
from mitai.fleet.home import Home
from mitai.identity import PublicKey

app = App(
    name="export",
    help="""Let a capsule out in the clear, when all of its owners agree.

One owner asks (`request`), each looks at it and votes (`list`, `show`, `approve`, `refuse`), the recipient collects.
A vote is about exactly one manifest, one recipient and one end. See docs/spec/exports.md.""",
    help_format="markdown",
    help_epilogue="",
)
CapsuleArgument = Annotated[str, Parameter(help="The capsule's id.")]
RequestArgument = Annotated[str, Parameter(help="The request's id, or its first digits.")]
Url = Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")]
Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative="", help="Do not ask before the vote is signed.")]
For = Annotated[
    str | None, Parameter(name="--for", help="The owner (key id) that named you its delegate; by default yourself.")
]


@app.command
def key(
    out: Annotated[Path, Parameter(name="--out", help="Where to write it.")] = Path("recipient.json"),
    *,
    name: Annotated[str, Parameter(help="Your name, for those who vote.")] = "recipient",
    json: JsonFlag = False,
) -> None:
    """Write your recipient file: whoever asks for an export to you gives it to `mitai export request`.

    The secret half stays in `owner/export.key` under `$MITAI_HOME`.

    Example: `mitai export key --name "City hospital"`
    """
    output, home = Output(json), Home.default()
    recipient = _own_key(home).recipient(name, home.owner().public)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(recipient)) + b"\n")
    output.say(f"[green]✔[/] {data(out)}: party {recipient.party}, key {sha256_hex(recipient.key)}")
    output.result({"file": str(out), "party": recipient.party, "key_sha256": sha256_hex(recipient.key)})


@app.command
def request(
    capsule: CapsuleArgument,
    *,
    recipient: Annotated[
        Path | None, Parameter(help="The recipient's file (`mitai export key`); by default it is you.")
    ] = None,
    days: Annotated[int, Parameter(validator=Number(gte=1, lte=30), help="For how many days the request stands.")] = 7,
    url: Url = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Ask all owners to let a capsule out to a recipient, exactly as it is now.

    Example: `mitai export request CAPSULE_ID --recipient hospital.json`
    """
    output, home = Output(json), Home.default()
    who = read_recipient(read_file(recipient)) if recipient else _own_key(home).recipient("owner", home.owner().public)
    with closing(_broker(home, url, policy)) as owner:
        name = owner.request_export(capsule, who, datetime.now(UTC) + timedelta(days=days))
        pending = _find(owner, capsule, name)
        output.say(f"[green]✔[/] asked: {name}")
        _describe(output, pending, owner)
        output.simulated(owner.session.appraisal.simulated)
    output.say(f"  next, each owner: mitai export approve {data(capsule)} {name[:16]}")
    output.result(_plain(pending))


@app.command(name="list")
def list_(capsule: CapsuleArgument, *, url: Url = None, policy: PolicyOption = None, json: JsonFlag = False) -> None:
    """List the requests to let a capsule out, newest first.

    Example: `mitai export list CAPSULE_ID`
    """
    output, home = Output(json), Home.default()
    with closing(_broker(home, url, policy)) as owner:
        found = owner.exports(capsule)
        output.simulated(owner.session.appraisal.simulated)
    rows = [
        [
            each.id[:16],
            each.view.state,
            each.request.recipient.name,
            _date(each),
            f"{_given(each)} of {len(each.view.consents)}",
        ]
        for each in found
    ]
    if rows:
        output.table(("request", "state", "recipient", "until", "owners agree"), rows)
    else:
        output.say("nobody has asked to let this capsule out")
    output.result({"capsule": capsule, "requests": [_plain(each) for each in found]})


@app.command
def show(
    capsule: CapsuleArgument,
    request: RequestArgument,
    *,
    url: Url = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Show what a request asks for, and who has agreed.

    Example: `mitai export show CAPSULE_ID REQUEST`
    """
    output, home = Output(json), Home.default()
    with closing(_broker(home, url, policy)) as owner:
        pending = _find(owner, capsule, request)
        _describe(output, pending, owner)
        output.simulated(owner.session.appraisal.simulated)
    output.result(_plain(pending))


@app.command
def approve(
    capsule: CapsuleArgument,
    request: RequestArgument,
    *,
    for_: For = None,
    yes: Yes = False,
    url: Url = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Agree to exactly what a request asks, after it was shown.

    Example: `mitai export approve CAPSULE_ID REQUEST`
    """
    _vote(Output(json), capsule, request, for_, yes=yes, approve=True, url=url, policy=policy)


@app.command
def refuse(
    capsule: CapsuleArgument,
    request: RequestArgument,
    *,
    for_: For = None,
    yes: Yes = False,
    url: Url = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Refuse a request, for good; also after you had agreed, until it is collected.

    Example: `mitai export refuse CAPSULE_ID REQUEST`
    """
    _vote(Output(json), capsule, request, for_, yes=yes, approve=False, url=url, policy=policy)


@app.command
def delegates(
    *members: Annotated[str, Parameter(help=f"Key ids of up to {MAX_DELEGATES} registered parties; none: yourself.")],
    threshold: Annotated[
        int, Parameter(validator=Number(gte=0, lte=MAX_THRESHOLD), help="How many of them must agree.")
    ] = 1,
    url: Url = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Name who votes on exports in your place, for all of your capsules.

    Example: `mitai export delegates KEY_ID KEY_ID KEY_ID --threshold 2`
    """
    output, home = Output(json), Home.default()
    needed = threshold if members else 0
    with closing(_broker(home, url, policy)) as owner:
        index = owner.set_delegates(members, needed)
        output.simulated(owner.session.appraisal.simulated)
    told = f"{needed} of {plural(len(members), 'delegate', 'delegates')}" if members else "you vote yourself"
    output.say(f"[green]✔[/] {told}: ledger entry {index}")
    output.result({"delegates": list(members), "threshold": needed, "ledger_index": index})


@app.command
def collect(
    request: Annotated[str, Parameter(help="The request's whole id.")],
    out: Annotated[Path, Parameter(help="A new folder for the plaintext.")],
    *,
    url: Url = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Collect what all owners let out: download, open, and write the files in the clear.

    It can be repeated until the request's end. Nothing is overwritten.

    Example: `mitai export collect REQUEST adapter`
    """
    output, home = Output(json), Home.default()
    gateway = platform_url(home, url)
    with closing(_broker(home, url, policy)) as owner:
        exported = owner.collect_export(request, _own_key(home))
        output.simulated(owner.session.appraisal.simulated)
    manifest = exported.manifest
    source = open_capsule(
        HttpStore(f"{gateway}/objects/{manifest.capsule_id}"),
        exported.envelope,
        exported.key.data_key,
        owner=PublicKey(exported.key.signer),
        manifest_sha256=exported.key.manifest_sha256,
    )
    with output.bar(f"opening {manifest.name}") as report:
        write_plaintext(source, out, report)
    output.say(f"[green]✔[/] {data(manifest.name)} ({data(manifest.kind)}) in the clear: {data(out)}")
    output.result({"capsule": manifest.capsule_id, "folder": str(out), "files": list(source.names())})


def _vote(
    output: Output,
    capsule: str,
    request: str,
    for_: str | None,
    *,
    yes: bool,
    approve: bool,
    url: str | None,
    policy: Path | None,
) -> None:
    home = Home.default()
    with closing(_broker(home, url, policy)) as owner:
        pending = _find(owner, capsule, request)
        _describe(output, pending, owner)
        _confirm(output, "Let this out in the clear?" if approve else "Refuse this?", yes=yes)
        index = owner.vote_export(pending.id, approve=approve, owner=for_)
        pending = _find(owner, capsule, pending.id)
        output.simulated(owner.session.appraisal.simulated)
    done = "approved" if approve else "refused"
    output.say(f"[green]✔[/] {done}: ledger entry {index}; the request is {pending.view.state}")
    if pending.view.state == "approved":
        output.say(f"  next, the recipient: mitai export collect {pending.id} FOLDER")
    output.result({**_plain(pending), "vote": done, "ledger_index": index})


def _confirm(output: Output, question: str, *, yes: bool) -> None:
    if yes:
        return
    if output.as_json or not sys.stdin.isatty():
        raise ClientError("client.not-confirmed", "nobody is here to be asked", hint="look at it, then add --yes")
    if input(f"{question} [y/N] ").strip().lower() not in {"y", "yes"}:
        raise ClientError("client.not-confirmed", "nothing was signed")


def _broker(home: Home, url: str | None, policy: Path | None) -> Owner:
    return verified_broker(home, platform_url(home, url), read_policy(home, policy))


def _own_key(home: Home) -> RecipientKey:
    return RecipientKey(home.export_seed())


def _find(owner: Owner, capsule: str, request: str) -> Pending:
    found = [each for each in owner.exports(capsule) if each.id.startswith(request)]
    if len(found) != 1 or len(request) < 8:
        raise ClientError(
            "client.no-request", "there is no such request for export", hint="see: mitai export list CAPSULE"
        )
    return found[0]


def _describe(output: Output, pending: Pending, owner: Owner) -> None:
    request = pending.request
    node = owner.lineage(request.capsule).nodes[request.capsule]
    output.say(f"  request    {pending.id} ({pending.view.state})")
    output.say(f"  capsule    {data(request.capsule)}: {data(node.kind)} {data(node.name)}")
    output.say(f"  manifest   {request.manifest_sha256}")
    name = data(" ".join(request.recipient.name.split()))
    output.say(f"  recipient  {name} (as the asking owner says), party {request.recipient.party}")
    output.say(f"  its key    {sha256_hex(request.recipient.key)}")
    output.say(f"  asked by   {request.party}")
    output.say(f"  until      {_date(pending)} UTC")
    for consent in pending.view.consents:
        of = f" ({consent.threshold} of {len(consent.delegates)} delegates)" if consent.delegates else ""
        given = f"[green]agrees[/] by {consent.by}" if consent.by else "[yellow]has not agreed[/]"
        output.say(f"  owner      {consent.owner}: {given}{of}")


def _given(pending: Pending) -> int:
    return sum(consent.by is not None for consent in pending.view.consents)


def _date(pending: Pending) -> str:
    return f"{datetime.fromtimestamp(pending.request.not_after_s, UTC):%Y-%m-%d %H:%M}"


def _plain(pending: Pending) -> dict[str, object]:
    request = pending.request
    return {
        "request": pending.id,
        "capsule": request.capsule,
        "manifest_sha256": request.manifest_sha256,
        "recipient": {
            "name": request.recipient.name,
            "party": request.recipient.party,
            "key_sha256": sha256_hex(request.recipient.key),
        },
        "requester": request.party,
        "not_after_s": request.not_after_s,
        "state": pending.view.state,
        "consents": msgspec.to_builtins(pending.view.consents),
        "votes": msgspec.to_builtins(pending.view.votes),
    }
