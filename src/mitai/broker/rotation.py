"""Rotation of the root key: every row, blob and the head are sealed anew under a fresh key, and the old one is let go.

Blobs never change, so they are sealed anew beforehand, in small batches beside the running broker; rows are prepared
in memory, as most of them won't change either. One transaction then does the rest: records, ledger key, head, this
machine's copy of the root key, and the ledger entry that tells of it.

Invariants:

- Killed at any moment, the state is wholly of the old epoch or wholly of the new one. Blobs that nobody can open may
  be left over; a rotation removes those of all epochs before its own, after its commit and nothing before it.
- Rows are opened by the stamps held in memory: a rotation never takes over an older row, also none that it prepared.
- Other machines' copies of the root key are removed: they are of the old epoch. They get the new one from this broker.

Example:
    >>> rotate(database, broker.submit, utc(now), lambda draft, root: None).epoch
    2
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from mitai.broker.protocol import sha256_hex
from mitai.broker.records import Root, row_id
from mitai.broker.store import Database, Draft
from mitai.broker.tables import blobs, records, roots, singles
from mitai.broker.vault import Vault
from mitai.broker.writer import Job
from mitai.errors import BrokerError, RollbackError
from mitai.ledger.entry import RootKey

ROWS_AT_ONCE = 500
BLOB_BYTES_AT_ONCE = 4 << 20
PREPARED_BYTES = 128 << 20

_RECORDS = select(records)
_BLOB_SIZES = select(blobs.c.tag, func.length(blobs.c.sealed))

Submit = Callable[[Job[Root]], Future[Root]]
Also = Callable[[Draft, Root], "str | None"]  # what else changes with the root key; the recovery plan's digest


class Resealing:
    """Seals everything anew within one transaction, but for the blobs that `ahead` did before it.

    Args:
        old: The root key in force.
        new: Its successor.
    """

    def __init__(self, old: Root, new: Root) -> None:
        self.root, self._epoch = new, old.epoch
        self._old, self._new = Vault(old.key), Vault(new.key)
        self._done: set[bytes] = set()  # tags of blobs that are there under the new key
        self._prepared: dict[bytes, tuple[bytes, dict[str, Any]]] = {}  # by old tag: of which stamp, and the new row

    def ahead(self, database: Database) -> None:
        """Seal blobs anew, in transactions of a few MiB each, and prepare rows. Nothing is removed or replaced."""
        with database.reading() as connection:
            parts = list(self._parts(connection))
        for part in parts:
            with database.writing() as connection:
                self._seal_blobs(connection, part)
            self._done.update(part)
        self._prepare(database)

    def _prepare(self, database: Database) -> None:
        """Seal rows anew as they are now; each counts only if it still has this stamp when the key changes."""
        room = PREPARED_BYTES
        with database.reading() as connection:
            for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(_RECORDS):
                room -= len(row.sealed) + 256
                if room < 0:
                    return
                self._prepared[row.tag] = row.stamp, self._sealed_anew(row, row.stamp)

    def run(self, database: Database, connection: Connection, stamps: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Seal all else anew; return the new stamps by tag."""
        for part in self._parts(connection):
            self._seal_blobs(connection, part)
            self._done.update(part)
        self._seal_single(connection, "ledger-key")
        connection.execute(delete(roots))
        database.keep_root(connection, self.root)
        return self._seal_rows(connection, stamps)

    def digest(self, stamps: Mapping[bytes, bytes]) -> bytes:
        """Return the set digest of the new rows."""
        total = 0
        for tag, stamp in stamps.items():
            total ^= self._new.element(tag, stamp)
        return total.to_bytes(32)

    def _seal_rows(self, connection: Connection, stamps: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        ready = {tag: row for tag, (stamp, row) in self._prepared.items() if stamps.get(tag) == stamp}
        changed = [tag for tag in stamps if tag not in ready]
        values = list(ready.values())
        for start in range(0, len(changed), ROWS_AT_ONCE):
            found = connection.execute(_RECORDS.where(records.c.tag.in_(changed[start : start + ROWS_AT_ONCE])))
            values += [self._sealed_anew(row, stamps[row.tag]) for row in found]
        if connection.execute(delete(records)).rowcount != len(stamps) or len(values) != len(stamps):
            raise RollbackError("broker.rows-rolled-back", "rows of the broker's database were removed or added")
        for start in range(0, len(values), ROWS_AT_ONCE):
            connection.execute(insert(records), values[start : start + ROWS_AT_ONCE])
        return {value["tag"]: value["stamp"] for value in values}

    def _sealed_anew(self, row: Any, stamp: bytes) -> dict[str, Any]:  # noqa: ANN401 - SQLAlchemy's own row
        """Open a row as of `stamp`, and seal it under the new key."""
        data = self._old.open(row.kind, row.tag, stamp, row.sealed)
        new = self._new.seal(row.kind, self._new.tag(row.kind, row_id(data)), data)
        return {"tag": new.tag, "kind": row.kind, "stamp": new.stamp, "sealed": new.sealed}

    def _seal_single(self, connection: Connection, name: str) -> None:
        stamp, sealed = connection.execute(
            select(singles.c.stamp, singles.c.sealed).where(singles.c.name == name)
        ).one()
        data = self._old.open(name, self._old.tag("single", name), stamp, sealed)
        row = self._new.seal(name, self._new.tag("single", name), data)
        connection.execute(update(singles).where(singles.c.name == name).values(stamp=row.stamp, sealed=row.sealed))

    def _seal_blobs(self, connection: Connection, tags: list[bytes]) -> None:
        values = []
        for tag, sealed in connection.execute(select(blobs.c.tag, blobs.c.sealed).where(blobs.c.tag.in_(tags))):
            data = self._old.open_blob(tag, sealed)
            own = self._new.tag("blob", sha256_hex(data))
            values.append({"tag": own, "sealed": self._new.seal_blob(own, data), "epoch": self.root.epoch})
        connection.execute(insert(blobs), values)

    def _parts(self, connection: Connection) -> Iterator[list[bytes]]:
        """Give the tags of the blobs that are not done, a few MiB at a time."""
        sizes = connection.execute(_BLOB_SIZES.where(blobs.c.epoch == self._epoch)).all()
        part, room = list[bytes](), BLOB_BYTES_AT_ONCE
        for tag, size in sizes:
            if tag in self._done:
                continue
            if part and (size > room or len(part) == ROWS_AT_ONCE):
                yield part
                part, room = [], BLOB_BYTES_AT_ONCE
            part.append(tag)
            room -= size
        if part:
            yield part


def rotate(database: Database, submit: Submit, time: str, also: Also) -> Root:
    """Replace the root key; return the new one once it is in force.

    Args:
        database: Opened, by the process that decides.
        submit: Queues a job for the writer.
        time: Now, as the ledger writes it.
        also: Run within the same transaction.

    Raises:
        BrokerError: Nothing has changed; a row that can't be opened is a reason, or that another process took over.
    """
    old = database.root
    new_root = Root(old.epoch + 1, secrets.token_bytes(32), inherited=old.inherited)  # the ledger's key is the same
    resealing = Resealing(old, new_root)
    resealing.ahead(database)

    def switch(draft: Draft) -> Root:
        if draft.head.epoch != old.epoch:
            raise BrokerError("broker.rotation-overtaken", "the root key was rotated by another process meanwhile")
        plan = also(draft, resealing.root)
        draft.resealing = resealing
        draft.append(RootKey(time=time, event="rotated", epoch=resealing.root.epoch, recovery_sha256=plan).encode())
        return resealing.root

    new = submit(Job(switch)).result()
    with database.writing() as connection:
        connection.execute(delete(blobs).where(blobs.c.epoch < new.epoch))
    return new
