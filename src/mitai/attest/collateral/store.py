"""Where collateral comes from: services behind a cache, or a signed bundle for verifiers without a network.

Invariants:

- The cache keeps only what has the form of an answer, never anything beyond its own end, and never goes back to an
  answer that was issued before the one it has.
- A service that is gone costs nothing while what is kept still holds; after that there is a clear error.
- A bundle is opened only under a signer that the caller names, and answers only what is in it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec

from mitai.attest.collateral.resource import MAX_AGE, Item, Resource, window
from mitai.errors import AttestError, MitaiError, ParseError
from mitai.identity import Envelope, Identity, PublicKey

PAYLOAD_TYPE = "application/vnd.mitai.collateral+json"
MAX_ITEMS = 4096
_RETRY_AFTER_FAILURE = timedelta(seconds=30)


class Store(Protocol):
    """Anything that has collateral."""

    def get(self, resource: Resource) -> Item:
        """Return an answer that may be used now; raise `AttestError` where there is none."""
        ...


class Transport(Protocol):
    """Asks a service."""

    def ask(self, resource: Resource) -> tuple[bytes, str]:
        """Return body and issuer chain (PEM); raise `AttestError` where the service gives none."""
        ...


def _now() -> datetime:
    return datetime.now(UTC)


class Cache:
    """Services behind files of one folder (or behind memory alone); safe to share between processes.

    Args:
        transport: How services are asked.
        folder: Where answers are kept; nothing: in memory.
        clock: The time.
    """

    def __init__(self, transport: Transport, folder: Path | None = None, clock: Callable[[], datetime] = _now) -> None:
        self._transport, self._folder, self._clock = transport, folder, clock
        self._memory: dict[str, Item] = {}
        self._failed: dict[str, tuple[datetime, AttestError]] = {}

    def get(self, resource: Resource) -> Item:
        """Return what is kept while it is fresh; otherwise ask, and fall back to what is kept while it still holds."""
        now = self._clock()
        kept = self._kept(resource, now)
        if kept is not None and now - kept.fetched < MAX_AGE[resource.kind]:
            return kept
        try:
            return self._asked(resource, kept, now)
        except AttestError as error:
            self._failed[resource.name] = (now, error)
            if kept is not None:
                return kept
            raise

    def _asked(self, resource: Resource, kept: Item | None, now: datetime) -> Item:
        failed = self._failed.get(resource.name)
        if failed is not None and now - failed[0] < _RETRY_AFTER_FAILURE:
            raise failed[1]
        body, chain = self._transport.ask(resource)
        item = Item(resource.kind, resource.url, body, chain, now)
        try:
            issued, ends = window(item)
        except ParseError as error:
            raise AttestError(error.code, error.message) from error
        if now > ends:
            raise AttestError(
                "attest.collateral-stale", f"{resource.url} answers with what has ended on {ends:%F %T} UTC"
            )
        if kept is not None and issued < window(kept)[0]:
            raise AttestError("attest.collateral-stale", f"{resource.url} answers with less than is known already")
        self._failed.pop(resource.name, None)
        self._keep(resource, item)
        return item

    def _kept(self, resource: Resource, now: datetime) -> Item | None:
        """Return what is kept, unless it has ended or is damaged."""
        item = self._memory.get(resource.name)
        if item is None and self._folder is not None:
            try:
                item = msgspec.json.decode((self._folder / f"{resource.name}.json").read_bytes(), type=Item)
            except (OSError, msgspec.MsgspecError, UnicodeError):
                return None
        if item is None or (item.kind, item.url) != (resource.kind, resource.url) or item.fetched > now:
            return None
        try:
            return item if now <= window(item)[1] else None
        except ParseError:
            return None

    def _keep(self, resource: Resource, item: Item) -> None:
        if self._folder is None:
            self._memory[resource.name] = item
            return
        temporary = self._folder / f"{resource.name}.{secrets.token_hex(4)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(item))
            temporary.replace(self._folder / f"{resource.name}.json")
        except OSError:  # a full disk costs a question more, nothing else
            self._memory[resource.name] = item
            with contextlib.suppress(OSError):
                temporary.unlink()


class Recorder:
    """A store that remembers what was asked, for `Bundle.pack`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.items: dict[str, Item] = {}

    def get(self, resource: Resource) -> Item:
        """Return the other store's answer."""
        item = self.items[resource.name] = self._store.get(resource)
        return item


class _Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    created: datetime
    items: dict[str, Item]
    v: int = 1


class Bundle:
    """Answers in one signed file."""

    def __init__(self, created: datetime, items: dict[str, Item], clock: Callable[[], datetime] = _now) -> None:
        self.created, self.items, self._clock = created, items, clock

    @staticmethod
    def pack(items: dict[str, Item], signer: Identity, now: datetime) -> bytes:
        """Return a signed bundle (a DSSE envelope)."""
        payload = msgspec.json.encode(_Packed(now, dict(sorted(items.items()))))
        return signer.sign(payload, PAYLOAD_TYPE).encode()

    @staticmethod
    def open(data: bytes, signer: PublicKey, clock: Callable[[], datetime] = _now) -> Bundle:
        """Open a bundle that `signer` signed.

        Raises:
            ParseError: It is malformed.
            AttestError: Somebody else signed it.
        """
        try:
            payload = Envelope.decode(data).open(PAYLOAD_TYPE, signer)
        except ParseError:
            raise
        except MitaiError as error:
            raise AttestError(
                "attest.collateral-bundle-untrusted", "the bundle is not signed by the key that you named"
            ) from error
        try:
            packed = msgspec.json.decode(payload, type=_Packed)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ParseError("attest.collateral-bundle-malformed", "the bundle is malformed") from error
        if packed.v != 1 or not 0 < len(packed.items) <= MAX_ITEMS:
            raise ParseError(
                "attest.collateral-bundle-malformed", "the bundle is of an unknown version, empty, or too large"
            )
        for item in packed.items.values():
            window(item)
        return Bundle(packed.created, packed.items, clock)

    def get(self, resource: Resource) -> Item:
        """Return the packed answer while it holds."""
        item = self.items.get(resource.name)
        if item is None or (item.kind, item.url) != (resource.kind, resource.url):
            raise AttestError(
                "attest.collateral-not-packed",
                f"the bundle holds no {resource.kind} of {resource.url}",
                hint="pack it anew with this machine's evidence: mitai collateral pack",
            )
        ends = window(item)[1]
        if self._clock() > ends:
            raise AttestError(
                "attest.collateral-stale",
                f"the packed {resource.kind} has ended on {ends:%F %T} UTC",
                hint="pack the bundle anew",
            )
        return item
