"""All commands in one application, and how each failure ends: a reason and a next step, never a traceback.

Exit status: 0 done; 1 refused or failed, with the reason; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import traceback

import httpx2
from cyclopts import App, CycloptsError, Group
from rich.console import Console

from mitai import __version__
from mitai.cli import (
    attest,
    audits,
    broker,
    capsule,
    chat,
    check,
    collateral,
    demo,
    demo_train,
    deploy,
    export,
    ledger,
    lineage,
    measure,
    mpc,
    owner,
    platform,
    policy,
    proof,
    recovery,
    report,
    residency,
    rotate,
    train,
    transcript,
    user,
    verify,
    web,
)
from mitai.cli.output import printable, to_json
from mitai.errors import MitaiError
from mitai.fleet.home import Home

app = App(
    name="mitai",
    version=__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    help="""Confidential language models: seal a model, verify the machine, talk in private, prove it.

Start with `mitai demo`, or by hand: `mitai up --detach`, `mitai verify`, `mitai chat`.
Files are kept in `$MITAI_HOME`, by default `~/.mitai`.""",
    help_epilogue="""Exit status: 0 done, 1 refused or failed, 2 the command line is wrong, 130 interrupted.
With `MITAI_DEBUG=1` a failure shows its traceback too.""",
)
_START, _TALK, _OWN, _PROVE, _TOGETHER = (
    Group.create_ordered(name)
    for name in ("Start", "Verify and talk", "Own a model", "Prove", "Compute without trust in a machine")
)
for group, commands in {
    _START: (demo.demo, demo_train.demo_train, platform.up, platform.down, platform.status, platform.doctor),
    _TALK: (verify.verify, chat.chat),
    _OWN: (owner.seal, owner.publish, deploy.deploy, rotate.rotate, owner.revoke, lineage.lineage),
    _PROVE: (user.receipt, report.report, measure.measure),
}.items():
    for command in commands:
        app.command(command, group=group, help_epilogue="")
ledger.app.group = web.app.group = (_PROVE,)
policy.app.group = export.app.group = capsule.app.group = (_OWN,)
app.command(policy.app)
app.command(capsule.app)
app.command(export.app)
train.app.group = (_OWN,)
transcript.add_to(train.app)
app.command(train.app)
recovery.app.group = broker.app.group = (_OWN,)
app.command(recovery.app)
app.command(broker.app)
app.command(ledger.app)
attest.app.group = collateral.app.group = residency.app.group = (_PROVE,)
report.app.group = (_PROVE,)
app.command(report.app)
app.command(collateral.app)
app.command(attest.app)
app.command(residency.app)
app.command(web.app)
mpc.app.group = proof.app.group = (_TOGETHER,)
app.command(mpc.app)
audits.add_to(proof.app)
app.command(proof.app)

check.app.group = (_PROVE,)
app.command(check.app)

_NEXT = {  # where an error has no hint of its own
    "attest.ledger-mismatch": "either the platform began anew, or this is another one: take its policy anew",
    "attest.simulated-root-unknown": "it is another simulated platform than the policy's: take its policy anew",
    "broker.capsule-unknown": "a capsule's id is what `mitai publish` said; those of the ledger: mitai ledger show",
    "broker.policy-invalid": "see what is wrong with it: mitai policy check FILE",
    "broker.revoked": "that is for good: seal the model again, which makes a new capsule",
    "capsule.source-missing": "check the path",
    "client.other-workload": "give the gateway's address, without a path",
    "client.proof-malformed": "those that are kept: mitai receipt --list",
    "identity.key-malformed": "put the file back from your copy",
    "ledger.index-out-of-range": "the newest entries: mitai ledger show",
    "ledger.checkpoint-missing": "give the folder with the file `checkpoint`, as the broker publishes it",
    "web.unreachable": "check the address; a page is asked for without a file name",
    "ledger.vkey-malformed": "a witness's is in `$MITAI_HOME/user/witnesses`, a ledger's in the policy",
    "serve.model-not-found": "check the path; a hub id looks like OWNER/NAME",
}
_GONE = {"client.unreachable", "channel.truncated", "fleet.replica-failed", "fleet.replica-unreachable"}


def run() -> None:
    """Run the command line; raise `SystemExit` when it fails, `KeyboardInterrupt` when it is interrupted."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what is not UTF-8 is shown as such, and is no reason to fail
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except CycloptsError as error:
        _tell(MitaiError("cli.usage", str(error), hint="see: mitai COMMAND --help"))
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        if os.environ.get("MITAI_DEBUG") == "1":
            traceback.print_exc()
        _tell(explained(error))
        sys.exit(1)


def explained(error: Exception) -> MitaiError:
    """Return the error of the tree that a person is told for any other."""
    kind = type(error).__name__
    match error:
        case MitaiError():
            if error.code in _GONE and (Home.default().platform / "platform.json").exists():
                error.hint = "see what is up: mitai status"
            error.hint = error.hint or _NEXT.get(error.code)
            return error
        case httpx2.HTTPError() | httpx2.InvalidURL():
            where = f" to {_origin(error)}" if _origin(error) else ""
            return MitaiError(
                "cli.network", f"the connection{where} failed ({kind})", hint="see what is up: mitai status"
            )
        case OSError():
            where = f": {error.filename}" if error.filename is not None else ""
            return MitaiError(
                "cli.io", f"{error.strerror or kind}{where}", hint="check the path, its permissions, and the disk"
            )
        case UnicodeError():
            return MitaiError("cli.io", f"a file or an argument is not UTF-8 text ({kind})", hint="convert it to UTF-8")
        case ModuleNotFoundError():
            return MitaiError("cli.not-installed", f"{error.name} is not installed", hint="pip install 'mitai[train]'")
        case OverflowError():
            return MitaiError("cli.number", "a number is too large", hint="give a smaller one")
        case _:  # its words may hold anything
            return MitaiError(
                "cli.internal",
                f"mitai failed in a way that it does not know ({kind})",
                hint="report it, with what MITAI_DEBUG=1 shows",
            )


def _origin(error: Exception) -> str:
    """Return whom a request was for, where the error knows."""
    request = getattr(error, "_request", None)
    return f"{request.url.scheme}://{request.url.netloc.decode()}" if isinstance(request, httpx2.Request) else ""


def _tell(error: MitaiError) -> None:
    if "--json" in sys.argv:
        sys.stdout.write(to_json({"error": error.to_dict()}))
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"✘ {printable(error.message)}", style="bold red", markup=False)
    console.print(printable(f"  code: {error.code}" + (f"   step: {error.step}" if error.step else "")), markup=False)
    if error.hint:
        console.print(f"  next: {printable(error.hint)}", markup=False)
