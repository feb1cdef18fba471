"""Fixtures of notes, entries, receipts and published logs."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import rfc8785
from fixtures_lab import Fixtures

from mitai.identity import Identity, PublicKey
from mitai.ledger import Log, MemoryStore, TileReader, leaf_hash, verify_checkpoint, verify_log, vkey
from mitai.ledger import assurance as tiers
from mitai.ledger import entry as entries
from mitai.ledger.note import COSIGNATURE, ED25519, Note, NoteSignature, VerifierKey, cosign, parse_note
from mitai.ledger.receipt import (
    ASSURED_LABEL,
    CapsuleRef,
    Receipt,
    ReceiptBundle,
    Usage,
    receipt_sha256,
    verify_assured,
    verify_receipt,
)
from mitai.ledger.tiles import tile_path
from mitai.ledger.tree import tile_width

_SAMPLE = tiers.Sample(one_in=20, commitment="05" * 32)
_ASSURANCES = (
    tiers.CommitAndAudit(identity="06" * 32, trace="07" * 32, scheme=1),
    tiers.Fingerprint(digest="08" * 32, block_tokens=32, top_k=128),
    tiers.Proof(identity="09" * 32, promise="sampled", sample=_SAMPLE),
    tiers.ReExecution(sample=_SAMPLE),
)


def ledger() -> None:
    """Notes, entries, receipts and tiles."""
    fixtures = Fixtures()
    operator, replica, witness, other = (Identity.generate() for _ in range(4))
    log = Log(MemoryStore(), operator, "log.example/é")
    log.append([b"entry %d" % number for number in range(300)])
    receipt = Receipt(
        exchange="exchange-1",
        request_sha256="01" * 32,
        response_sha256="02" * 32,
        model="a model, é",
        capsules=(CapsuleRef(id="model-1", manifest_sha256="cd" * 32),),
        policies=("03" * 32,),
        usage=Usage(prompt_tokens=7, completion_tokens=2**53 - 1),
        evidence_sha256="04" * 32,
        started="2026-06-01T12:00:00Z",
        finished="2026-06-01T12:00:01Z",
    )
    checkpoint, bundle = _kept(log, receipt, replica, (witness, other))
    fixtures.base("note", checkpoint)
    fixtures.base("bundle", bundle.encode())
    assured = msgspec.structs.replace(receipt, v=ASSURED_LABEL, assurances=_ASSURANCES)
    unattested = msgspec.structs.replace(assured, evidence_sha256=None)
    for name, newer in (("assured", assured), ("unattested", unattested)):
        _, kept = _kept(Log(MemoryStore(), operator, "log.example/é"), newer, replica, (witness, other))
        fixtures.base(f"bundle {name}", kept.encode())
    witnesses = [vkey("w.example", witness.public, kind=COSIGNATURE), vkey("o.example", other.public, kind=COSIGNATURE)]
    _notes(fixtures, log, operator, witnesses)
    _entries(fixtures, bundle.entry)
    _receipts(fixtures, log, replica, witnesses, bundle)
    _assured(fixtures, replica, unattested)
    _tiles(fixtures, log, checkpoint)
    fixtures.write("ledger.json")


def _kept(
    log: Log, receipt: Receipt, replica: Identity, witnesses: tuple[Identity, Identity]
) -> tuple[bytes, ReceiptBundle]:
    """Log a receipt; return the cosigned checkpoint, and what a client keeps."""
    envelope = receipt.sign(replica)
    entry = entries.ReceiptEntry(
        time="2026-06-01T12:00:02Z", exchange=receipt.exchange, receipt_sha256=receipt_sha256(envelope)
    ).encode()
    (index,) = log.append([entry])
    note = parse_note(log.checkpoint())
    first, second = witnesses
    lines = (cosign(note.text, "w.example", first, 7), cosign(note.text, "o.example", second, 8))
    checkpoint = Note(note.text, (*note.signatures, *lines)).encode()
    proof = log.inclusion_proof(index)
    return checkpoint, ReceiptBundle(
        envelope=envelope, entry=entry, index=index, proof=proof, checkpoint=checkpoint.decode()
    )


def _notes(fixtures: Fixtures, log: Log, operator: Identity, witnesses: Sequence[str]) -> None:
    def setting(name: str, key: str, trusted: Sequence[str] = (), threshold: int = 0) -> Callable[[bytes], str]:
        fixtures.settings[f"note {name}"] = {"vkey": key, "witnesses": list(trusted), "threshold": threshold}

        def check(data: bytes) -> str:
            found = verify_checkpoint(data, key, trusted, threshold)
            return json.dumps(
                [str(found.size), found.root.hex(), [c.time_s for c in found.cosignatures]], separators=(",", ":")
            )

        return check

    plain = setting("plain", log.vkey, witnesses, 2)
    fixtures.mutate("note", "note", "note plain", 250, plain)
    note = base64.b64decode(fixtures.bases["note"])
    for edit in (
        (0, 0, b"\n"),
        (len(note), 0, b"\n"),
        (len(note) - 1, 1, b""),
        (len(note), 0, "— x.example AAAAAAAA\n".encode()),
        (len(note), 0, "— x.example AAAAAAB\n".encode()),
        (len(note), 0, b"- x.example AAAAAAAA\n"),
        (len(note), 0, "— x.example  AAAAAAAA\n".encode()),
        (len(note), 0, "— x\u2003y AAAAAAAA\n".encode()),
        (len(note), 0, "— x\ufeffy AAAAAAAA\n".encode()),
        (len(note), 0, "— x\u0085y AAAAAAAA\n".encode()),
        (len(note), 0, "— x\x1fy AAAAAAAA\n".encode()),
        (len(note), 0, "— x+y AAAAAAAA\n".encode()),
        (len(note), 0, ("— " + "é" * 256 + " AAAAAAAA\n").encode()),
        (len(note), 0, ("— " + "é" * 257 + " AAAAAAAA\n").encode()),
        (len(note), 0, "— x.example AAAAAAAA\n".encode() * 61),
        (len(note), 0, "— x.example AAAAAAAA\n".encode() * 62),
    ):
        fixtures.add("note", "note", "note plain", [edit], plain)
    for name, key, trusted, threshold in (
        ("no witnesses", log.vkey, [], 0),
        ("too few", log.vkey, witnesses[:1], 2),
        ("the same twice", log.vkey, [*witnesses[:1], *witnesses[:1]], 2),
        ("log as witness", log.vkey, [log.vkey], 1),
        ("witness as log", witnesses[0], [], 0),
        ("another log", vkey("log.example/é", Identity.generate().public), [], 0),
        ("another name", vkey("log.example", operator.public), [], 0),
        ("bad witness", log.vkey, ["x"], 0),
        ("no key", "", [], 0),
        ("key id", log.vkey.replace("+", "+0", 1), [], 0),
        ("key type", "log.example+00000000+" + base64.b64encode(b"\2" + bytes(32)).decode(), [], 0),
        ("small order", "log.example+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode(), [], 0),
        ("key name", "log example+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode(), [], 0),
    ):
        fixtures.add("note", "note", f"note {name}", [], setting(name, key, trusted, threshold))
    signer = Identity.generate()
    for name, text in (
        ("empty", "l\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"),
        ("empty with a root", "l\n0\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("extended", "l\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nmore\neven more\n"),
        ("with an empty line", "l\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nmore\n"),
        ("zero", "l\n05\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("huge", "l\n4611686018427387904\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("too huge", "l\n4611686018427387905\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("negative", "l\n-5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("short root", "l\n5\nAAAA\n"),
        ("odd root", "l\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n"),
        ("no root", "l\n5\n"),
        ("other origin", "m\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
    ):
        line = NoteSignature("l", VerifierKey("l", ED25519, signer.public).key_id, signer.sign_bytes(text.encode()))
        fixtures.base(f"note {name}", Note(text, (line,)).encode())
        fixtures.add("note", f"note {name}", "note of l", [], setting("of l", vkey("l", signer.public)))


def _entries(fixtures: Fixtures, logged: bytes) -> None:
    def check(data: bytes) -> str:
        return str(entries.decode(data).time)

    digest, time = "0" * 64, "2026-01-02T03:04:05Z"
    for entry in (
        entries.PartyRegistered(time=time, party=digest, name="a\u2028b é 😀 \\ \" /"),
        entries.CapsuleRegistered(time=time, capsule="c", kind="model", name="n", owners=(), manifest_sha256=digest),
        entries.PolicySet(time=time, capsule="c", owner=digest, policy_sha256=digest, version=2**53 - 1),
        entries.Release(
            time=time, release="r", capsules=("c",), workload="w", purpose="p", evidence_sha256=digest,
            recipient_sha256=digest, policies=(digest,), simulated=True, reasons=("because",),
        ),
        entries.Denial(time=time, capsules=(), code="x.y", reasons=()),
        entries.Deployment(time=time, deployment="d", capsules=(), workload="w", state="serving"),
        entries.Revocation(time=time, owner=digest, subject="capsule:model-1", reason="ended"),
        entries.Derivation(
            time=time, capsule="c", kind="adapter", name="n", owners=(digest,), manifest_sha256=digest,
            parents=("a", "b"), workload="w", signer=digest, statement_sha256=digest, evidence_sha256=digest,
            simulated=True,
        ),
        entries.CapsuleResealed(time=time, capsule="c", owner=digest, manifest_sha256=digest, previous_sha256=digest),
        entries.RootKey(time=time, event="rotated", epoch=1),
        entries.RecoverySet(time=time, recovery_sha256=digest, version=1, threshold=2, members=(digest,)),
        entries.DelegatesSet(
            time=time, owner=digest, delegates=(digest,), threshold=1, version=1, command_sha256=digest
        ),
        entries.ExportRequested(
            time=time, request=digest, capsule="c", manifest_sha256=digest, owner=digest, recipient=digest,
            recipient_sha256=digest, not_after="2026-02-03T04:05:06Z",
        ),
        entries.Approval(time=time, owner=digest, request="r", approved=False, subject_sha256=digest),
        entries.Export(time=time, export="e", capsule="c", owners=(digest,), approvals=(), recipient=digest),
    ):  # fmt: skip
        name = type(entry).__name__
        fixtures.base(name, entry.encode())
        fixtures.mutate("entry", name, "", 25, check)
    fixtures.base("entry", logged)
    fixtures.mutate("entry", "entry", "", 100, check)
    fixtures.replace(
        "entry",
        "entry",
        "",
        [
            (b'"type":"receipt"', b'"type":"other"'),
            (b'"type":"receipt"', b'"type":"constructor"'),
            (b'"type":"receipt",', b""),
            (b'"type":"receipt"', b'"type":"receipt","type":"receipt"'),
            (b"2026-06-01T12", b"2026-02-30T12"),
            (b"2026-06-01T12", b"0000-06-01T12"),
            (b"2026-06-01T12", b"2026-06-01T24"),
            (b"2026-06-01T12", b"0001-06-01T12"),
            (b"exchange-1", b"exchange\\u002d1"),
            (b'{"', b'{ "'),
        ],
        check,
    )
    fixtures.replace(
        "entry", "PolicySet", "", [(b"9007199254740991", b"9007199254740992"), (b"9007199254740991", b"-0")], check
    )


def _receipts(fixtures: Fixtures, log: Log, replica: Identity, witnesses: Sequence[str], bundle: ReceiptBundle) -> None:
    def setting(name: str, **changes: object) -> Callable[[bytes], str]:
        options: dict[str, Any] = {
            "receipt_key": replica.public.raw.hex(),
            "ledger_vkey": log.vkey,
            "request_sha256": "01" * 32,
            "response_sha256": "02" * 32,
            "witnesses": list(witnesses),
            "threshold": 2,
        } | changes
        fixtures.settings[f"receipt {name}"] = options

        def check(data: bytes) -> str:
            key = PublicKey(bytes.fromhex(str(options["receipt_key"])))
            return verify_receipt(ReceiptBundle.decode(data), **options | {"receipt_key": key}).exchange

        return check

    plain = setting("plain")
    fixtures.mutate("receipt", "bundle", "receipt plain", 250, plain)
    for name, changes in (
        ("of unknown bytes", {"request_sha256": None, "response_sha256": None}),
        ("of another request", {"request_sha256": "00" * 32}),
        ("of another answer", {"response_sha256": "00" * 32}),
        ("of a stranger", {"receipt_key": Identity.generate().public.raw.hex()}),
        ("of a small key", {"receipt_key": "ec" + "ff" * 30 + "7f"}),
        ("of no point", {"receipt_key": "02" + "00" * 31}),
        ("of another log", {"ledger_vkey": vkey("log.example/é", Identity.generate().public)}),
        ("of many witnesses", {"threshold": 3}),
    ):
        fixtures.add("receipt", "bundle", f"receipt {name}", [], setting(name, **changes))
    for name in ("assured", "unattested"):
        fixtures.add("receipt", f"bundle {name}", "receipt plain", [], plain)
    change = msgspec.structs.replace
    for name, changed in (
        ("index", change(bundle, index=299)),
        ("beyond", change(bundle, index=301)),
        ("short proof", change(bundle, proof=bundle.proof[:-1])),
        ("long proof", change(bundle, proof=(*bundle.proof, bytes(32)))),
        ("other entry", change(bundle, entry=bundle.entry.replace(b"exchange-1", b"exchange-2"))),
        ("no entry", change(bundle, entry=b"{}")),
        ("other receipt", change(bundle, envelope=bundle.envelope.replace(b'{"', b'{ "', 1))),
        ("no receipt", change(bundle, envelope=replica.sign(b"{}", "application/vnd.mitai.receipt+json").encode())),
        ("other type", change(bundle, envelope=replica.sign(b"{}", "text/plain").encode())),
    ):
        fixtures.base(f"bundle {name}", changed.encode())
        fixtures.add("receipt", f"bundle {name}", "receipt plain", [], plain)


def _assured(fixtures: Fixtures, replica: Identity, receipt: Receipt) -> None:
    """Receipts of a service without hardware."""

    def setting(tier: type[tiers.Assurance], **changes: str) -> tuple[str, Callable[[bytes], str]]:
        name = f"assured {tier.__struct_config__.tag} {' '.join(changes)}".strip()
        options: dict[str, Any] = {
            "receipt_key": replica.public.raw.hex(),
            "tier": tier.__struct_config__.tag,
        } | changes
        fixtures.settings[name] = options

        def check(data: bytes) -> str:
            options_here = changes | {"receipt_key": PublicKey(bytes.fromhex(options["receipt_key"]))}
            found, assurance = verify_assured(data, tier, **options_here)
            return json.dumps([found.exchange, found.evidence_sha256, tiers.tier(assurance)], separators=(",", ":"))

        return name, check

    base = "an unattested receipt"
    fixtures.base(base, receipt.sign(replica))
    name, check = setting(tiers.Proof)
    fixtures.mutate("assured", base, name, 250, check)
    for tier in (tiers.CommitAndAudit, tiers.Fingerprint, tiers.ReExecution):
        other, opened = setting(tier)
        fixtures.add("assured", base, other, [], opened)
    for changes in (
        {"request_sha256": "01" * 32, "response_sha256": "02" * 32},
        {"request_sha256": "00" * 32},
        {"response_sha256": "00" * 32},
        {"receipt_key": Identity.generate().public.raw.hex()},
    ):
        other, opened = setting(tiers.Proof, **changes)
        fixtures.add("assured", base, other, [], opened)
    payload = rfc8785.dumps(msgspec.to_builtins(receipt))
    for number, (old, new) in enumerate(_SPELLINGS):
        at = payload.index(old)
        spelled = payload[:at] + new + payload[at + len(old) :]
        fixtures.base(f"{base} {number}", replica.sign(spelled, receipt.payload_type).encode())
        fixtures.add("assured", f"{base} {number}", name, [], check)


_PROOF = b'{"identity":"' + b"09" * 32 + b'","promise":"sampled","sample":{"commitment":"' + b"05" * 32
_SPELLINGS = (
    (b"receipt v2", b"receipt v1"),
    (b"receipt v2", b"receipt v3"),
    (b'"evidence_sha256":null,', b""),
    (b'"evidence_sha256":null', b'"evidence_sha256":""'),
    (b'"v":"mitai receipt v2"', b'"v":"mitai receipt v2","w":1'),
    (b"commit-and-audit", b"hardware"),
    (b"commit-and-audit", b"constructor"),
    (b"commit-and-audit", b"fingerprint"),
    (b'"tier":"commit-and-audit",', b""),
    (b'"sampled"', b'"follows"'),
    (b'"sampled"', b'"sometimes"'),
    (b'"one_in":20', b'"one_in":0'),
    (b'"one_in":20', b'"one_in":4294967296'),
    (b'"one_in":20', b'"one_in":4294967297'),
    (b'"one_in":20', b'"one_in":20.0'),
    (b'"scheme":1', b'"scheme":65536'),
    (b'"top_k":128', b'"top_k":0'),
    (b'"block_tokens":32', b'"block_tokens":true'),
    (_PROOF + b'","one_in":20}', _PROOF[: -len(b'{"commitment":"' + b"05" * 32)] + b"null"),
    (_PROOF, b'{"identity":"' + b"0A" * 32 + _PROOF[len(b'{"identity":"') + 64 :]),
)


def _tiles(fixtures: Fixtures, log: Log, checkpoint: bytes) -> None:
    """A published log with all its files, and proofs out of it."""
    log.publish(checkpoint)
    paths = ["checkpoint"]
    for level, index in ((-1, 0), (-1, 1), (0, 0), (0, 1), (1, 0)):
        paths.append(tile_path(level, index, tile_width(max(level, 0), index, log.size)))
    files = {path: log.resource(path) for path in paths}
    reader = TileReader(files.get, verify_checkpoint(checkpoint, log.vkey))
    verify_log(files.get, log.vkey)
    dice = random.Random("proofs")
    proofs = []
    for _ in range(40):
        size = dice.randrange(1, log.size + 1)
        index, old = dice.randrange(size), dice.randrange(size + 1)
        hashes = [*reader.inclusion_proof(index, size), *reader.consistency_proof(old, size), reader.root(size)]
        proofs.append([size, index, old, hashlib.sha256(b"".join(hashes)).hexdigest()])
    fixtures.settings["log"] = {
        "vkey": log.vkey,
        "files": {path: base64.b64encode(data or b"").decode() for path, data in files.items()},
        "proofs": proofs,
        "leaf": leaf_hash(b"entry 7").hex(),
    }
