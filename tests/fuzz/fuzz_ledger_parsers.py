"""Fuzz the ledger's parsers: bytes give a value that encodes back to them, or an error of the tree.

Run `python tests/fuzz/fuzz_ledger_parsers.py [libFuzzer options]` with atheris. The first byte picks the parser.
"""

import contextlib
import sys

from mitai.errors import MitaiError
from mitai.identity import Identity
from mitai.ledger.entry import decode
from mitai.ledger.note import parse_checkpoint, parse_note, parse_signatures, parse_vkey, verify_checkpoint, vkey
from mitai.ledger.proof import verify_consistency, verify_inclusion
from mitai.ledger.receipt import Receipt, ReceiptBundle, verify_receipt
from mitai.ledger.tiles import decode_bundle, encode_bundle, parse_tile_path, tile_path
from mitai.ledger.witness import AddCheckpoint, Conflict, read_answer

KEY = Identity.from_seed(bytes(32))
VKEY = vkey("log.example", KEY.public)


def note(data: bytes) -> None:
    parsed = parse_note(data)
    assert parsed.encode() == data
    parse_checkpoint(parsed.text)


def signatures(data: bytes) -> None:
    assert "".join(line.line() for line in parse_signatures(data)).encode() == data


def checkpoint(data: bytes) -> None:
    verify_checkpoint(data, VKEY)
    raise AssertionError("a checkpoint was forged")


def verifier_key(data: bytes) -> None:
    text = data.decode(errors="replace")
    assert str(parse_vkey(text)) == text


def bundle(data: bytes) -> None:
    entries = decode_bundle(data[1:], data[0] if data else 0)
    assert encode_bundle(entries) == data[1:]


def path(data: bytes) -> None:
    text = data.decode(errors="replace")
    if (found := parse_tile_path(text)) is not None:
        assert tile_path(*found) == text


def entry(data: bytes) -> None:
    assert decode(data).encode() == data


def receipt(data: bytes) -> None:
    Receipt.open(data, KEY.public)
    raise AssertionError("a receipt was forged")


def receipt_payload(data: bytes) -> None:
    signed = KEY.sign(data, Receipt.payload_type).encode()
    assert Receipt.open(signed, KEY.public).sign(KEY) == signed


def receipt_bundle(data: bytes) -> None:
    parsed = ReceiptBundle.decode(data)
    assert parsed.encode() == data
    verify_receipt(parsed, receipt_key=KEY.public, ledger_vkey=VKEY)
    raise AssertionError("a receipt bundle was forged")


def witness_request(data: bytes) -> None:
    assert AddCheckpoint.decode(data).encode() == data


def witness_answer(data: bytes) -> None:
    answer = read_answer((200, 409)[data[:1] > b"\x80"], data[1:], b"log.example\n0\n", VKEY, [])
    assert isinstance(answer, Conflict)


def proofs(data: bytes) -> None:
    first, second = int.from_bytes(data[:8]), int.from_bytes(data[8:16])
    hashes = [data[at : at + 32] for at in range(16, len(data), 32)]
    for verify in (
        lambda: verify_inclusion(bytes(32), first, second, hashes, bytes(32)),
        lambda: verify_consistency(first, second, hashes, bytes(32), bytes([1]) * 32),
    ):
        try:
            verify()
        except MitaiError:
            continue
        assert (first, second, hashes) == (0, 1, [])  # a tree of one entry is its own root


PARSERS = (
    note,
    signatures,
    checkpoint,
    verifier_key,
    bundle,
    path,
    entry,
    receipt,
    receipt_bundle,
    witness_request,
    witness_answer,
    proofs,
    receipt_payload,
)


def one_input(data: bytes) -> None:
    """Feed the parser that the first byte picks."""
    with contextlib.suppress(MitaiError):
        PARSERS[data[0] % len(PARSERS) if data else 0](data[1:])


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
