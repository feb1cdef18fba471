"""The client's end of one sealed exchange, for each protocol: sealed bytes in and out, no I/O.

Invariants:

- What leaves is sealed to the key configuration that was given; nothing is sent or accepted in the clear.
- An answer that was cut raises; its end is never taken for granted (EHBP can't tell a cut between two frames).
- What an outer response says is not authenticated: it can make an exchange fail, or ask to verify again, no more.

Example:
    >>> outgoing = OhttpOutgoing(config, head, b"{}", now=time.time())
    >>> outgoing.body, outgoing.fields   # POST them
    >>> content = outgoing.feed(piece)   # for each piece of the answer; `outgoing.head` is set early
    >>> content = outgoing.finish()
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

from mitai.channel import bhttp, ehbp, ohttp, problems
from mitai.channel.exchange import EXCHANGE_HEADER, REFUSAL_HEADER, Exchange
from mitai.channel.padding import padded_size
from mitai.channel.replay import format_date
from mitai.errors import ChannelError, MitaiError

MAX_RESPONSE_BYTES = 1 << 30
MAX_REFUSAL_BYTES = 16 << 10  # of an outer error that is read at all
_LIMITS = bhttp.Limits(content_bytes=MAX_RESPONSE_BYTES)
_EHBP_FRAME_BYTES = 64 << 20


class Outgoing(Protocol):
    """What a transport needs of a protocol."""

    exchange: Exchange
    fields: list[bhttp.Field]
    body: bytes
    head: bhttp.ResponseHead | None

    def refusal(self, status: int, fields: Sequence[bhttp.Field]) -> bool:
        """Tell whether the outer response is no sealed answer; otherwise begin to read it."""

    def refused(self, status: int, body: bytes) -> MitaiError:
        """Return the error for an outer response that is no sealed answer."""

    def feed(self, data: bytes) -> list[bytes]:
        """Open further bytes of the answer; return the content that they complete."""

    def finish(self) -> list[bytes]:
        """Check that the answer ended well; return the rest of its content."""


class OhttpOutgoing:
    """A request sealed as chunked Oblivious HTTP, and its answer.

    Args:
        key_config: From claims that were verified.
        head: The request; connection fields are left out, the date is added.
        content: Its body.
        now: Seconds since 1970.
    """

    def __init__(self, key_config: bytes, head: bhttp.RequestHead, content: bytes, *, now: float) -> None:
        sealer = ohttp.RequestSealer(ohttp.KeyConfig.decode(key_config))
        left_out = bhttp.CONNECTION_FIELDS | {b"date"}
        fields = [field for field in head.fields if field[0] not in left_out]
        dated = bhttp.RequestHead(
            head.method, head.scheme, head.authority, head.path, (*fields, (b"date", format_date(now)))
        )
        encoded = bhttp.encode_request(dated, content_bytes=len(content))
        size = len(encoded) + len(content)
        self.body = b"".join(sealer.seal_message(encoded, content, bytes(padded_size(size) - size)))
        self.fields = [(b"content-type", ohttp.CHUNKED.request_type.encode()), (b"incremental", b"?1")]
        self.head: bhttp.ResponseHead | None = None
        self.exchange = Exchange("ohttp-chunked", "", sha256(self.body).hexdigest())
        self._opener = sealer.response_opener()
        self._decoder = bhttp.Decoder("response", _LIMITS)
        self._digest = sha256()

    def refusal(self, status: int, fields: Sequence[bhttp.Field]) -> bool:
        """A sealed answer has status 200 and the media type of the request's form."""
        return status != 200 or _value(fields, b"content-type") != ohttp.CHUNKED.response_type.encode()

    def refused(self, status: int, body: bytes) -> MitaiError:
        """Map a problem document; RFC 9458 section 5.3 for unknown keys."""
        problem = problems.decode(body)
        code = "channel.keys-changed" if problem.type == problems.OHTTP_KEY_TYPE else problem.code
        return problems.refusal(code, status)

    def feed(self, data: bytes) -> list[bytes]:
        """Open chunks and decode what is in them."""
        self._digest.update(data)
        return [content for chunk in self._opener.feed(data) for content in self._take(self._decoder.feed(chunk))]

    def finish(self) -> list[bytes]:
        """Open the final chunk."""
        content = [content for chunk in self._opener.finish() for content in self._take(self._decoder.feed(chunk))]
        content += self._take(self._decoder.finish())
        self.exchange.response_sha256 = self._digest.hexdigest()
        return content

    def _take(self, events: list[bhttp.Event]) -> list[bytes]:
        for event in events:
            if isinstance(event, bhttp.ResponseHead) and event.status >= 200:
                self._accept(event)
        return [bytes(event) for event in events if isinstance(event, memoryview)]

    def _accept(self, head: bhttp.ResponseHead) -> None:
        code = _value(head.fields, REFUSAL_HEADER.encode())
        if code:
            raise problems.refusal(code.decode("latin-1"), head.status)
        self.exchange.id = _value(head.fields, EXCHANGE_HEADER.encode()).decode("latin-1")[:64]
        self.head = head


