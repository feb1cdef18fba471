"""Fuzz target: what strangers say to a party that listens, what people type to reach one, and the files of a side.

Run with atheris: `python tests/fuzz/fuzz_mpc_links.py`.
"""

from __future__ import annotations

import sys
from base64 import b64encode

from mitai.errors import MpcError, ParseError
from mitai.identity import Envelope, Identity
from mitai.ledger.receipt import PartyReceipt
from mitai.mpc.kept import Kept
from mitai.mpc.meeting import Address
from mitai.mpc.receipts import opened
from mitai.mpc.salary import Invitation, _read_roster, salary
from mitai.mpc.sampling import Sampling
from mitai.mpc.setup import PartyConfig
from mitai.mpc.sharing import Generation, decoder, parse_share_file
from mitai.mpc.tasks import QUESTION_BYTES, Offer, Question
from mitai.mpc.tls import certificate, subject

_SIGNER = Identity.from_seed(bytes(32))
_RECEIPT = PartyReceipt(
    exchange="0" * 32,
    request_sha256="a" * 64,
    response_sha256="b" * 64,
    started="2026-01-02T03:04:05Z",
    finished="2026-01-02T03:04:05Z",
    role="p0",
    protocol="2+1",
    version="1",
    parties={"p0": _SIGNER.key_id},
    evidence_sha256={},
    shares="1" * 32,
    config_sha256="f" * 64,
    approximation="exact",
    task="generate 64 16 sampled",
    temperature=0.7,
    top_p=1.0,
)
_OFFER = Offer(bytes(16), "f" * 64, "exact", lambda _: None, (Generation(None, 64, 16, "sampled"),))
_KEYS = b"".join(Identity.from_seed(bytes([n]) * 32).public.raw for n in range(3))
SEEDS = (
    certificate(Identity.from_seed(bytes(32))),
    certificate(Identity.from_seed(bytes(32))).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x64"),
    _KEYS + b"\x1f\x90127.0.0.1".ljust(48, b"\0"),
    Envelope.decode(_RECEIPT.sign(_SIGNER)).payload,
    Question(_OFFER.tasks[0], Sampling(0.7)).encode(),
    b"127.0.0.1:7800/ABCD-EFGH-IJKL-MNOP",
    b"[::1]:7800",
    b"52000.50",
    b"2\x1c",
    b'listen = "a:1"\nclients = []\n[peers.p0]\nkey = "' + b"0" * 64 + b'"',
    b'{"v":"mitai parties proof v1","receipts":{"p0":{"key":"%b","envelope":"e30="}}}' % b64encode(_SIGNER.public.raw),
    b'{"v":"mitai mpc shares v1","role":"p0","id":"' + b"0" * 32 + b'"}',
    b'{"model_type":"llama","hidden_size":64,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2}',
)


def one_input(data: bytes) -> None:
    """Parse as everything; only the tree's errors may come out."""
    text = data.decode("utf-8", "replace")
    for work in (
        lambda: subject(data),
        lambda: _read_roster(data),
        lambda: Address.parse(text),
        lambda: Invitation.parse(text),
        lambda: salary(text),
        lambda: PartyConfig.parse(text),
        lambda: parse_share_file(data),
        lambda: opened("p0", _SIGNER.sign(data, PartyReceipt.payload_type).encode(), _SIGNER.public),
        lambda: _OFFER.question(data[:QUESTION_BYTES].ljust(QUESTION_BYTES, b"\0")),
        lambda: Kept.decode(data).check({"p0": _SIGNER.key_id}),
        lambda: decoder(data),
    ):
        try:
            work()
        except (MpcError, ParseError):
            continue


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
