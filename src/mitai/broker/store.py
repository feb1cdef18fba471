"""The broker's database: sealed records, content-addressed blobs and the ledger, changed together or not at all.

The tables, and the engines that reach them, are in `tables`.

Invariants:

- A transaction writes records, blobs, ledger entries and the head together; answers go out after the commit.
- The newest stamp of every row is held in memory: a row that the database gives back with older content does not open.
- At start the set digest over all rows, the ledger's size and its root must be those of the sealed head: no row, and
  neither the ledger nor the head, can be put back to an older version on its own. (All of them together: see `anchor`.)
- Appends use ledger tiles held in memory since that check, never what the database says later.
- The root key that seals all rows is random; each machine that may open them has it sealed under its own TEE's key, in
  a row of its own. What a process holds of it is replaced only after the commit that changed it.
- A second broker on the same database is noticed before anything is written or answered (`broker.state-conflict`).
- Whoever takes over a database that several processes reach writes the head anew: nobody who loaded before commits.

Example:
    >>> database = Database("sqlite:///broker.db", Vault(attester.sealing_key(ROOT_LABEL)))
    >>> state = database.load()
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from mitai.broker.records import Head, LedgerKey, R, Record, Root, kind_of, pack, pack_row, unpack, unpack_row
from mitai.broker.tables import blobs, documents, engine_of, is_shared, migrate, records, roots, singles
from mitai.broker.vault import Row, Vault
from mitai.errors import BrokerError, RollbackError
from mitai.ledger.sql import SqlStore
from mitai.ledger.tree import TILE_WIDTH, Tile, range_hash, tile_width

ROOT_LABEL = b"mitai broker root v1"  # of the TEE's sealing key, under which a machine keeps the root key

Key = tuple[type[Record], str]  # a record's type and id

_CHANGE = (
    update(records)
    .where(records.c.tag == bindparam("of_tag"))
    .values(stamp=bindparam("new_stamp"), sealed=bindparam("new_sealed"))
)
_ALL = select(records.c.tag, records.c.stamp)
_HEAD_STAMP = select(singles.c.stamp).where(singles.c.name == "head")
TAKE_OVER_TRIES = 10
_BLOB = select(blobs.c.sealed).where(blobs.c.tag == bindparam("of_tag"))


class EdgeStore(SqlStore):
    """The ledger's tables, with the tiles at the right edge of the tree taken from memory."""

    def __init__(self, connection: Connection, size: int, edge: Mapping[Tile, bytes]) -> None:
        super().__init__(connection)
        self._size, self.edge = size, dict(edge)

    def size(self) -> int:
        """See `ledger.Store`; as this broker wrote it."""
        return self._size

    def tile(self, level: int, index: int) -> bytes:
        """See `ledger.Store`; an append and the root of the whole log need the right edge alone."""
        return self.edge.get((level, index)) or super().tile(level, index)

    def reserve(self, count: int) -> int:
        """See `ledger.Store`; raise when the database's log is not as long as ours."""
        start = super().reserve(count)
        if start != self._size:
            raise _conflict(f"its ledger has {start} entries where this broker wrote {self._size}")
        return start

    def append(
        self, start: int, entries: Sequence[bytes], tiles: Mapping[Tile, bytes], sign: Callable[[], bytes]
    ) -> None:
        """See `ledger.Store`."""
        super().append(start, entries, tiles, sign)
        self._size = start + len(entries)
        self.edge = right_edge(self._size, lambda level, index: tiles.get((level, index)) or self.tile(level, index))


def right_edge(size: int, read: Callable[[int, int], bytes]) -> dict[Tile, bytes]:
    """Return the partial tile at the right edge of each level, cut to a tree of `size` entries."""
    edge: dict[Tile, bytes] = {}
    level = 0
    while size >> (8 * level):
        index = (size >> (8 * level)) // TILE_WIDTH
        if width := tile_width(level, index, size):
            edge[level, index] = read(level, index)[: width * 32]
        level += 1
    return edge