class EhbpOutgoing:
    """A request whose body is sealed as EHBP, and its answer.

    Args:
        key_config: From claims that were verified.
        head: The request; it travels in the clear.
        content: Its body, which can't be empty: without it the answer could not be sealed.
    """

    def __init__(self, key_config: bytes, head: bhttp.RequestHead, content: bytes) -> None:
        if not content:
            raise ChannelError(
                "channel.ehbp-bodyless",
                "EHBP can't protect a request without a body",
                hint="use Oblivious HTTP, or send a minimal body",
            )
        self._sealer = ehbp.RequestSealer(ohttp.KeyConfig.decode(key_config))
        self.body = self._sealer.seal(content)
        self.fields = [field for field in head.fields if field[0] not in bhttp.CONNECTION_FIELDS]
        self.fields.append((ehbp.ENC_HEADER.encode(), self._sealer.enc.hex().encode()))
        self.head: bhttp.ResponseHead | None = None
        self.exchange = Exchange("ehbp", "", sha256(self.body).hexdigest())
        self._opener: ehbp.ResponseOpener | None = None
        self._digest = sha256()

    def refusal(self, status: int, fields: Sequence[bhttp.Field]) -> bool:
        """An answer without a response nonce is not sealed, whatever its status (SPEC.md section 5.3)."""
        nonces = [value for name, value in fields if name == ehbp.NONCE_HEADER.encode()]
        if not nonces:
            return True
        if len(nonces) > 1:
            raise ChannelError("channel.ehbp-header", "there is more than one response nonce")
        nonce = ehbp.decode_hex_header(nonces[0], 32)
        self._opener = self._sealer.response_opener(nonce, limit=_EHBP_FRAME_BYTES)
        kept = tuple(f for f in fields if f[0] not in bhttp.CONNECTION_FIELDS and f[0] != ehbp.NONCE_HEADER.encode())
        self.exchange.id = _value(fields, EXCHANGE_HEADER.encode()).decode("latin-1")[:64]
        self.head = bhttp.ResponseHead(status, kept)
        return False

    def refused(self, status: int, body: bytes) -> MitaiError:
        """Map a problem document (SPEC.md section 5.4.2)."""
        problem = problems.decode(body)
        code = "channel.keys-changed" if problem.type == ehbp.KEY_PROBLEM_TYPE else problem.code
        return problems.refusal(code, status)

    def feed(self, data: bytes) -> list[bytes]:
        """Open frames."""
        self._digest.update(data)
        return self._began().feed(data)

    def finish(self) -> list[bytes]:
        """Check that the answer ended between two frames."""
        self._began().finish()
        self.exchange.response_sha256 = self._digest.hexdigest()
        return []

    def _began(self) -> ehbp.ResponseOpener:
        if self._opener is None:
            raise ChannelError("channel.unopenable", "the answer has no response nonce")
        return self._opener


def _value(fields: Sequence[bhttp.Field], name: bytes) -> bytes:
    return next((value for key, value in fields if key == name), b"")
