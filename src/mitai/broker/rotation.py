"""Rotation of the root key: every row, blob and the head are sealed anew under a fresh key, and the old one is let go.

Blobs never change, so they are sealed anew beforehand, in small batches beside the running broker. One transaction then
does the rest: records, ledger key, head, this machine's copy of the root key, and the ledger entry that tells of it.

Invariants:

- Killed at any moment, the state is wholly of the old epoch or wholly of the new one; blobs of another epoch than the
  root key's are leftovers that the next rotation removes.
- Rows are opened by the stamps held in memory: a rotation never takes over an older row.
- Other machines' copies of the root key are removed: they are of the old epoch. They get the new one from this broker.

Example:
    >>> rotate(database, broker.submit, utc(now), lambda draft, root: None).epoch
    2
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

from sqlalchemy import Connection, delete, func, insert, select, update

from mitai.broker.protocol import sha256_hex
from mitai.broker.records import Root, row_id
from mitai.broker.store import Database, Draft, blobs, records, roots, singles
from mitai.broker.vault import Vault
from mitai.broker.writer import Job
from mitai.errors import BrokerError, RollbackError
from mitai.ledger.entry import RootKey

ROWS_AT_ONCE = 500
BLOB_BYTES_AT_ONCE = 4 << 20

_RECORDS = select(records.c.tag, records.c.kind, records.c.sealed)
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

    def ahead(self, database: Database) -> None:
        """Seal all blobs anew, in transactions of a few MiB each; what a rotation left that did not end is removed."""
        with database.writing() as connection:
            connection.execute(delete(blobs).where(blobs.c.epoch != self._epoch))
        with database.reading() as connection:
            parts = list(self._parts(connection))
        for part in parts:
            with database.writing() as connection:
                self._seal_blobs(connection, part)
            self._done.update(part)

    def run(self, database: Database, connection: Connection, stamps: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Seal all else anew; return the new stamps by tag."""
        for part in self._parts(connection):
            self._seal_blobs(connection, part)
            self._done.update(part)
        self._seal_single(connection, "ledger-key")
        connection.execute(delete(roots))
        database.keep_root(connection, self.root)
        new: dict[bytes, bytes] = {}
        tags = list(stamps)
        for start in range(0, len(tags), ROWS_AT_ONCE):
            new |= self._seal_rows(connection, tags[start : start + ROWS_AT_ONCE], stamps)
        return new

    def digest(self, stamps: Mapping[bytes, bytes]) -> bytes:
        """Return the set digest of the new rows."""
        total = 0
        for tag, stamp in stamps.items():
            total ^= self._new.element(tag, stamp)
        return total.to_bytes(32)

    def _seal_rows(
        self, connection: Connection, tags: list[bytes], stamps: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        found = connection.execute(_RECORDS.where(records.c.tag.in_(tags))).all()
        if len(found) != len(tags):
            raise RollbackError("broker.rows-rolled-back", "rows of the broker's database were removed")
        values = []
        for tag, kind, sealed in found:
            data = self._old.open(kind, tag, stamps[tag], sealed)
            row = self._new.seal(kind, self._new.tag(kind, row_id(data)), data)
            values.append({"tag": row.tag, "kind": kind, "stamp": row.stamp, "sealed": row.sealed})
        connection.execute(delete(records).where(records.c.tag.in_(tags)))
        connection.execute(insert(records), values)
        return {value["tag"]: value["stamp"] for value in values}

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
    resealing = Resealing(old, Root(old.epoch + 1, secrets.token_bytes(32)))
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
        connection.execute(delete(blobs).where(blobs.c.epoch == old.epoch))
    return new
