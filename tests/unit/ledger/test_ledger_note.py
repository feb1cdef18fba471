"""Signed notes, verifier keys, checkpoints and cosignatures."""

import json
from pathlib import Path

import pytest

from mitai.errors import LedgerError, ParseError
from mitai.identity import Identity
from mitai.ledger.note import (
    COSIGNATURE,
    MAX_NOTE_BYTES,
    Note,
    NoteSignature,
    VerifierKey,
    cosign,
    encode_base64,
    parse_checkpoint,
    parse_note,
    parse_signatures,
    parse_vkey,
    sign_checkpoint,
    verify_checkpoint,
    vkey,
)
from mitai.ledger.tree import EMPTY_ROOT
from mitai.ledger.witness import AddCheckpoint

FOLDER = Path(__file__).parents[2] / "vectors/ledger"
NOTES = json.loads((FOLDER / "notes.json").read_text())
EXAMPLES = json.loads((FOLDER / "checkpoints.json").read_text())
LOG = Identity.from_seed(b"l" * 32)
KEY = vkey("log.example", LOG.public)
ROOT = bytes(range(32))
CHECKPOINT = sign_checkpoint("log.example", 7, ROOT, LOG)
WITNESSES = {name: Identity.from_seed(name.encode() * 32) for name in "wxy"}
WITNESS_KEYS = {name: vkey(f"{name}.example", key.public, kind=COSIGNATURE) for name, key in WITNESSES.items()}


def cosigned(*names, note=CHECKPOINT, time_s=1_700_000_000):
    parsed = parse_note(note)
    lines = [cosign(parsed.text, f"{name}.example", WITNESSES[name], time_s) for name in names]
    return Note(parsed.text, (*parsed.signatures, *lines)).encode()


@pytest.mark.parametrize("vector", NOTES, ids=lambda vector: vector["vkey"].partition("+")[0])
def test_published_notes_verify(vector):
    key, note = parse_vkey(vector["vkey"]), parse_note(vector["note"].encode())
    assert str(key) == vector["vkey"]
    assert note.encode() == vector["note"].encode()
    (signature,) = note.signatures
    assert (signature.name, signature.key_id) == (key.name, key.key_id)
    key.public.verify(note.text.encode(), signature.signature)


def test_published_checkpoints_parse():
    for name in ("checkpoint", "cosigned"):
        note = parse_note(EXAMPLES[name].encode())
        found = parse_checkpoint(note.text)
        assert (found.origin, found.size, len(found.root)) == ("example.com/behind-the-sofa", 20852163, 32)
        assert note.encode() == EXAMPLES[name].encode()
    assert note.signatures[1].name == "witness.example.com/w1"
    assert int.from_bytes(note.signatures[1].signature[:8]) == 1679315147  # the time in tlog-cosignature's example
    request = AddCheckpoint.decode(EXAMPLES["request"].encode())
    assert (request.old, len(request.proof)) == (20852014, 4)
    assert request.encode() == EXAMPLES["request"].encode()
    assert [line.name for line in parse_signatures(EXAMPLES["answer"].encode())] == ["witness.example/w1"] * 2 + [
        "witness.example/w2"
    ]


def test_a_checkpoint_verifies_and_says_what_was_signed():
    found = verify_checkpoint(CHECKPOINT, KEY)
    assert (found.origin, found.size, found.root, found.extensions, found.cosignatures) == (
        "log.example",
        7,
        ROOT,
        (),
        (),
    )


def test_every_changed_byte_of_a_checkpoint_is_refused():
    for position in range(len(CHECKPOINT)):
        for flip in (1, 0x20, 0x80):
            changed = bytearray(CHECKPOINT)
            changed[position] ^= flip
            with pytest.raises((LedgerError, ParseError)):
                verify_checkpoint(bytes(changed), KEY)


def test_unknown_keys_are_ignored_and_known_ones_must_verify():
    stranger = NoteSignature("log.example", b"abcd", b"x" * 64)
    note = parse_note(CHECKPOINT)
    assert verify_checkpoint(Note(note.text, (stranger, *note.signatures)).encode(), KEY).size == 7
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-unsigned"):
        verify_checkpoint(Note(note.text, (stranger,)).encode(), KEY)
    forged = NoteSignature("log.example", note.signatures[0].key_id, b"x" * 64)
    for signatures in ((forged,), (forged, *note.signatures), (*note.signatures, forged)):
        with pytest.raises(LedgerError, match=r"ledger\.signature-invalid"):
            verify_checkpoint(Note(note.text, signatures).encode(), KEY)


