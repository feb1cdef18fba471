"""Signed notes, log checkpoints and witness cosignatures.

Follows C2SP signed-note, tlog-checkpoint and tlog-cosignature, with Ed25519 (signature types 0x01 and 0x04) alone.

Invariants:

- A note's text is used only after a trusted key's signature over it has verified (`verify_checkpoint`).
- A signature with a trusted key's name and id that does not verify spoils the whole note; unknown keys are ignored.
- The origin of a checkpoint is the name of the log's key, so that one log's checkpoint never stands in for another's.
- Numbers and base64 have one spelling: leading zeros, stray bits and control characters are refused.

Example:
    >>> log = Identity.from_seed(bytes(32))
    >>> note = sign_checkpoint("log.example", 0, EMPTY_ROOT, log)
    >>> verify_checkpoint(note, vkey("log.example", log.public)).size
    0
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from mitai.errors import LedgerError, ParseError
from mitai.identity import Identity, PublicKey
from mitai.ledger.tree import EMPTY_ROOT, HASH_BYTES, MAX_SIZE

ED25519 = 0x01
COSIGNATURE = 0x04
MAX_NOTE_BYTES = 128 << 10
MAX_SIGNATURES = 64
MAX_NAME_CHARACTERS = 256

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes  # 4 bytes
    signature: bytes

    def line(self) -> str:
        """Return the line as it stands in a note."""
        return f"— {self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True)
class Note:
    """A parsed note; nothing in it is trusted yet."""

    text: str  # ends with a newline
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()


@dataclass(frozen=True)
class VerifierKey:
    """Who may sign: a name, a signature type and an Ed25519 key."""

    name: str
    kind: int
    public: PublicKey

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name ‖ newline ‖ type ‖ key)."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public.raw).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.kind]) + self.public.raw)}"


@dataclass(frozen=True)
class Cosignature:
    """A witness saw this checkpoint, consistent with all that it saw before."""

    witness: str
    time_s: int  # POSIX


@dataclass(frozen=True)
class Checkpoint:
    """What a log says about itself: its tree's size and root."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
    cosignatures: tuple[Cosignature, ...] = ()


def vkey(origin: str, public_key: PublicKey, *, kind: int = ED25519) -> str:
    """Return the signed-note verifier key; `kind=COSIGNATURE` for a witness."""
    return str(VerifierKey(_checked_name(origin), kind, public_key))


def parse_vkey(text: str) -> VerifierKey:
    """Parse a verifier key; raise `ParseError` unless it is an Ed25519 key of one of the two known types."""
    name, plus, rest = text.partition("+")
    key_id, plus2, encoded = rest.partition("+")
    if not plus or not plus2:
        raise ParseError("ledger.vkey-malformed", "a verifier key is NAME+HASH+KEY")
    raw = decode_base64(encoded, "ledger.vkey-malformed")
    if len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE):
        raise ParseError("ledger.vkey-malformed", "only Ed25519 keys of type 1 (notes) and 4 (cosignatures) are known")
    key = VerifierKey(_checked_name(name), raw[0], PublicKey(raw[1:]))
    if key.key_id.hex() != key_id:
        raise ParseError("ledger.vkey-malformed", "the key id does not fit the key")
    return key


