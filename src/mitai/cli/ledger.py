"""`mitai ledger`: look at the broker's append-only log and check it, over HTTP or from a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx2
import msgspec
from cyclopts import App, Parameter

from mitai.cli.output import JsonFlag, Output, data, printable
from mitai.cli.user import PolicyOption, UrlArgument, platform_url, read_policy
from mitai.client import LedgerMemory, Session, receipts
from mitai.errors import ClientError
from mitai.fleet.home import Home
from mitai.ledger import TileReader, folder_reader, verify_checkpoint, verify_log
from mitai.ledger.entry import decode

app = App(
    name="ledger",
    help="""The broker's append-only log: every registration, policy, release, denial and receipt, as digests.

`mitai ledger verify` recomputes the whole log; `show` prints entries; `checkpoint` prints the signed head.""",
    help_format="markdown",
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
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Check the whole log: every entry, every hash, the signature, and that it extends what you have seen before."""
    out, home = Output(json), Home.default()
    kinds: Counter[str] = Counter()

    def visit(_: int, entry: bytes) -> None:
        kinds[str(msgspec.to_builtins(decode(entry))["type"])] += 1

    with _source(home, url, folder, vkey, policy) as (fetch, key):
        memory = LedgerMemory(home.checkpoints)
        known = memory.recall(key)
        report = verify_log(fetch, key, remembered=[known] if known else [], visit=visit)
        memory.observe(fetch("checkpoint") or b"", key, fetch)
    out.table(("entries", "kind"), [(str(number), kind) for kind, number in kinds.most_common()])
    out.say()
    extends = f"extends the {known.size} entries seen before" if known else "seen for the first time"
    head = report.checkpoint
    out.say(f"[green]✔[/] {data(head.origin)}: {head.size} entries, {report.entries_bytes} bytes, {extends}")
    fields = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "kinds": dict(kinds)}
    out.result({"verdict": "holds", **fields, "extends": known.size if known else None})


@app.command
def show(
    index: Annotated[int | None, Parameter(help="One entry; by default the newest ones.")] = None,
    *,
    last: Annotated[int, Parameter(help="How many of the newest entries.")] = 10,
    url: UrlArgument = None,
    folder: FolderOption = None,
    vkey: VkeyOption = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Print entries, each proven to be in the log."""
    out, home = Output(json), Home.default()
    with _source(home, url, folder, vkey, policy) as (fetch, key):
        reader = TileReader(fetch, verify_checkpoint(fetch("checkpoint") or b"", key))
        size = reader.checkpoint.size
        wanted = [index] if index is not None else list(range(max(0, size - last), size))
        entries = [(number, msgspec.to_builtins(decode(reader.entry(number)))) for number in wanted]
    for number, fields in entries:
        out.say(f"[bold]#{number}[/] {fields['type']}  {fields['time']}")
        hidden = {"v", "type", "time"}
        out.table(("", ""), [(f"  {name}", _text(value)) for name, value in fields.items() if name not in hidden])
    out.result({"size": size, "entries": [{"index": number, **fields} for number, fields in entries]})


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
    with _source(home, url, folder, vkey, policy) as (fetch, key):
        note = fetch("checkpoint") or b""
    head = verify_checkpoint(note, key)
    out.console.print(printable(note.decode()), markup=False, soft_wrap=True, end="")
    out.result({"origin": head.origin, "size": head.size, "root": head.root.hex(), "note": note.decode()})


@contextmanager
def _source(
    home: Home, url: str | None, folder: Path | None, vkey: str | None, policy: Path | None
) -> Iterator[tuple[Callable[[str], bytes | None], str]]:
    """Yield where the log's files come from and the key to check them with."""
    address = platform_url(home, url)
    if vkey is None:  # the ledger that the verified machine writes to
        claimed = Session(address, read_policy(home, policy), cache=home.sessions).appraisal.claims.ledger
        if claimed is None:
            raise ClientError("client.no-ledger", "the machine's claims name no ledger", hint="is a model deployed?")
        vkey = claimed.vkey
    if folder is not None:
        yield folder_reader(folder), vkey
        return
    with httpx2.Client(timeout=30.0) as http:
        yield receipts.ledger_fetcher(address, http), vkey


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
