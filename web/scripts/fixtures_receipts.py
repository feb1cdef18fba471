"""Write `receipts.json` for the tests of `@mitai/proof`: receipts of a service, and what Python says of them.

Run from the repository's root: `python web/scripts/fixtures_receipts.py`. The key is of the seed of zeros. Each
entry is `[what it is, envelope (base64), code]`; all are checked for the answer and the terms that stand beside them.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from mitai.errors import MitaiError
from mitai.identity import Envelope, Identity
from mitai.ledger.assurance import CommitAndAudit, Sample
from mitai.ledger.receipt import Receipt
from mitai.proof.sampling import Agreed
from mitai.proof.service.receipts import Said, Terms, made, opened

FILE = Path(__file__).parents[1] / "packages/proof/test/fixtures/receipts.json"
KEY, OTHER = Identity.from_seed(bytes(32)), Identity.from_seed(bytes(31) + b"1")
SAID = Said("chatcmpl-0123456789abcdef01234567", [1, 2, 70000, 3], [9, 2**31 - 1])
TERMS = Terms("tiny", "ab" * 32)
TIMES = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"
AGREED = Agreed(900, bytes(32), "cd" * 32)


def receipts() -> Iterator[tuple[str, bytes]]:
    """Yield one that holds, and others."""
    good = made(SAID, TERMS, *TIMES, bytes(range(32)))
    signed = good.sign(KEY)
    yield "good", signed
    for name, said in (
        ("another id", replace(SAID, id="chatcmpl-0123456789abcdef01234568")),
        ("another prompt", replace(SAID, prompt=[1, 2, 3, 70000])),
        ("another answer", replace(SAID, answer=[9])),
        ("drawn", replace(SAID, agreed=AGREED)),
    ):
        yield name, made(said, TERMS, *TIMES, bytes(range(32))).sign(KEY)
    sample = Sample(one_in=2, commitment="cd" * 32)
    for name, terms in (
        ("another model", replace(TERMS, model="other")),
        ("another identity", replace(TERMS, identity="ac" * 32)),
        ("it follows", replace(TERMS, promise="follows")),
        ("a sample", replace(TERMS, promise="sampled", sample=sample)),
    ):
        yield name, made(SAID, terms, *TIMES, bytes(range(32))).sign(KEY)
    trace, proof = good.assurances if isinstance(good.assurances, tuple) else ()
    for name, other in (("a trace's identity", {"identity": "ac" * 32}), ("a trace's scheme", {"scheme": 2})):
        changed = msgspec.structs.replace(trace, **other)
        yield name, msgspec.structs.replace(good, assurances=(changed, proof)).sign(KEY)
    yield "no proof is owed", msgspec.structs.replace(good, assurances=(trace,)).sign(KEY)
    yield "no root", made(SAID, TERMS, *TIMES).sign(KEY)
    yield "another key", good.sign(OTHER)
    yield "spaces", signed.replace(b'","', b'", "', 1)
    envelope = Envelope.decode(signed)
    yield "no keyid", msgspec.structs.replace(envelope, signatures=(_unnamed(envelope),)).encode()
    twice = envelope.signatures + Envelope.decode(good.sign(OTHER)).signatures
    yield "two signatures", msgspec.structs.replace(envelope, signatures=twice).encode()
    yield "an end", signed[:-2]
    yield "nothing", b""


def _unnamed(envelope: Envelope) -> object:
    return msgspec.structs.replace(envelope.signatures[0], keyid="")


def code(envelope: bytes) -> str:
    """Return what is said of one; a root is wanted, as a client does that has a service's file."""
    try:
        receipt: Receipt = opened(envelope, KEY.public, SAID, TERMS)
    except MitaiError as error:
        return error.code
    return "" if receipt.assurance(CommitAndAudit) else "proof.receipt-differs"


def main() -> None:
    """Write the file."""
    found = [[name, b64encode(envelope).decode(), code(envelope)] for name, envelope in receipts()]
    said = {"id": SAID.id, "prompt": SAID.prompt, "answer": SAID.answer}
    key = b64encode(KEY.public.raw).decode()
    known = {"model": TERMS.model, "identity": TERMS.identity}
    FILE.write_text(json.dumps({"key": key, "said": said, "known": known, "receipts": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