def test_another_logs_name_or_key_is_refused():
    other = Identity.from_seed(b"o" * 32)
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-unsigned"):
        verify_checkpoint(CHECKPOINT, vkey("log.example", other.public))
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-unsigned"):
        verify_checkpoint(CHECKPOINT, vkey("other.example", LOG.public))
    text = parse_note(CHECKPOINT).text
    key = VerifierKey("other.example", 1, LOG.public)
    signed = NoteSignature("other.example", key.key_id, LOG.sign_bytes(text.encode()))
    with pytest.raises(LedgerError, match=r"ledger\.origin-mismatch"):
        verify_checkpoint(Note(text, (signed,)).encode(), str(key))


def test_an_empty_log_has_one_root():
    assert verify_checkpoint(sign_checkpoint("log.example", 0, EMPTY_ROOT, LOG), KEY).size == 0
    with pytest.raises(LedgerError, match=r"ledger\.root-invalid"):
        verify_checkpoint(sign_checkpoint("log.example", 0, ROOT, LOG), KEY)


def test_witnesses_are_counted_once_each():
    keys = [WITNESS_KEYS["w"], WITNESS_KEYS["x"]]
    found = verify_checkpoint(cosigned("w", "x"), KEY, keys, 2)
    assert [(one.witness, one.time_s) for one in found.cosignatures] == [
        ("w.example", 1_700_000_000),
        ("x.example", 1_700_000_000),
    ]
    for note, witnesses in (
        (cosigned("w"), keys),
        (cosigned("w", "w"), keys),
        (cosigned("w", "y"), keys),  # y is not trusted
        (cosigned("w", "x"), [keys[0], keys[0]]),
        (CHECKPOINT, keys),
    ):
        with pytest.raises(LedgerError, match=r"ledger\.witnesses-missing"):
            verify_checkpoint(note, KEY, witnesses, 2)


def test_one_key_under_two_names_is_one_witness():
    alias = vkey("alias.example", WITNESSES["w"].public, kind=COSIGNATURE)
    note = parse_note(cosigned("w"))
    line = cosign(note.text, "alias.example", WITNESSES["w"], 5)
    both = Note(note.text, (*note.signatures, line)).encode()
    with pytest.raises(LedgerError, match=r"ledger\.witnesses-missing"):
        verify_checkpoint(both, KEY, [WITNESS_KEYS["w"], alias], 2)


def test_cosignatures_cover_time_and_text():
    note = parse_note(cosigned("w"))
    line = note.signatures[1]
    later = (1_700_000_001).to_bytes(8) + line.signature[8:]
    for spoiled in (later, line.signature[:-1], b"\x80" + line.signature[1:], line.signature[:8]):
        changed = Note(note.text, (note.signatures[0], NoteSignature(line.name, line.key_id, spoiled)))
        with pytest.raises(LedgerError, match=r"ledger\.signature-invalid"):
            verify_checkpoint(changed.encode(), KEY, [WITNESS_KEYS["w"]], 1)
    other = parse_note(sign_checkpoint("log.example", 8, ROOT, LOG))
    moved = Note(other.text, (*other.signatures, line))
    with pytest.raises(LedgerError, match=r"ledger\.signature-invalid"):
        verify_checkpoint(moved.encode(), KEY, [WITNESS_KEYS["w"]], 1)


def test_key_types_do_not_stand_in_for_each_other():
    with pytest.raises(LedgerError, match=r"ledger\.vkey-type"):
        verify_checkpoint(CHECKPOINT, WITNESS_KEYS["w"])
    with pytest.raises(LedgerError, match=r"ledger\.vkey-type"):
        verify_checkpoint(CHECKPOINT, KEY, [KEY], 1)
    # a log signature under the witness type, and the other way round
    text = parse_note(CHECKPOINT).text
    as_witness = NoteSignature(
        "log.example", VerifierKey("log.example", 4, LOG.public).key_id, LOG.sign_bytes(text.encode())
    )
    with pytest.raises(LedgerError, match=r"ledger\.checkpoint-unsigned"):
        verify_checkpoint(Note(text, (as_witness,)).encode(), KEY)