class State:
    """What is held in memory of a loaded database: the head, every row's newest stamp, the ledger's right edge."""

    def __init__(self, head: Head, stamps: dict[bytes, bytes], edge: Mapping[Tile, bytes]) -> None:
        self.head, self.stamps, self.edge = head, stamps, edge
        self.head_stamp = b""
        self.found_stamp = b""  # the head's, when this was loaded


class Database:
    """The tables behind a URL.

    Args:
        url: As SQLAlchemy spells it.
        wrapper: Seals the root key for this machine; made from its TEE's sealing key.
    """

    def __init__(self, url: str, wrapper: Vault) -> None:
        self._wrapper = wrapper
        self._opened: tuple[Root, Vault] | None = None
        self.shared = is_shared(url)
        self.engine = engine_of(url)
        migrate(self.engine)

    @property
    def root(self) -> Root:
        """The root key, once the state was loaded or created."""
        if self._opened is None:
            raise BrokerError("broker.state-locked", "the broker's state was not opened yet")
        return self._opened[0]

    @property
    def vault(self) -> Vault:
        """What seals under the root key."""
        if self._opened is None:
            raise BrokerError("broker.state-locked", "the broker's state was not opened yet")
        return self._opened[1]

    def use(self, root: Root) -> None:
        """Seal and open under this root key from now on."""
        self._opened = root, Vault(root.key)

    def unlock(self, connection: Connection) -> bool:
        """Take this machine's root key out of its row; False for a database that never held any state.

        Raises:
            BrokerError: `broker.sealed-elsewhere`: there is a state, and this machine and code hold no key to it.
        """
        if connection.execute(select(roots).limit(1)).first() is None:
            return _check_no_other(connection)
        root = self._own_root(connection)
        if root is None:
            raise _sealed_elsewhere()
        self.use(root)
        return True

    def lacks_root(self) -> bool:
        """Tell whether there is a state that this machine and code hold no key to: one has to come from elsewhere."""
        with self.reading() as connection:
            if connection.execute(select(roots).limit(1)).first() is None:
                return False
            root = self._own_root(connection)
            return root is None or not _opens(connection, root)

    def adopt(self, root: Root) -> None:
        """Keep a root key for this machine that came from a peer or from owners' shares.

        Raises:
            BrokerError: `broker.root-mismatch`: it does not open this state.
        """
        with self.writing() as connection:
            if not _opens(connection, root):
                raise BrokerError(
                    "broker.root-mismatch",
                    "this root key does not open the newest state: it is of another broker, or of another epoch",
                )
            self.keep_root(connection, root)

    def retell_root(self, root: Root) -> None:
        """Change what is noted beside this machine's root key, unless the key was replaced meanwhile."""
        with self.writing() as connection:
            own = self._own_root(connection, lock=True)
            if own is not None and own.key == root.key:
                self.keep_root(connection, root)
                self.use(root)

    def keep_root(self, connection: Connection, root: Root) -> None:
        """Write the root key into this machine's row; whoever calls this uses it after the commit."""
        row = self._wrapper.seal("root", self._wrapper.tag("root", ""), pack(root))
        connection.execute(delete(roots).where(roots.c.tag == row.tag))
        connection.execute(insert(roots).values(tag=row.tag, stamp=row.stamp, sealed=row.sealed))

    def _own_root(self, connection: Connection, *, lock: bool = False) -> Root | None:
        tag = self._wrapper.tag("root", "")
        query = select(roots).where(roots.c.tag == tag)
        row = connection.execute(query.with_for_update() if lock else query).first()
        try:
            return unpack(self._wrapper.open("root", tag, row.stamp, row.sealed), Root) if row else None
        except BrokerError:
            return None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection with a read transaction that sees one moment."""
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="REPEATABLE READ") if self.shared else connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection with a write transaction, committed at the end unless the block raises."""
        with self.engine.connect().execution_options(mitai_writes=True) as connection, connection.begin():
            yield connection

    def load(self) -> State | None:
        """Read and check the whole state; None for a database that never held any.

        Raises:
            RollbackError: A row, the ledger or the head is not of the same moment as the others.
            BrokerError: The state was sealed by another machine or other code.
        """
        with self.reading() as connection:
            if not self.unlock(connection):
                return None
            found = self._single(connection, "head")
            if found is None:
                raise RollbackError(
                    "broker.head-missing", "the head of the broker's state was removed from its database"
                )
            stamp, data = found
            head = unpack(data, Head)
            if head.epoch != self.root.epoch:
                raise RollbackError("broker.rows-rolled-back", "head and root key are of two epochs")
            stamps: dict[bytes, bytes] = {}
            digest = 0
            for tag, row_stamp in connection.execute(_ALL):
                stamps[tag] = row_stamp
                digest ^= self.vault.element(tag, row_stamp)
            # 1. every row is the newest, none is missing, none was added
            if digest.to_bytes(32) != head.digest or len(stamps) != sum(head.counts.values()):
                raise RollbackError(
                    "broker.rows-rolled-back",
                    "rows of the broker's database are not of one moment: some were put back, removed or added",
                    hint="restore the whole database file, or treat the machine as hostile",
                )
            # 2. the ledger is as long as the head says, and its tiles lead to the head's root
            ledger = SqlStore(connection)
            edge = right_edge(head.size, ledger.tile)
            if ledger.size() != head.size or _root(head.size, edge) != head.root:
                raise RollbackError(
                    "broker.ledger-rolled-back",
                    f"the stored ledger is not the one of {head.size} entries that this state belongs to",
                    hint="restore the whole database file, or treat the machine as hostile",
                )
        state = State(head, stamps, edge)
        state.head_stamp = state.found_stamp = stamp
        return state

    def take_over(self) -> State | None:
        """Load, and where other processes reach this database too, stop those that loaded before from committing.

        Raises:
            RollbackError: See `load`; or others go on writing.
        """
        for _ in range(TAKE_OVER_TRIES):
            state = self.load()
            if state is None or not self.shared:
                return state
            with suppress(RollbackError), self.writing() as connection:  # waits for a transaction that is under way
                state.head_stamp = self.write_head(connection, state.head, state.head_stamp)
                return state
        raise _conflict("others go on writing")

    def head_stamp(self) -> bytes:
        """Return the stamp of the newest head that is committed; it alone proves nothing."""
        with self.reading() as connection:
            return connection.scalar(_HEAD_STAMP) or b""

    def write_head(self, connection: Connection, head: Head, old_stamp: bytes, vault: Vault | None = None) -> bytes:
        """Replace the head that has `old_stamp`; return the new one's; raise when it is another process's."""
        vault = vault or self.vault
        row = vault.seal("head", vault.tag("single", "head"), pack(head))
        result = connection.execute(
            update(singles)
            .where(singles.c.name == "head", singles.c.stamp == old_stamp)
            .values(stamp=row.stamp, sealed=row.sealed)
        )
        if result.rowcount != 1:
            raise _conflict("another process wrote its head")
        return row.stamp

    def all_of(self, kind: type[R], state: State) -> list[R]:
        """Return all records of a kind; their number is authenticated too."""
        name = kind_of(kind)
        with self.reading() as connection:
            rows = connection.execute(select(records.c.tag, records.c.sealed).where(records.c.kind == name)).all()
        if len(rows) != state.head.counts.get(name, 0) or any(row.tag not in state.stamps for row in rows):
            raise RollbackError("broker.rows-rolled-back", f"rows of kind {name!r} were hidden, removed or added")
        rows_data = [self.vault.open(name, row.tag, state.stamps[row.tag], row.sealed) for row in rows]
        return [unpack_row(data, kind)[1] for data in rows_data]

    def ledger_key(self) -> LedgerKey:
        """Return the ledger's signing key, of a state that is loaded."""
        with self.reading() as connection:
            found = self._single(connection, "ledger-key")
        if found is None:
            raise RollbackError("broker.head-missing", "a part of the broker's state was removed from its database")
        return unpack(found[1], LedgerKey)

    def create(self, key: LedgerKey, head: Head) -> State:
        """Write the first state: a fresh root key, the ledger's key and an empty head."""
        self.use(Root(1, secrets.token_bytes(32)))
        head = msgspec.structs.replace(head, epoch=self.root.epoch)
        with self.writing() as connection:
            self.keep_root(connection, self.root)
            self._insert_single(connection, "ledger-key", key)
            stamp = self._insert_single(connection, "head", head)
        state = State(head, {}, {})
        state.head_stamp = stamp
        return state

    def blob(self, digest: str, connection: Connection | None = None) -> bytes:
        """Return content by its SHA-256; its digest authenticates it, so any connection will do."""
        if connection is None:
            with self.reading() as own:
                return self.blob(digest, own)
        vault = self.vault
        tag = vault.tag("blob", digest)
        sealed = connection.scalar(_BLOB, {"of_tag": tag})
        if sealed is None:
            if self.vault is not vault:  # the root key was rotated meanwhile
                return self.blob(digest)
            raise BrokerError("broker.state-damaged", f"stored content {digest[:16]} is missing")
        return vault.open_blob(tag, sealed)

    def document(self, name: str) -> bytes:
        """Return a document that is kept in the clear; nothing if there is none."""
        with self.reading() as connection:
            return connection.scalar(select(documents.c.data).where(documents.c.name == name)) or b""

    def _single(self, connection: Connection, name: str) -> tuple[bytes, bytes] | None:
        row = connection.execute(select(singles.c.stamp, singles.c.sealed).where(singles.c.name == name)).first()
        return (
            (row.stamp, self.vault.open(name, self.vault.tag("single", name), row.stamp, row.sealed)) if row else None
        )

    def _insert_single(self, connection: Connection, name: str, record: Record) -> bytes:
        row = self.vault.seal(name, self.vault.tag("single", name), pack(record))
        connection.execute(insert(singles).values(name=name, stamp=row.stamp, sealed=row.sealed))
        return row.stamp


