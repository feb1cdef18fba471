"""The messages between a log and a witness, without I/O.

Follows C2SP tlog-witness, "add-checkpoint". A log that lost its newest entries (its database was rolled back) learns it
here: the witness remembers a larger size than the log has, or another root at the same size.

Invariants:

- A request is parsed strictly: canonical numbers and base64, at most 63 proof lines, a bounded body.
- An answer counts only when a cosignature of a trusted witness verifies over the checkpoint that was sent.

Example:
    >>> submit(log, post, [witness_vkey])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mitai.errors import LedgerError, ParseError
from mitai.ledger.log import Log
from mitai.ledger.note import (
    MAX_NOTE_BYTES,
    Note,
    decode_base64,
    encode_base64,
    parse_checkpoint,
    parse_decimal,
    parse_note,
    parse_signatures,
    parse_vkey,
    verify_checkpoint,
)
from mitai.ledger.proof import MAX_PROOF_HASHES, Proof
from mitai.ledger.tree import HASH_BYTES

MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 4096
MAX_ANSWER_BYTES = 64 << 10
SIZE_MEDIA_TYPE = "text/x.tlog.size"

Post = Callable[[bytes], tuple[int, bytes]]  # sends a body to add-checkpoint; returns status and body


@dataclass(frozen=True)
class AddCheckpoint:
    """A request to cosign `checkpoint`, which extends the tree of `old` entries."""

    old: int
    proof: Proof
    checkpoint: bytes  # a signed note

    def encode(self) -> bytes:
        """Return the request's body."""
        lines = [f"old {self.old}", *map(encode_base64, self.proof), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @staticmethod
    def decode(body: bytes) -> AddCheckpoint:
        """Parse a request's body; raise `ParseError` on anything else."""
        head, blank, checkpoint = body.partition(b"\n\n")
        if len(body) > MAX_REQUEST_BYTES or not blank or not head.isascii():
            raise _malformed("a request is an old size, a proof, an empty line and a checkpoint")
        first, *lines = head.decode().split("\n")
        if not first.startswith("old ") or len(lines) > MAX_PROOF_HASHES:
            raise _malformed("a request begins with the old size and has at most 63 proof lines")
        proof = tuple(decode_base64(line, "ledger.witness-request-malformed") for line in lines)
        if any(len(value) != HASH_BYTES for value in proof):
            raise _malformed("a proof line is a hash")
        return AddCheckpoint(parse_decimal(first[4:], "ledger.witness-request-malformed"), proof, checkpoint)


@dataclass(frozen=True)
class Cosigned:
    """The witness cosigned: the checkpoint with its signature line."""

    checkpoint: bytes


@dataclass(frozen=True)
class Conflict:
    """The witness remembers another size than the request said."""

    size: int


def read_answer(status: int, body: bytes, checkpoint: bytes, log: str, witnesses: Sequence[str]) -> Cosigned | Conflict:
    """Read a witness's answer to `add-checkpoint`.

    Args:
        status: HTTP status.
        body: HTTP body.
        checkpoint: The signed note that was sent.
        log: The log's verifier key.
        witnesses: Verifier keys of that witness; it must have cosigned with one of them.

    Raises:
        ParseError: The body is not what the status promises.
        LedgerError: The witness refused, or did not cosign this checkpoint.
    """
    if len(body) > MAX_ANSWER_BYTES:
        raise ParseError("ledger.witness-answer-malformed", f"an answer of {len(body)} bytes is above the limit")
    if status == 409:
        text = body.decode("ascii", "replace")
        return Conflict(parse_decimal(text.removesuffix("\n"), "ledger.witness-answer-malformed"))
    if status == 422:
        raise LedgerError(
            "ledger.forked",
            "the witness remembers another history of this log",
            hint="the log was rolled back and continued, or forked: stop and find out why",
        )
    if status != 200:
        raise LedgerError("ledger.witness-refused", f"the witness answered with status {status}")
    note = parse_note(checkpoint)
    trusted = {(key.name, key.key_id) for key in map(parse_vkey, witnesses)}
    kept = tuple(line for line in parse_signatures(body) if (line.name, line.key_id) in trusted)
    cosigned = Note(note.text, note.signatures + kept).encode()
    verify_checkpoint(cosigned, log, witnesses, threshold=1)
    return Cosigned(cosigned)


def submit(log: Log, post: Post, witnesses: Sequence[str]) -> bytes:
    """Have the log's checkpoint cosigned by a witness; return the cosigned checkpoint, to be published.

    A log that starts calls this first: it fails when the log is older than what the witness remembers.

    Raises:
        LedgerError: `ledger.rolled-back` or `ledger.forked` when the witness knows entries that this log does not have.
    """
    checkpoint = log.checkpoint()
    size = parse_checkpoint(parse_note(checkpoint).text).size
    old = size
    for _ in range(3):  # a second attempt knows the witness's size, a third meets another submission in between
        request = AddCheckpoint(old, log.consistency_proof(old, size), checkpoint)
        answer = read_answer(*post(request.encode()), checkpoint, log.vkey, witnesses)
        if isinstance(answer, Cosigned):
            return answer.checkpoint
        if answer.size > size:
            raise LedgerError(
                "ledger.rolled-back",
                f"the witness has seen {answer.size} entries, this log has {size}",
                hint="its storage was replaced by an older copy: restore the newest one",
            )
        old = answer.size
    raise LedgerError("ledger.witness-refused", "the witness's size keeps changing")


def _malformed(why: str) -> ParseError:
    return ParseError("ledger.witness-request-malformed", why)