def test_extension_lines_are_kept():
    text = "log.example\n7\n" + encode_base64(ROOT) + "\nmore\n"
    key = parse_vkey(KEY)
    note = Note(text, (NoteSignature(key.name, key.key_id, LOG.sign_bytes(text.encode())),))
    assert verify_checkpoint(note.encode(), KEY).extensions == ("more",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        b"\n\n\xe2\x80\x94 a YWJjZGVm\n",
        b"text\n\n\xe2\x80\x94 a YWJjZGVm",  # no newline at the end
        b"text\n\n- a YWJjZGVm\n",
        b"text\n\n\xe2\x80\x94 a\n",
        b"text\n\n\xe2\x80\x94  YWJjZGVm\n",
        b"text\n\n\xe2\x80\x94 a YWJjZGVm \n",
        b"text\n\n\xe2\x80\x94 a+b YWJjZGVm\n",
        b"text\n\n\xe2\x80\x94 a\xc2\xa0b YWJjZGVm\n",  # a no-break space in a name
        b"text\n\n\xe2\x80\x94 a YWJjZA==\n",  # a key id and no signature
        b"text\n\n\xe2\x80\x94 a YWJjZGVmZ\n",
        b"text\n\n\xe2\x80\x94 a YWJjZGV=\n",  # stray bits: not canonical
        b"text\n\n\xe2\x80\x94 a YWJj-GVm\n",
        b"te\rxt\n\n\xe2\x80\x94 a YWJjZGVm\n",
        b"te\x00xt\n\n\xe2\x80\x94 a YWJjZGVm\n",
        b"te\xffxt\n\n\xe2\x80\x94 a YWJjZGVm\n",
        b"text\n\n" + b"\xe2\x80\x94 a YWJjZGVm\n" * 65,
        b"text\n\n\xe2\x80\x94 " + b"a" * 257 + b" YWJjZGVm\n",
        b"t" * MAX_NOTE_BYTES + b"\n\n\xe2\x80\x94 a YWJjZGVm\n",
    ],
)
def test_malformed_notes(data):
    with pytest.raises(ParseError, match=r"ledger\.note-malformed"):
        parse_note(data)


def test_the_last_empty_line_parts_text_and_signatures():
    note = parse_note(b"a\n\nb\n\n\xe2\x80\x94 a YWJjZGVm\n" + b"")
    assert (note.text, len(note.signatures)) == ("a\n\nb\n", 1)
    assert len(parse_note(b"text\n\n" + b"\xe2\x80\x94 a YWJjZGVm\n" * 64).signatures) == 64
    with pytest.raises(ParseError):
        parse_signatures(b"x\n\n\xe2\x80\x94 a YWJjZGVm\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n",
        "a\n1\n",
        "\n1\n" + encode_base64(ROOT) + "\n",
        "a\n01\n" + encode_base64(ROOT) + "\n",
        "a\n-1\n" + encode_base64(ROOT) + "\n",
        "a\n+1\n" + encode_base64(ROOT) + "\n",
        "a\n１\n" + encode_base64(ROOT) + "\n",  # a digit, but not an ASCII one
        "a\n1\n" + encode_base64(ROOT),
        "a\n1\n" + encode_base64(ROOT[:-1]) + "\n",
        "a\n1\n" + encode_base64(ROOT)[:-1] + "\n",
        f"a\n{(1 << 62) + 1}\n" + encode_base64(ROOT) + "\n",
        "a\n1\n" + encode_base64(ROOT) + "\n\nx\n",
    ],
)
def test_malformed_checkpoints(text):
    with pytest.raises(ParseError, match=r"ledger\.checkpoint-malformed"):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log.example",
        KEY.rpartition("+")[0],
        KEY.replace("log.example", "log.other"),
        KEY.replace("log.example", "log example"),
        KEY[:-4],
        KEY + "A",
        KEY + "+x",
        KEY.upper(),
        "a+00000000+" + encode_base64(b"\x02" + bytes(32)),
        "a+00000000+" + encode_base64(b"\x01" + bytes(31)),
    ],
)
def test_malformed_vkeys(text):
    with pytest.raises(ParseError, match=r"ledger\.(vkey|note)-malformed"):
        parse_vkey(text)


def test_names_are_checked_before_anything_is_signed():
    for name in ("", "a b", "a+b", "a\nb", "a\tb", "x" * 257):
        with pytest.raises(ParseError):
            sign_checkpoint(name, 0, EMPTY_ROOT, LOG)
        with pytest.raises(ParseError):
            vkey(name, LOG.public)
        with pytest.raises(ParseError):
            cosign("text\n", name, LOG, 0)
