"""The channel alone, in memory: how near it is to the raw cipher, and what it adds to a small request.

All in processor time of one core.

`channel-bulk`: whole exchanges of 1 MiB each way, sealed, opened and decoded, with key agreement, heads and padding, in
MiB/s. The peer is AES-256-GCM of `cryptography` over the same bytes in one piece, into buffers that are there already
(encrypt, then decrypt). `body_ratio` leaves out what an exchange costs once: it is the ratio for a further MiB of an
exchange under way (`docs/adr/0230-the-channel-may-be-compiled.md`). `agreement_us` is what an
exchange's X25519 costs in `cryptography` alone, `sha256_mib_s` how fast SHA-256 is, which the receipts' digests cost on
top.

`channel-small-us`: the microseconds that the channel adds to an exchange of 1 KiB each way: seal and open the request,
seal and open the answer, padding included. The peer is encoding and decoding both as Binary HTTP without sealing them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import statistics
import time
from collections.abc import Callable
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import interleave, progress, row
from mitai.channel import bhttp, ohttp
from mitai.channel.frames import MAX_CHUNK_BYTES
from mitai.channel.keys import KeyRing
from mitai.channel.memory import keep_freed_memory
from mitai.channel.padding import padded_size

MIB = 1 << 20
RUNS = 401
BULK_ROUNDS = 1  # short samples: on a shared machine most are then not cut by other processes
SMALL_ROUNDS = 4
FIELDS = (
    (b"authorization", b"Bearer " + b"k" * 48),
    (b"content-type", b"application/json"),
    (b"accept", b"application/json"),
    (b"user-agent", b"OpenAI/Python 3.54.0"),
    (b"date", b"Sat, 21 Nov 2026 22:00:00 GMT"),
)
REQUEST = bhttp.RequestHead(b"POST", b"https", b"gateway.example", b"/v1/chat/completions", FIELDS)
RESPONSE = bhttp.ResponseHead(200, ((b"content-type", b"application/json"), (b"mitai-exchange", b"0" * 32)))
Sealer = ohttp.RequestSealer | ohttp.ResponseSealer
Opener = ohttp.RequestOpener | ohttp.ResponseOpener


def content_bytes(events: list[bhttp.Event]) -> int:
    return sum([len(event) for event in events if isinstance(event, memoryview)])


def carry(sealer: Sealer, opener: Opener, kind: Literal["request", "response"], head: bytes, content: bytes) -> None:
    """Seal a whole message and open it chunk by chunk, as over a wire; the content is handed on, as to an app."""
    decoder, size, received = bhttp.Decoder(kind), len(head) + len(content), 0
    for wire in sealer.seal_message(head, content, bytes(padded_size(size) - size)):
        for chunk in opener.feed(wire):
            for event in decoder.feed(chunk):
                if isinstance(event, memoryview):
                    received += len(event)
                del event
            del chunk  # so that its memory can be used again
        del wire
    received += sum([content_bytes(decoder.feed(chunk)) for chunk in opener.finish()])
    decoder.finish()
    assert received == len(content)


class Ends:
    """A client and a server that hold the same key."""

    def __init__(self) -> None:
        self.ring = KeyRing.generate()
        self.config = ohttp.KeyConfig.decode(self.ring.current_config())

    def exchange(self, content: bytes) -> None:
        client, server = ohttp.RequestSealer(self.config), ohttp.RequestOpener(self.ring.find)
        carry(client, server, "request", bhttp.encode_request(REQUEST, content_bytes=len(content)), content)
        head = bhttp.encode_response(RESPONSE, content_bytes=len(content))
        carry(server.response_sealer(), client.response_opener(), "response", head, content)

    def stream(self, content: bytes) -> Callable[[], None]:
        """Begin a request whose body goes on and on; return what carries another `content` of it."""
        limits = bhttp.Limits(content_bytes=1 << 50)
        sealer, opener = ohttp.RequestSealer(self.config), ohttp.RequestOpener(self.ring.find)
        decoder = bhttp.Decoder("request", limits)
        for chunk in opener.feed(sealer.seal(bhttp.encode_request(REQUEST, content_bytes=1 << 50))):
            decoder.feed(chunk)
        view = memoryview(content)

        def more() -> None:
            arrived = 0
            for at in range(0, len(view), MAX_CHUNK_BYTES):
                for chunk in opener.feed(sealer.seal(view[at : at + MAX_CHUNK_BYTES])):
                    arrived += content_bytes(decoder.feed(chunk))
            assert arrived == len(content)

        return more


def clear_exchange(content: bytes) -> None:
    """The same exchange as Binary HTTP, not sealed."""
    for decoder, head in (
        (bhttp.Decoder("request"), bhttp.encode_request(REQUEST, content_bytes=len(content))),
        (bhttp.Decoder("response"), bhttp.encode_response(RESPONSE, content_bytes=len(content))),
    ):
        assert content_bytes(decoder.feed(head + content)) == len(content)
        decoder.finish()


def seconds(rounds: int, work: Callable[[], object]) -> Callable[[], float]:
    """Return a measure: the mean processor time of one call in seconds, over `rounds` calls; neighbours don't count."""

    def measure() -> float:
        start = time.process_time()
        for _ in range(rounds):
            work()
        return (time.process_time() - start) / rounds

    return measure


def bulk(ends: Ends) -> None:
    content = secrets.token_bytes(MIB)
    cipher, nonce = AESGCM(secrets.token_bytes(32)), bytes(12)
    sealed, opened = bytearray(MIB + 16), bytearray(MIB)

    def raw() -> None:
        cipher.encrypt_into(nonce, content, None, sealed)
        cipher.decrypt_into(nonce, sealed, None, opened)

    def agree() -> None:
        ephemeral = X25519PrivateKey.generate()
        server.exchange(ephemeral.public_key())
        ephemeral.exchange(public)

    server = X25519PrivateKey.generate()
    public = server.public_key()
    stream, peer, agreement, exchange, digest = interleave(
        RUNS,
        seconds(BULK_ROUNDS, ends.stream(content)),
        seconds(BULK_ROUNDS, raw),
        seconds(BULK_ROUNDS, agree),
        seconds(BULK_ROUNDS, lambda: ends.exchange(content)),
        seconds(BULK_ROUNDS, lambda: hashlib.sha256(content).digest()),
    )
    row(
        "channel-bulk",
        [2 / s for s in exchange],
        "MiB/s",
        peer="raw AES-256-GCM, encrypt and decrypt in place",
        peer_samples=[1 / s for s in peer],
        body_ratio=round(statistics.median(peer) / statistics.median(stream), 3),
        agreement_us=round(statistics.median(agreement) * 1e6, 1),
        sha256_mib_s=round(1 / statistics.median(digest)),
    )


def small(ends: Ends) -> None:
    content = secrets.token_bytes(1024)
    sealed, clear = interleave(
        RUNS,
        seconds(SMALL_ROUNDS, lambda: ends.exchange(content)),
        seconds(SMALL_ROUNDS, lambda: clear_exchange(content)),
    )
    added = [(s - c) * 1e6 for s, c in zip(sealed, clear, strict=True)]
    peer = "the same exchange as Binary HTTP, not sealed"
    row("channel-small-us", added, "us", peer=peer, peer_samples=[c * 1e6 for c in clear])


def main() -> None:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    keep_freed_memory()  # as servers do
    try:
        ends = Ends()
        progress("channel: 1 MiB bodies against the raw cipher …")
        bulk(ends)
        progress("channel: 1 KiB each way …")
        small(ends)
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
