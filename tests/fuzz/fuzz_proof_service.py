"""Fuzz: what strangers give a service of answers with a proof, what it gives its clients, and files of sessions.

Run `python tests/fuzz/fuzz_proof_service.py [libFuzzer options]` with atheris.
"""

import sys

import msgspec
from starlette.datastructures import Headers

from mitai.errors import MitaiError
from mitai.identity import Identity
from mitai.ledger.lots import Lots
from mitai.proof.service.app import Opening, Reveal, asked
from mitai.proof.service.client import Offer, Replied
from mitai.proof.service.receipts import Kept, Said, Terms, made, opened, proven
from mitai.proof.service.sessions import Entry, SessionFile, audit
from mitai.serve.schema import parse
from mitai.wire import parse_json

KEY, IDENTITY, LOTS, TIME = Identity.from_seed(bytes(32)), "ab" * 32, Lots(b"s" * 32, 1), "2026-01-01T00:00:00Z"
TERMS = Terms("tiny", IDENTITY, "sampled", LOTS.sample)
SAID = Said("cmpl-1", [1, 2], [3])
ENVELOPE = made(SAID, TERMS, TIME, TIME).sign(KEY)
FILE = SessionFile(
    session="",
    model="tiny",
    identity=IDENTITY,
    key=KEY.public.raw,
    one_in=1,
    commitment=LOTS.sample.commitment,
    seed=LOTS.seed.hex(),
    receipts=(Entry(ENVELOPE, SAID.id),),
)
SEEDS = (
    FILE.encode(),
    Kept(key=KEY.public.raw, envelope=ENVELOPE, id="cmpl-1").encode(),
    msgspec.json.encode(Offer(address="http://service.test", model="tiny", identity=IDENTITY, key=KEY.key_id)),
    msgspec.json.encode(Opening(4, LOTS.sample.commitment, 8)),
    msgspec.json.encode(Reveal(LOTS.seed.hex())),
    msgspec.json.encode(Replied(ENVELOPE, (1, 2), (3,))),
    ENVELOPE,
    b"ps-" + b"0" * 32,
    b"0" * 64 + b" " + b"1" * 64,
)


def _reply(data: bytes) -> None:
    reply = parse_json(data, Replied, 1 << 20, "client.answer-malformed", "not a receipt")
    opened(reply.envelope, KEY.public, Said("cmpl-1", reply.prompt, reply.answer), TERMS)


def _kept(data: bytes) -> None:
    kept = Kept.parse(data)
    receipt = opened(kept.envelope, KEY.public, None, TERMS)
    proven(kept.id, receipt, IDENTITY, data)
    raise AssertionError("nobody has proven anything")


def _session(data: bytes) -> None:
    file = SessionFile.parse(data)
    assert SessionFile.parse(file.encode()) == file
    audited = audit(file, IDENTITY, KEY.key_id, lambda _: data)
    assert len(audited.missing) == audited.drawn


def _header(data: bytes) -> None:
    for name in (b"mitai-proof", b"mitai-draw"):
        asked(Headers(raw=[(name, data)]))


TARGETS = (
    _session,
    _kept,
    Offer.parse,
    lambda data: parse(Opening, data),
    lambda data: parse(Reveal, data),
    _reply,
    lambda data: opened(data, KEY.public, SAID, TERMS),
    _header,
)


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out, and nothing is proven: nobody has."""
    for target in TARGETS:
        try:
            target(data)
        except MitaiError:
            continue


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