def parse_note(data: bytes) -> Note:
    """Parse a signed note; raise `ParseError` on anything else, above 128 KiB or with more than 64 signatures."""
    if len(data) > MAX_NOTE_BYTES:
        raise _malformed(f"a note of {len(data)} bytes is above the limit of {MAX_NOTE_BYTES}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _malformed("a note is UTF-8") from error
    if _CONTROL.search(text):
        raise _malformed("a note holds no control characters")
    body, blank, tail = text.rpartition("\n\n")
    if not blank or not body or not tail.endswith("\n"):
        raise _malformed("a note is a text, an empty line and signature lines")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise _malformed(f"{len(lines)} signatures are above the limit of {MAX_SIGNATURES}")
    return Note(body + "\n", tuple(_parse_signature(line) for line in lines))


def parse_signatures(data: bytes) -> tuple[NoteSignature, ...]:
    """Parse signature lines on their own, as a witness answers them."""
    note = parse_note(b"-\n\n" + data)
    if note.text != "-\n":
        raise _malformed("there is something between the signature lines")
    return note.signatures


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse a checkpoint's text (unverified); raise `ParseError` on anything else."""
    origin, *rest = text.removesuffix("\n").split("\n") if text.endswith("\n") else [""]
    if not origin or len(rest) < 2 or not all(rest):
        raise ParseError("ledger.checkpoint-malformed", "a checkpoint is an origin, a size and a root, a line each")
    size = parse_decimal(rest[0], "ledger.checkpoint-malformed")
    root = decode_base64(rest[1], "ledger.checkpoint-malformed")
    if len(root) != HASH_BYTES or size > MAX_SIZE:
        raise ParseError("ledger.checkpoint-malformed", "a checkpoint's root has 32 bytes and its size is below 2**62")
    return Checkpoint(origin, size, root, tuple(rest[2:]))


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """Return the text of a checkpoint, ready to be signed."""
    return f"{_checked_name(origin)}\n{size}\n{encode_base64(root)}\n"


def sign_checkpoint(origin: str, size: int, root: bytes, signer: Identity) -> bytes:
    """Return a signed checkpoint; the key's name is the origin."""
    text = checkpoint_text(origin, size, root)
    key = VerifierKey(origin, ED25519, signer.public)
    return Note(text, (NoteSignature(origin, key.key_id, signer.sign_bytes(text.encode())),)).encode()


def cosign(text: str, name: str, signer: Identity, time_s: int) -> NoteSignature:
    """Return a witness's cosignature/v1 over a checkpoint's text; the caller has checked its consistency."""
    key = VerifierKey(_checked_name(name), COSIGNATURE, signer.public)
    return NoteSignature(name, key.key_id, time_s.to_bytes(8) + signer.sign_bytes(_cosigned_message(text, time_s)))


def verify_checkpoint(data: bytes, log: str, witnesses: Sequence[str] = (), threshold: int = 0) -> Checkpoint:
    """Return what the log with verifier key `log` signed, cosigned by at least `threshold` of `witnesses`.

    Args:
        data: The signed note.
        log: The log's verifier key; its name is the origin that is expected.
        witnesses: Verifier keys of trusted witnesses (type 4).
        threshold: How many different witnesses must have cosigned.

    Raises:
        ParseError: The bytes are not a note, or its text is not a checkpoint.
        LedgerError: A signature is missing or wrong, or the origin is another's.
    """
    note, key = parse_note(data), parse_vkey(log)
    # 1. the log's own signature
    if key.kind != ED25519:
        raise LedgerError("ledger.vkey-type", "a log's verifier key has type 1", step="log key")
    if not _signed(note, key):
        raise LedgerError(
            "ledger.checkpoint-unsigned", f"the log {key.name!r} did not sign this checkpoint", step="log key"
        )
    # 2. it is this log's checkpoint, and an empty tree has the empty root
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != key.name:
        raise LedgerError("ledger.origin-mismatch", f"the checkpoint is not of the log {key.name!r}", step="origin")
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise LedgerError("ledger.root-invalid", "an empty log has one root only", step="root")
    # 3. the witnesses, each key counted once
    cosignatures = _cosignatures(note, witnesses)
    if len(cosignatures) < threshold:
        raise LedgerError(
            "ledger.witnesses-missing",
            f"{len(cosignatures)} trusted witnesses cosigned, {threshold} must",
            step="witnesses",
            hint="fetch a checkpoint with more cosignatures, or ask the log's operator",
        )
    return replace(checkpoint, cosignatures=tuple(cosignatures.values()))


def encode_base64(data: bytes) -> str:
    """Return standard base64."""
    return base64.b64encode(data).decode()


def decode_base64(text: str, code: str) -> bytes:
    """Decode standard base64 in its one canonical spelling; raise `ParseError` with `code` otherwise."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ParseError(code, "these characters are not base64") from error
    if encode_base64(data) != text:
        raise ParseError(code, "base64 has one spelling, and this is not it")
    return data


def parse_decimal(text: str, code: str) -> int:
    """Parse a decimal without sign or leading zeros; raise `ParseError` with `code` otherwise."""
    if not _DECIMAL.fullmatch(text):
        raise ParseError(code, "a number is written in decimal, without leading zeros")
    return int(text)


def _cosignatures(note: Note, witnesses: Sequence[str]) -> dict[PublicKey, Cosignature]:
    found = {}
    for key in map(parse_vkey, witnesses):
        if key.kind != COSIGNATURE:
            raise LedgerError("ledger.vkey-type", "a witness's verifier key has type 4", step="witnesses")
        for signature in _by(note, key):
            time_s = int.from_bytes(signature[:8])
            if len(signature) != 72 or time_s >> 63:
                raise _bad_signature(key)
            _check(key, _cosigned_message(note.text, time_s), signature[8:])
            found[key.public] = Cosignature(key.name, time_s)
    return found


def _signed(note: Note, key: VerifierKey) -> bool:
    """Tell whether `key` signed the note; raise if a signature that claims to be its does not verify."""
    signatures = _by(note, key)
    for signature in signatures:
        _check(key, note.text.encode(), signature)
    return bool(signatures)


def _by(note: Note, key: VerifierKey) -> list[bytes]:
    return [found.signature for found in note.signatures if (found.name, found.key_id) == (key.name, key.key_id)]


def _check(key: VerifierKey, message: bytes, signature: bytes) -> None:
    if not key.public.signed(message, signature):
        raise _bad_signature(key)


def _bad_signature(key: VerifierKey) -> LedgerError:
    return LedgerError(
        "ledger.signature-invalid",
        f"the signature in the name of {key.name!r} does not verify",
        step="signature",
        hint="the note was changed or forged: do not trust it",
    )


def _cosigned_message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _parse_signature(line: str) -> NoteSignature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    raw = decode_base64(encoded, "ledger.note-malformed")
    if dash != "—" or len(raw) < 5:
        raise _malformed("a signature line is a dash, a name and a signature")
    return NoteSignature(_checked_name(name), raw[:4], raw[4:])


def _checked_name(name: str) -> str:
    spoiled = "+" in name or any(character.isspace() for character in name) or _CONTROL.search(name)
    if not name or len(name) > MAX_NAME_CHARACTERS or spoiled:
        raise _malformed("a key's name has 1 to 256 characters, none of them a space, a plus or a control character")
    return name


def _malformed(why: str) -> ParseError:
    return ParseError("ledger.note-malformed", why)