class Resealing(Protocol):
    """A change of the root key; see `rotation`."""

    root: Root

    def run(self, database: Database, connection: Connection, stamps: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Seal everything but the head anew; return the new rows' stamps."""
        ...

    def digest(self, stamps: Mapping[bytes, bytes]) -> bytes:
        """Return the set digest of the new rows."""
        ...


class Transaction:
    """One group commit: reads through the newest stamps, collects changes, writes them with their ledger entries.

    Args:
        database: Where the rows are.
        state: The state before; replaced by `finish` in the caller's hands only after the commit.
        connection: With an open write transaction.
        keys: The records that the jobs will ask for, read at once.
    """

    def __init__(self, database: Database, state: State, connection: Connection, keys: Iterable[Key]) -> None:
        self._database, self._state, self._connection = database, state, connection
        self._vault, self._epoch = database.vault, database.root.epoch
        self._values: dict[Key, Record | BrokerError | None] = {}
        self._changed: dict[Key, Record] = {}
        self._blobs: dict[str, bytes] = {}
        self._resealing: Resealing | None = None
        self._documents: dict[str, bytes] = {}
        self.entries: list[bytes] = []
        self.head = state.head
        self._read(set(keys))

    def get(self, kind: type[R], identifier: str) -> R | None:
        """Return a record as the jobs before left it."""
        key: Key = (kind, identifier)
        if key not in self._values:
            self._read({key})
        value = self._values[key]
        if isinstance(value, BrokerError):
            raise value
        return value if isinstance(value, kind) else None

    def blob(self, digest: str) -> bytes:
        """Return stored content."""
        kept = self._blobs.get(digest)
        return kept if kept is not None else self._database.blob(digest, self._connection)

    def merge(self, draft: Draft) -> None:
        """Take over what one job decided."""
        counts = Counter(self.head.counts)
        counts.update(kind_of(key[0]) for key in draft.records if self._values.get(key) is None)
        self.head = msgspec.structs.replace(self.head, counts=dict(counts))
        self._values.update(draft.records)
        self._changed.update(draft.records)
        self._blobs.update(draft.blobs)
        self.entries += draft.entries
        self._resealing = draft.resealing or self._resealing
        self._documents.update(draft.documents)

    def finish(self, append: Callable[[EdgeStore, list[bytes]], None], time_s: int) -> State | None:
        """Write everything; return the state to use once the transaction is committed, None when nothing changed.

        Raises:
            RollbackError: Another process wrote meanwhile: what the jobs have read may be old.
        """
        if not self.entries and not self._changed:
            if self._connection.scalar(_HEAD_STAMP) != self._state.head_stamp:
                raise _conflict("another process wrote its head")
            return None
        stamps, digest = self._write_records()
        self._write_blobs()
        for name, data in self._documents.items():
            self._connection.execute(delete(documents).where(documents.c.name == name))
            self._connection.execute(insert(documents).values(name=name, data=data))
        store = EdgeStore(self._connection, self.head.size, self._state.edge)
        if self.entries:
            append(store, self.entries)
        size = self.head.size + len(self.entries)
        time_s = max(time_s, self.head.time_s)
        root = _root(size, store.edge)
        head = msgspec.structs.replace(self.head, size=size, root=root, digest=digest, time_s=time_s)
        state, vault = State(head, self._state.stamps, store.edge), self._vault
        if self._resealing is not None:
            state, vault = self._reseal(self._resealing, state, stamps)
        state.head_stamp = self._database.write_head(self._connection, state.head, self._state.head_stamp, vault)
        self._fresh_stamps = stamps
        return state

    def committed(self) -> None:
        """Remember the new rows' stamps; called after the commit only."""
        if self._resealing is not None:
            self._database.use(self._resealing.root)
        else:
            self._state.stamps.update(self._fresh_stamps)

    def _reseal(self, resealing: Resealing, state: State, fresh: Mapping[bytes, bytes]) -> tuple[State, Vault]:
        """Seal everything that stands now under the next root key; return what comes of it."""
        stamps = resealing.run(self._database, self._connection, {**state.stamps, **fresh})
        head = msgspec.structs.replace(state.head, digest=resealing.digest(stamps), epoch=resealing.root.epoch)
        return State(head, stamps, state.edge), Vault(resealing.root.key)

    def _read(self, keys: set[Key]) -> None:
        tags = {self._vault.tag(kind_of(kind), identifier): (kind, identifier) for kind, identifier in keys}
        self._values.update(dict.fromkeys(keys))
        known = [tag for tag in tags if tag in self._state.stamps]
        for start in range(0, len(known), 500):
            part = known[start : start + 500]
            rows = self._connection.execute(select(records.c.tag, records.c.sealed).where(records.c.tag.in_(part)))
            found = {row.tag: row.sealed for row in rows}
            for tag in part:
                kind, _ = key = tags[tag]
                try:
                    data = self._vault.open(kind_of(kind), tag, self._state.stamps[tag], found.get(tag, b""))
                    self._values[key] = unpack_row(data, kind)[1]
                except BrokerError as error:  # for the jobs that need it; the others go on
                    self._values[key] = error

    def _write_records(self) -> tuple[dict[bytes, bytes], bytes]:
        digest = int.from_bytes(self.head.digest)
        new: list[tuple[str, Row]] = []
        changed: list[Row] = []
        for (kind, identifier), value in self._changed.items():
            name = kind_of(kind)
            row = self._vault.seal(name, self._vault.tag(name, identifier), pack_row(identifier, value))
            old = self._state.stamps.get(row.tag)
            digest ^= self._vault.element(row.tag, row.stamp)
            if old is None:
                new.append((name, row))
            else:
                digest ^= self._vault.element(row.tag, old)
                changed.append(row)
        if new:
            values = [{"tag": r.tag, "kind": k, "stamp": r.stamp, "sealed": r.sealed} for k, r in new]
            self._connection.execute(insert(records), values)
        if changed:
            values = [{"of_tag": r.tag, "new_stamp": r.stamp, "new_sealed": r.sealed} for r in changed]
            self._connection.execute(_CHANGE, values)
        return {row.tag: row.stamp for row in [*(row for _, row in new), *changed]}, digest.to_bytes(32)

    def _write_blobs(self) -> None:
        tags = {self._vault.tag("blob", digest): digest for digest in self._blobs}
        names = list(tags)
        for start in range(0, len(names), 500):
            part = names[start : start + 500]
            there = set(self._connection.scalars(select(blobs.c.tag).where(blobs.c.tag.in_(part))))
            values = [
                {"tag": tag, "sealed": self._vault.seal_blob(tag, self._blobs[tags[tag]]), "epoch": self._epoch}
                for tag in part
                if tag not in there
            ]
            if values:
                self._connection.execute(insert(blobs), values)


class Draft:
    """What one job changes; nothing of it counts unless the job ends without an error."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.records: dict[Key, Record] = {}
        self.blobs: dict[str, bytes] = {}
        self.entries: list[bytes] = []
        self.resealing: Resealing | None = None
        self.documents: dict[str, bytes] = {}  # in the clear
        self.head = transaction.head
        self.get = transaction.get
        self.blob = transaction.blob

    @property
    def next_index(self) -> int:
        """The ledger index that the next entry gets."""
        return self.head.size + len(self._transaction.entries) + len(self.entries)

    def put(self, identifier: str, record: Record) -> None:
        """Write a record's new value."""
        self.records[type(record), identifier] = record

    def append(self, entry: bytes) -> int:
        """Add a ledger entry; return its index."""
        self.entries.append(entry)
        return self.next_index - 1


def _opens(connection: Connection, root: Root) -> bool:
    """Tell whether a root key is that of the state in the database."""
    row = connection.execute(select(singles).where(singles.c.name == "head")).first()
    vault = Vault(root.key)
    try:
        data = vault.open("head", vault.tag("single", "head"), row.stamp, row.sealed) if row else b""
        return bool(data) and unpack(data, Head).epoch == root.epoch
    except BrokerError:
        return False


def _check_no_other(connection: Connection) -> bool:
    """Return False if there is no state at all; raise if it is one of a former version."""
    if connection.execute(select(singles.c.name).limit(1)).first() is not None:
        raise BrokerError(
            "broker.state-version",
            "this state has no root key: it was written before there were any, or its key was removed",
            hint="begin with empty folders: no other build could ever open what a former one wrote",
        )
    if connection.execute(_ALL.limit(1)).first() is not None or SqlStore(connection).size():
        raise RollbackError("broker.head-missing", "the head of the broker's state was removed from its database")
    return False


def _sealed_elsewhere() -> BrokerError:
    return BrokerError(
        "broker.sealed-elsewhere",
        "this state was sealed by another machine or by other code, or was damaged",
        hint="run the release that wrote it on the machine that wrote it; or let this one get the root key, from a "
        "running broker or from the owners: docs/spec/broker-keys.md",
    )


def _root(size: int, edge: Mapping[Tile, bytes]) -> bytes:
    return range_hash(lambda level, index: edge.get((level, index), b""), 0, size)


def _conflict(why: str) -> RollbackError:
    return RollbackError("broker.state-conflict", f"the database changed under this broker: {why}")
