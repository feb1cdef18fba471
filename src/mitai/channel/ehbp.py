"""EHBP, Tinfoil's Encrypted HTTP Body Protocol: bodies are sealed, everything else of the HTTP message is not.

Follows SPEC.md of github.com/tinfoilsh/encrypted-http-body-protocol, sections 3 to 5, and serves the clients that exist
for it (Python, JavaScript, Go, Swift, Rust). Prefer Oblivious HTTP: here method, path and headers are open to change on
the way, and the end of a stream is not authenticated.

Invariants:

- X25519, HKDF-SHA256 and AES-256-GCM only; anything else is refused.
- A request without a sealed body is no EHBP request: who can't seal a byte can't ask for a sealed answer (section 7.4).
- A key is known to fit by its first frame, never by decapsulation alone, which always succeeds.

Example:
    >>> sealer = RequestSealer(config)
    >>> opener = RequestOpener(ring.live(), sealer.enc)
    >>> opener.feed(sealer.seal(b"hello"))
    [b'hello']
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

from mitai.channel.frames import MAX_CHUNK_BYTES, FrameReader
from mitai.channel.hpke import TAG_BYTES, Aead, AeadSequence, Context, Data, Kem, setup_recipient, setup_sender
from mitai.channel.ohttp import GatewayKey, KeyConfig, keys_changed, response_sequence
from mitai.errors import ChannelError, ParseError

KEYS_PATH: Final = "/.well-known/hpke-keys"
ENC_HEADER: Final = "ehbp-encapsulated-key"
NONCE_HEADER: Final = "ehbp-response-nonce"
KEY_PROBLEM_TYPE: Final = "urn:ietf:params:ehbp:error:key-config"

_INFO = b"ehbp request"
_EXPORT_LABEL = b"ehbp response"
_AEAD = Aead.AES_256_GCM
_NONCE_BYTES = 32  # max(Nn, Nk) of AES-256-GCM, and the length of the exported secret


def decode_hex_header(value: str | bytes, size: int) -> bytes:
    """Return the bytes of a header in hex, of exactly `size` bytes."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    try:
        raw = bytes.fromhex(text.strip())
    except ValueError:
        raw = b""
    if len(raw) != size or len(text.strip()) != 2 * size:
        raise ParseError("channel.ehbp-header", f"an EHBP header is not {size} bytes in hex")
    return raw


class BodySealer:
    """Seals the frames of one body."""

    def __init__(self, sequence: AeadSequence) -> None:
        self._sequence = sequence

    def seal(self, chunk: Data) -> bytes:
        """Return a piece of the body as one frame or more."""
        view = memoryview(chunk)
        pieces = (view[at : at + MAX_CHUNK_BYTES] for at in range(0, len(view), MAX_CHUNK_BYTES))
        return b"".join((len(piece) + TAG_BYTES).to_bytes(4) + self._sequence.seal(piece) for piece in pieces)


class RequestSealer(BodySealer):
    """Seals one request body to a key configuration; `enc` goes into the header `Ehbp-Encapsulated-Key`."""

    def __init__(self, config: KeyConfig) -> None:
        if config.kem is not Kem.X25519 or _AEAD not in config.aeads:
            raise ParseError("channel.key-config-unsupported", "EHBP needs an X25519 key and AES-256-GCM")
        self._context = setup_sender(config.kem, config.public, _INFO, _AEAD)
        self.enc = self._context.enc
        super().__init__(self._context)

    def response_opener(self, nonce: bytes, *, limit: int = MAX_CHUNK_BYTES) -> ResponseOpener:
        """Return the opener of this request's response, from the header `Ehbp-Response-Nonce`."""
        return ResponseOpener(_response_sequence(self._context, nonce), limit)


class _BodyOpener:
    """Opens the frames of one body."""

    def __init__(self, limit: int) -> None:
        self._frames = FrameReader("u32", limit)
        self._broken = False

    def feed(self, data: Data) -> list[bytes]:
        """Return the plaintext of the frames that these further bytes complete."""
        if self._broken:
            raise ChannelError("channel.unopenable", "this body goes on after an error")
        self._broken = True  # until all went well
        opened = [plaintext for frame in self._frames.feed(data) if (plaintext := self._open(frame))]
        self._broken = False
        return opened

    def finish(self) -> None:
        """Raise `ChannelError` if the body ends within a frame, or after an error."""
        self._frames.finish()
        if self._broken:
            raise ChannelError("channel.unopenable", "this body ends after an error")

    def _open(self, frame: memoryview) -> bytes:
        raise NotImplementedError


class ResponseOpener(_BodyOpener):
    """Opens one response body; made by `RequestSealer.response_opener`."""

    def __init__(self, sequence: AeadSequence, limit: int) -> None:
        super().__init__(limit)
        self._sequence = sequence

    def _open(self, frame: memoryview) -> bytes:
        return self._sequence.open(frame)


class RequestOpener(_BodyOpener):
    """Opens one request body with whichever of the honoured keys fits; EHBP sends no key id.

    Args:
        keys: The keys that are honoured now.
        enc: The encapsulated key, from the header.
        limit: Bytes of plaintext that a frame may hold.
    """

    def __init__(self, keys: Iterable[GatewayKey], enc: bytes, *, limit: int = MAX_CHUNK_BYTES) -> None:
        super().__init__(limit)
        self._keys = [key for key in keys if key.config.kem is Kem.X25519 and _AEAD in key.config.aeads]
        self.enc = enc
        self.key: GatewayKey | None = None
        self._context: Context | None = None

    def finish(self) -> None:
        """Raise `ChannelError` as above, and if the body holds nothing that was sealed."""
        super().finish()
        if self._context is None:
            raise ChannelError("channel.truncated", "the sealed body holds nothing")

    def response_sealer(self) -> tuple[bytes, BodySealer]:
        """Return the response nonce and the sealer of this request's response."""
        if self._context is None:
            raise ChannelError("channel.truncated", "there is no request to answer yet")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce, BodySealer(_response_sequence(self._context, nonce))

    def _open(self, frame: memoryview) -> bytes:
        if self._context is not None:
            return self._context.open(frame)
        for key in self._keys:
            try:
                context = setup_recipient(key.private, self.enc, _INFO, _AEAD)
                plaintext = context.open(frame)
            except ChannelError:
                continue
            self.key, self._context = key, context
            return plaintext
        raise keys_changed()


def _response_sequence(context: Context, nonce: bytes) -> AeadSequence:
    """SPEC.md section 4.4: as Oblivious HTTP derives it, with another label."""
    return response_sequence(context.export(_EXPORT_LABEL, _NONCE_BYTES), context.enc, nonce, _AEAD)
