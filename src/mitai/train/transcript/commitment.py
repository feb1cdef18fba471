"""A data set's commitment: a Merkle root over hidden records, and the proof that a document is one of them.

`docs/spec/transcript.md`, "Data". The tree is that of RFC 6962; a leaf's entry holds one commitment per column,
`HMAC-SHA256(blind, label ‖ 0x00 ‖ canonical JSON of [column, value])`, under a blind of its own.

Invariants:

- Root, leaves and proofs say nothing about a record but that it is there: who lacks its blind can't try out values,
  and equal records have unrelated leaves.
- A proof opens only the columns that are asked for; blinds come from one secret, which it does not show.
- Values are compared as canonical JSON (RFC 8785): one spelling, one commitment.

Example:
    >>> data = Commitment.of(b"s" * 32, ("text",), [{"text": "one"}, {"text": "two"}])
    >>> data.proof(1, ("text",), "0" * 64).check(data.root, 2, ("text",), {"text": "two"})
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec
import rfc8785

from mitai.errors import LedgerError, ParseError, TrainError
from mitai.ledger.entry import Count, Digest, decode_canonical, encode_canonical
from mitai.ledger.proof import MAX_PROOF_HASHES, inclusion_proof, verify_inclusion
from mitai.ledger.tree import HASH_BYTES, Tile, extend, leaf_hash, range_hash

RECORD_LABEL: Final = b"mitai training record v1\x00"
BLIND_LABEL: Final = b"mitai training blind v1\x00"
COLUMN_LABEL: Final = b"mitai training column v1\x00"
PROOF_LABEL: Final = "mitai membership proof v1"

SECRET_BYTES = 32
MAX_COLUMNS = 64
MAX_PROOF_BYTES = 64 << 10

Column = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,128}\Z")]
Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Hashes = Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MAX_PROOF_HASHES)]
Record = Mapping[str, object]


class MembershipProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That the record at `row` of a run's committed data holds what `blinds` open."""

    v: Literal["mitai membership proof v1"] = PROOF_LABEL
    transcript_sha256: Digest  # of the signed transcript that holds the root
    row: Count
    columns: Annotated[tuple[Hash, ...], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]  # all of the record's
    blinds: Annotated[dict[Column, Hash], msgspec.Meta(min_length=1, max_length=MAX_COLUMNS)]  # of the opened ones
    path: Hashes

    def encode(self) -> bytes:
        """Return canonical JSON."""
        return encode_canonical(self, _PROOF, "train.proof-malformed")

    @staticmethod
    def decode(data: bytes) -> MembershipProof:
        """Parse a proof; raise `ParseError` on anything else or above 64 KiB."""
        if len(data) > MAX_PROOF_BYTES:
            raise ParseError("train.proof-malformed", f"a membership proof of {len(data)} bytes is above the limit")
        return decode_canonical(data, _PROOF, "train.proof-malformed")

    def check(self, root: bytes, size: int, names: Sequence[str], document: Record) -> None:
        """Raise `TrainError` unless the record at `row` under `root` has the values of `document`.

        1. The proof opens exactly the columns that the document has.
        2. Each value is what the record's commitment holds.
        3. The record is in the tree of `size` records.
        """
        # 1. columns
        if self.blinds.keys() != document.keys() or len(self.columns) != len(names) or not document:
            raise TrainError(
                "train.proof-columns", "the proof is about other columns than the document", step="columns"
            )
        places = {name: place for place, name in enumerate(names)}
        # 2. values
        for name, blind in self.blinds.items():
            committed = _committed(blind, name, document[name])
            if name not in places or not hmac.compare_digest(self.columns[places[name]], committed):
                raise TrainError(
                    "train.proof-document",
                    f"the record's column {name!r} holds something else than the document",
                    hint="spaces, line ends and letter case count; ask which text the data owner gave to the job",
                    step="document",
                )
        # 3. inclusion
        try:
            verify_inclusion(leaf_hash(_entry(self.columns)), self.row, size, self.path, root)
        except LedgerError as error:
            raise TrainError(
                "train.proof-inclusion", "the record is not in the committed data", step="inclusion"
            ) from error


_PROOF = msgspec.json.Decoder(MembershipProof)


@dataclass(frozen=True)
class Commitment:
    """The tree over a data set, with what it takes to open it: stays with who may read the data."""

    secret: bytes = field(repr=False)
    columns: tuple[str, ...]
    entries: tuple[tuple[bytes, ...], ...] = field(repr=False)
    tiles: dict[Tile, bytes] = field(repr=False)

    @staticmethod
    def of(secret: bytes, columns: Sequence[str], records: Iterable[Record]) -> Commitment:
        """Commit to `records`, in their order; a column that a record lacks counts as null.

        Raises:
            TrainError: A record has a column that is not in `columns`, or a value that JSON can't say.
        """
        names = tuple(columns)
        if len(secret) != SECRET_BYTES or len(set(names)) != len(names) or not 1 <= len(names) <= MAX_COLUMNS:
            raise TrainError("train.commitment-refused", "a commitment needs a 32-byte secret and 1 to 64 columns")
        entries = []
        for row, record in enumerate(records):
            if not record.keys() <= set(names):
                raise TrainError("train.commitment-refused", f"record {row} has columns that were not announced")
            entries.append(tuple(_committed(_blind(secret, row, name), name, record.get(name)) for name in names))
        return Commitment(secret, names, tuple(entries), extend(0, [leaf_hash(_entry(e)) for e in entries], _nothing))

    @property
    def root(self) -> bytes:
        """The tree's root."""
        return self._range(0, len(self.entries))

    def proof(self, row: int, columns: Sequence[str], transcript_sha256: str) -> MembershipProof:
        """Return the proof that opens `columns` of the record at `row`, for a signed transcript with this root."""
        if not set(columns) <= set(self.columns):
            raise TrainError("train.proof-columns", "the data have no such column", step="columns")
        path = inclusion_proof(self._range, row, len(self.entries))
        return MembershipProof(
            transcript_sha256=transcript_sha256,
            row=row,
            columns=self.entries[row],
            blinds={name: _blind(self.secret, row, name) for name in columns},
            path=path,
        )

    def _range(self, start: int, end: int) -> bytes:
        return range_hash(lambda level, index: self.tiles.get((level, index), b""), start, end)


def find(records: Iterable[Record], document: Record) -> int:
    """Return the row of the first record that has all of the document's values; raise `TrainError` if none has."""
    wanted = {name: _canonical(name, value) for name, value in document.items()}
    for row, record in enumerate(records):
        if wanted and all(_canonical(name, record.get(name)) == value for name, value in wanted.items()):
            return row
    raise TrainError(
        "train.record-not-found",
        "no record of these data has exactly these values",
        hint="a search by who holds the data; it is no proof that something alike was not used",
    )


def _nothing(_level: int, _index: int) -> bytes:
    return b""


def _entry(columns: Sequence[bytes]) -> bytes:
    return RECORD_LABEL + b"".join(columns)


def _blind(secret: bytes, row: int, column: str) -> bytes:
    return hmac.digest(secret, BLIND_LABEL + row.to_bytes(8, "big") + column.encode(), sha256)


def _committed(blind: bytes, column: str, value: object) -> bytes:
    return hmac.digest(blind, COLUMN_LABEL + _canonical(column, value), sha256)


def _canonical(column: str, value: object) -> bytes:
    try:
        return rfc8785.dumps([column, value])  # type: ignore[list-item]  # what is no JSON value is refused here
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise TrainError("train.commitment-refused", f"a value of column {column!r} is no JSON value") from error
