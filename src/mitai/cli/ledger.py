"""`mitai ledger`: look at the broker's append-only log and check it, over HTTP or from a folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx2
import msgspec
from cyclopts import App, Parameter

from mitai.cli.options import JsonFlag, Natural, PolicyOption, Positive, UrlArgument, platform_url, read_policy
from mitai.cli.output import Output, data, plural, printable
from mitai.client import LedgerMemory, Session, receipts
from mitai.errors import ClientError, LedgerError
from mitai.fleet.home import Home
from mitai.ledger import TileReader, folder_reader, verify_checkpoint, verify_log
from mitai.ledger.entry import decode
from mitai.ledger.note import parse_vkey
from mitai.ledger.tiles import Fetch
from mitai.ledger.verify import LogReport

_COSIGNED_WITHIN_S = 5.0  # a checkpoint is cosigned a moment after it is published

app = App(
    name="ledger",
    help="""The broker's append-only log: every registration, policy, release, denial and receipt, as digests.

`mitai ledger verify` recomputes the whole log; `show` prints entries; `checkpoint` prints the signed head.""",
    help_format="markdown",
    help_epilogue="",
)
VkeyOption = Annotated[
    str | None, Parameter(help="The ledger's verifier key; by default the one in the replica's verified claims.")
]
FolderOption = Annotated[Path | None, Parameter(help="A copy of the log's files, instead of an address.")]


@app.command
def verify(
    url: UrlArgument = None,
    *,
    folder: FolderOption = None,
    vkey: VkeyOption = None,
    witness: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            help="A witness's verifier key: it must have cosigned. May be repeated; by default those in the file "
            "`$MITAI_HOME/user/witnesses`, one a line.",
        ),
    ] = (),
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Check the whole log: every entry, every hash, the signature, and that it extends what you have seen before.

    Witnesses are asked for the one thing that no reader can see: that all readers are shown the same log.

    Example, offline: `mitai ledger verify --folder COPY --vkey KEY`
    """
    out, home = Output(json), Home.default()
    kinds: Counter[str] = Counter()

    def visit(_: int, entry: bytes) -> None:
        kinds[str(msgspec.to_builtins(decode(entry))["type"])] += 1

    witnesses = witness or kept_witnesses(home)
    with _source(home, url, folder, vkey, policy) as source:
        memory = LedgerMemory(home.checkpoints)
        known = memory.recall(source.vkey)

        def check() -> LogReport:
            return verify_log(
                source.fetch,
                source.vkey,
                witnesses=witnesses,
                threshold=len({parse_vkey(key).public for key in witnesses}),
                remembered=[known] if known else [],
                visit=visit,
            )

        report = check() if folder is not None else once_cosigned(check)
        memory.observe(source.fetch("checkpoint") or b"", source.vkey, source.fetch)
    out.table(("entries", "kind"), [(str(number), kind) for kind, number in kinds.most_common()])
    head, cosigned_by = report.checkpoint, [cosignature.witness for cosignature in report.checkpoint.cosignatures]
    extends = f"extends the {known.size} entries seen before" if known else "seen for the first time"
    size = plural(head.size, "entry", "entries")
    out.say(f"\n[green]✔[/] {data(head.origin)}: {size}, {report.entries_bytes} bytes, {extends}")
    out.say(f"  cosigned by {data(', '.join(cosigned_by))}" if witnesses else "  no witness was asked")
    out.simulated(source.simulated)
    fields = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "kinds": dict(kinds)}
    fields |= {"extends": known.size if known else None, "cosigned_by": cosigned_by, "simulated": source.simulated}
    out.result({"verdict": "holds", **fields})


@app.command
def show(
    index: Annotated[Natural | None, Parameter(help="One entry; by default the newest ones.")] = None,
    *,
    last: Annotated[Positive, Parameter(help="How many of the newest entries.")] = 10,
    url: UrlArgument = None,
    folder: FolderOption = None,
    vkey: VkeyOption = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Print entries, each proven to be in the log.

    Example: `mitai ledger show --last 3`
    """
    out, home = Output(json), Home.default()
    with _source(home, url, folder, vkey, policy) as source:
        reader = TileReader(source.fetch, verify_checkpoint(source.fetch("checkpoint") or b"", source.vkey))
        size = reader.checkpoint.size
        wanted = [index] if index is not None else list(range(max(0, size - last), size))
        entries = [(number, msgspec.to_builtins(decode(reader.entry(number)))) for number in wanted]
    for number, fields in entries:
        out.say(f"[bold]#{number}[/] {fields['type']}  {fields['time']}")
        hidden = {"v", "type", "time"}
        out.table(("", ""), [(f"  {name}", _text(value)) for name, value in fields.items() if name not in hidden])
    out.simulated(source.simulated)
    shown = [{"index": number, **fields} for number, fields in entries]
    out.result({"size": size, "simulated": source.simulated, "entries": shown})


@app.command
def checkpoint(
    url: UrlArgument = None,
    *,
    folder: FolderOption = None,
    vkey: VkeyOption = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Print the signed head of the log (a C2SP signed note), after checking it."""
    out, home = Output(json), Home.default()
    with _source(home, url, folder, vkey, policy) as source:
        note = source.fetch("checkpoint") or b""
    head = verify_checkpoint(note, source.vkey)
    out.console.print(printable(note.decode()), markup=False, soft_wrap=True, end="")
    out.result({"origin": head.origin, "size": head.size, "root": head.root.hex(), "note": note.decode()})


def kept_witnesses(home: Home) -> tuple[str, ...]:
    """Return the verifier keys of the witnesses that this user trusts."""
    path = home.policy.with_name("witnesses")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def once_cosigned(check: Callable[[], LogReport], wait_s: float = _COSIGNED_WITHIN_S) -> LogReport:
    """Return what `check` returns; try again for a moment while witnesses are missing."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return check()
        except LedgerError as error:
            if error.code != "ledger.witnesses-missing" or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


@dataclass(frozen=True)
class Source:
    """Where a log's files come from, and the key to check them with."""

    fetch: Fetch
    vkey: str
    simulated: bool | None  # None: nobody knows


@contextmanager
def _source(
    home: Home, url: str | None, folder: Path | None, vkey: str | None, policy: Path | None
) -> Iterator[Source]:
    address, simulated = platform_url(home, url), None
    if vkey is None:  # the ledger that the verified machine writes to
        appraisal = Session(address, read_policy(home, policy), cache=home.sessions).appraisal
        claimed, simulated = appraisal.claims.ledger, appraisal.simulated
        if claimed is None:
            raise ClientError("client.no-ledger", "the machine's claims name no ledger", hint="is a model deployed?")
        vkey = claimed.vkey
    if folder is not None:
        if not folder.is_dir():
            raise ClientError("client.no-ledger-copy", f"there is no folder at {folder}", hint="check the path")
        yield Source(folder_reader(folder), vkey, simulated)
        return
    with httpx2.Client(timeout=30.0) as http:
        yield Source(receipts.ledger_fetcher(address, http), vkey, simulated)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
