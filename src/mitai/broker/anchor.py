"""What outlives the database: the published ledger and the witnesses; both tell when the whole database was put back.

Follows C2SP tlog-tiles (the published folder) and tlog-witness (through `mitai.ledger.witness`).

Invariants:

- At start, a published checkpoint or a witness that has seen more than the database, or other, stops the broker.
- Only roots that the sealed head vouches for are signed; nothing is computed from the published folder.
- Publishing follows the commit and may lag behind it; answers do not wait for it.
- A witness that has cosigned once must be there at every start: dropping it from the configuration does not help.
- The folder lies on the same untrusted host: it finds accidents and careless attackers; a witness finds others.

Example:
    >>> anchor = Anchor(database, signer, origin, folder, witnesses)
    >>> anchor.check(state)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from mitai.bodies import PLAIN, bounded, tls
from mitai.broker.records import Head, Pin
from mitai.broker.store import Database, EdgeStore, State
from mitai.errors import BrokerError, LedgerError, MitaiError, RollbackError
from mitai.identity import Identity
from mitai.ledger.log import Log
from mitai.ledger.note import Note, parse_note, parse_vkey, sign_checkpoint, verify_checkpoint
from mitai.ledger.proof import verify_consistency
from mitai.ledger.sql import SqlStore
from mitai.ledger.store import FolderStore
from mitai.ledger.tree import HASH_BYTES, TILE_WIDTH, Tile, tile_width
from mitai.ledger.witness import MAX_ANSWER_BYTES, submit

PUBLISH_AT_ONCE = 64 * TILE_WIDTH  # entries
INTERVAL_S = 0.5
RETRY_S = 5.0
ANSWER_WITHIN_S = 20.0  # of a witness
LEASE_S = 60.0  # how long a pinned witness's word is relied upon; it is asked again every third of that
_RESTORE = "find out who put older files back; to go on, restore the newest database"
log = structlog.get_logger("mitai.broker")

Snapshot = Callable[[], State]


@dataclass(frozen=True)
class Witness:
    """Somebody who cosigns our checkpoints: an address, and the verifier key if it must be a certain one."""

    url: str
    vkey: str | None = None

    @staticmethod
    def parse(text: str) -> Witness:
        """Read `URL` or `URL VKEY`."""
        url, _, key = text.partition(" ")
        return Witness(url.rstrip("/"), str(parse_vkey(key)) if key else None)

    def key(self) -> str:
        """Return the verifier key: the one that is demanded, or else the one that the witness names."""
        return self.vkey or str(parse_vkey(self._request("GET", "/healthz", b"")[1].decode("ascii", "replace").strip()))

    def post(self, body: bytes) -> tuple[int, bytes]:
        """Send a body to `add-checkpoint`."""
        return self._request("POST", "/add-checkpoint", body)

    def _request(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            url = self.url + path
            with httpx2.stream(method, url, content=body, headers=PLAIN, timeout=10.0, verify=tls()) as answer:
                data = bounded(answer, MAX_ANSWER_BYTES, ANSWER_WITHIN_S)
            if data is None:
                raise BrokerError("broker.witness-answer-too-large", f"the witness at {self.url} answered far too much")
            return answer.status_code, data
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise BrokerError(
                "broker.witness-unreachable", f"the witness at {self.url} did not answer ({type(error).__name__})"
            ) from None


class Anchor:
    """Publishes the ledger, has it cosigned, and compares it with the database at start."""

    def __init__(
        self, database: Database, signer: Identity, origin: str, folder: Path, witnesses: tuple[Witness, ...] = ()
    ) -> None:
        self._database, self._signer, self._origin, self._witnesses = database, signer, origin, witnesses
        self._folder = FolderStore(folder)
        self._wake, self._pause, self._closed = threading.Event(), threading.Event(), False
        self._thread: threading.Thread | None = None
        self._pinned: set[str] = set()
        self._cosigned: list[bytes] = []  # the checkpoint of the checked state, by each witness
        self._witnessed_at = time.monotonic()
        self._stopped: RollbackError | None = None
        self._pin: Callable[[str], None] = lambda _vkey: None

    def check(self, state: State) -> None:
        """Compare the database with what was published and with what witnesses remember.

        Raises:
            RollbackError: The database is older than they are, or another history.
            BrokerError: A witness can't be asked; without its word a broker that has one does not start.
        """
        published = self._folder.checkpoint()
        with self._database.reading() as connection:
            ledger = self._log(state, connection)
            if published is not None:
                self._check_published(published, ledger, state.head)
            self._cosigned = [_ask(ledger, key, witness) for key, witness in self._expected(state).items()]

    def catch_up(self, state: State) -> None:
        """Bring the folder to the state that was just checked, for a broker that takes over from another process.

        Each process has its own folder, and that of one which stood by is old: readers must not see the log shrink.
        """
        self._mirror_all(state)
        if self._cosigned:
            self._folder.publish(_merged(self._cosigned))

    def _mirror_all(self, state: State) -> None:
        with self._database.reading() as connection:
            while self._folder.size() < state.head.size:
                self._mirror(state, connection)

    def _expected(self, state: State) -> dict[str, Witness]:
        """Return the witnesses by key; raise unless all that ever cosigned are among them."""
        self._pinned = {pin.vkey for pin in self._database.all_of(Pin, state)}
        witnesses = {witness.key(): witness for witness in self._witnesses} if state.head.size else {}
        if not self._pinned <= set(witnesses):
            raise BrokerError(
                "broker.witness-missing",
                "a witness that has cosigned this ledger is not configured, or has another key now",
                hint="configure it again: a broker does not start without those who can tell that it was put back",
            )
        return witnesses

    def check_continues(self, before: State, after: State) -> None:
        """Raise `RollbackError` unless a state that was loaded again has the ledger of the one before, or more."""
        with self._database.reading() as connection:
            _check_prefix(self._log(after, connection), before.head.size, before.head.root, after.head)

    def start(self, snapshot: Snapshot, pin: Callable[[str], None]) -> None:
        """Publish in the background, whenever `wake` was called; `pin` makes a witness's key known for good."""
        self._pin = pin
        self._thread = threading.Thread(target=self._run, args=(snapshot,), name="broker-anchor", daemon=True)
        self._thread.start()

    def check_current(self) -> None:
        """Raise unless the pinned witnesses confirmed lately that this is the newest state.

        A copy of this broker that was started beside it passes `check` too; it ends here, within `LEASE_S`.
        """
        if self._stopped is not None:
            raise self._stopped
        if self._pinned and time.monotonic() - self._witnessed_at > LEASE_S:
            raise BrokerError(
                "broker.unwitnessed", "its witnesses can't be asked, so this broker may be a copy: it decides nothing"
            )

    def wake(self) -> None:
        """Say that there is something new."""
        self._wake.set()

    def close(self) -> None:
        """Publish what is there, then stop and let go of the folder."""
        self._closed = True
        self._pause.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._folder.close()

    def publish(self, state: State) -> None:
        """Bring the folder to this state, then have its checkpoint cosigned and publish the cosignatures."""
        self._mirror_all(state)
        with self._database.reading() as connection:
            if self._witnesses and state.head.size:
                ledger = self._log(state, connection)
                keys = {witness.key(): witness for witness in self._witnesses}
                self._folder.publish(_merged([_ask(ledger, key, witness) for key, witness in keys.items()]))
                self._witnessed_at = time.monotonic()
                for key in keys.keys() - self._pinned:
                    self._pin(key)
                    self._pinned.add(key)

    def _mirror(self, state: State, connection: Connection) -> None:
        """Copy the next entries and every tile that they change; sign what the head vouches for."""
        source, start = SqlStore(connection), self._folder.size()
        end = min(state.head.size, start + PUBLISH_AT_ONCE)
        tiles: dict[Tile, bytes] = {}
        level = 0
        while end >> (8 * level) > start >> (8 * level):
            first, last = (start >> (8 * level)) // TILE_WIDTH, ((end >> (8 * level)) - 1) // TILE_WIDTH
            for index in range(first, last + 1):
                width = tile_width(level, index, end)
                tiles[level, index] = source.tile(level, index)[: width * HASH_BYTES]
            level += 1
        ledger = self._log(state, connection)
        root = ledger.root(end)
        _check_prefix(ledger, end, root, state.head)
        note = sign_checkpoint(self._origin, end, root, self._signer)
        self._folder.append(start, source.entries(start, end), tiles, lambda: note)

    def _check_published(self, published: bytes, ledger: Log, head: Head) -> None:
        try:
            checkpoint = verify_checkpoint(published, ledger.vkey)
        except MitaiError as error:
            raise RollbackError(
                "broker.published-foreign", f"the published checkpoint is not this broker's: {error.message}"
            ) from None
        if checkpoint.size > head.size:
            raise RollbackError(
                "broker.rolled-back",
                f"{checkpoint.size} ledger entries were published, the database holds {head.size}",
                hint=_RESTORE,
            )
        _check_prefix(ledger, checkpoint.size, checkpoint.root, head)

    def _reopen(self) -> None:
        """Begin with what lies in the folder: after an append that failed half-way, its store does not go on."""
        self._folder.close()
        with suppress(MitaiError, OSError):
            self._folder = FolderStore(self._folder.folder)

    def _log(self, state: State, connection: Connection) -> Log:
        return Log(EdgeStore(connection, state.head.size, state.edge), self._signer, self._origin)

    def _run(self, snapshot: Snapshot) -> None:
        last = False
        while not last:
            self._wake.wait(LEASE_S / 3 if self._pinned else None)  # also without news: the witnesses' word ages
            self._pause.wait(INTERVAL_S)  # under load, one publication covers many commits
            self._wake.clear()
            last = self._closed  # read before the snapshot: what is closed has no newer one
            try:
                self.publish(snapshot())
            except RollbackError as error:
                self._stopped = error
                log.error("this broker is not the newest copy of itself", code=error.code)
                return
            except (MitaiError, SQLAlchemyError, OSError) as error:
                log.error("publishing the ledger failed", code=getattr(error, "code", type(error).__name__))
                self._reopen()
                self._pause.wait(RETRY_S)
                self._wake.set()


def _check_prefix(ledger: Log, size: int, root: bytes, head: Head) -> None:
    """Raise unless the tree of `size` entries with `root` is a beginning of the head's."""
    try:
        verify_consistency(size, head.size, ledger.consistency_proof(size, head.size), root, head.root)
    except LedgerError as error:
        raise RollbackError(
            "broker.forked", f"the published ledger and the database are two histories: {error.message}", hint=_RESTORE
        ) from None


def _ask(ledger: Log, key: str, witness: Witness) -> bytes:
    """Have a witness cosign; what it remembers otherwise is a rollback."""
    try:
        return submit(ledger, witness.post, [key])
    except LedgerError as error:
        if error.code in {"ledger.rolled-back", "ledger.forked"}:
            code = error.code.replace("ledger.", "broker.")
            raise RollbackError(code, f"a witness remembers more: {error.message}", hint=_RESTORE) from None
        raise


def _merged(notes: list[bytes]) -> bytes:
    """Return one note with the signatures of all: they have the same text."""
    parsed = [parse_note(note) for note in notes]
    signatures = dict.fromkeys(signature for note in parsed for signature in note.signatures)
    return Note(parsed[0].text, tuple(signatures)).encode()
