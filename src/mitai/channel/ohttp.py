"""Oblivious HTTP: encapsulated requests and responses, whole or chunk by chunk.

Follows RFC 9458 (key configurations, `message/ohttp-req` and `-res`) and draft-ietf-ohai-chunked-ohttp-08
(`message/ohttp-chunked-req` and `-res`). A one-shot message is treated as a stream that consists of its final chunk.

Invariants:

- Chunks are opened in order, each is authenticated before a byte of it is returned, and so is the end of a stream.
- A response can be opened only with the request that it answers: its keys come from the request's HPKE context.
- A chunk that was handed out is never written to again while anybody has a view of it.
- After an error an opener stays broken.

Example:
    >>> sealer = RequestSealer(config)
    >>> opener = RequestOpener(ring.find)
    >>> b"".join([*opener.feed(sealer.seal(b"hello", final=True)), *opener.finish()])
    b'hello'
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mitai.channel.bhttp import varint
from mitai.channel.frames import MAX_CHUNK_BYTES, FrameReader
from mitai.channel.hpke import (
    KDF_HKDF_SHA256,
    NONCE_BYTES,
    TAG_BYTES,
    Aead,
    AeadSequence,
    Context,
    Data,
    Kem,
    PrivateKey,
    derive,
    setup_recipient,
    setup_sender,
)
from mitai.channel.memory import Scratch, ciphertext_scratch
from mitai.errors import ChannelError, KeysChangedError, ParseError

KEYS_MEDIA_TYPE: Final = "application/ohttp-keys"
_FINAL: Final = b"final"
_HEADER: Final = struct.Struct("!BHHH")  # key id, KEM id, KDF id, AEAD id
_AEADS: Final = {int(aead): aead for aead in Aead}


class Form(NamedTuple):
    """The two forms of an encapsulated message: labels, media types, and how chunks are delimited."""

    request_label: bytes
    response_label: bytes
    request_type: str
    response_type: str
    chunked: bool


ONE_SHOT: Final = Form(
    b"message/bhttp request", b"message/bhttp response", "message/ohttp-req", "message/ohttp-res", chunked=False
)
CHUNKED: Final = Form(
    b"message/bhttp chunked request",
    b"message/bhttp chunked response",
    "message/ohttp-chunked-req",
    "message/ohttp-chunked-res",
    chunked=True,
)


# --- Key configurations (RFC 9458 section 3) -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A gateway's public key and the AEADs that it accepts with it."""

    key_id: int
    kem: Kem
    public: bytes
    aeads: tuple[Aead, ...]

    def encode(self) -> bytes:
        """Return the encoding of this one configuration, without a length before it."""
        suites = b"".join(KDF_HKDF_SHA256.to_bytes(2) + aead.to_bytes(2) for aead in self.aeads)
        return bytes((self.key_id,)) + self.kem.to_bytes(2) + self.public + len(suites).to_bytes(2) + suites

    @staticmethod
    def decode(data: bytes) -> KeyConfig:
        """Parse one configuration; algorithms that we do not have are left out, and one must remain."""
        try:
            kem = Kem(int.from_bytes(data[1:3]))
        except ValueError:
            raise ParseError("channel.key-config-unsupported", "the key configuration has an unknown KEM") from None
        public_end = 3 + kem.public_bytes
        suites = data[public_end + 2 :]
        length = int.from_bytes(data[public_end : public_end + 2])
        if len(data) < public_end + 2 or length != len(suites) or length == 0 or length % 4:
            raise ParseError("channel.key-config-malformed", "these bytes are not one key configuration")
        pairs = [
            (int.from_bytes(suites[i : i + 2]), int.from_bytes(suites[i + 2 : i + 4])) for i in range(0, length, 4)
        ]
        known = {*Aead}
        aeads = tuple(Aead(aead) for kdf, aead in pairs if kdf == KDF_HKDF_SHA256 and aead in known)
        if not aeads:
            raise ParseError("channel.key-config-unsupported", "the key configuration has no algorithm that we have")
        return KeyConfig(data[0], kem, data[3:public_end], aeads)


def encode_keys(configs: list[bytes]) -> bytes:
    """Return the `application/ohttp-keys` form of encoded configurations."""
    return b"".join(len(config).to_bytes(2) + config for config in configs)


def decode_keys(data: bytes) -> list[KeyConfig]:
    """Parse the `application/ohttp-keys` form; configurations that we can't use are left out."""
    configs: list[KeyConfig] = []
    while data:
        end = 2 + int.from_bytes(data[:2])
        if len(data) < max(end, 2):
            raise ParseError("channel.key-config-malformed", "a list of key configurations ends in the middle")
        try:
            configs.append(KeyConfig.decode(data[2:end]))
        except ParseError as error:
            if error.code != "channel.key-config-unsupported":
                raise
        data = data[end:]
    return configs


class GatewayKey(Protocol):
    """A key that a gateway holds, with the configuration under which it is published."""

    @property
    def config(self) -> KeyConfig:
        """The published configuration."""

    @property
    def private(self) -> PrivateKey:
        """The key pair."""


# --- Sealing and opening streams of chunks ---------------------------------------------------------------------------


class _StreamSealer:
    """Writes chunks after `prefix`, which precedes the first."""

    def __init__(self, form: Form, sequence: AeadSequence, prefix: bytes) -> None:
        self.form = form
        self._chunked = form.chunked
        self._sequence = sequence
        self._prefix = prefix

    def seal(self, chunk: Data, *, final: bool = False) -> memoryview:
        """Return the next chunk as it goes on the wire; only the final one may be empty."""
        prefix, aad, size = self._prefix, b"", len(chunk) + TAG_BYTES
        if self._chunked:
            if final:
                prefix, aad = prefix + b"\x00", _FINAL
            else:
                prefix += varint(size)
        self._prefix = b""
        at = len(prefix)
        wire = ciphertext_scratch().take(at + size)
        wire[:at] = prefix
        self._sequence.seal_into(chunk, aad, wire[at:])
        return wire

    def seal_message(self, *parts: Data, chunk_bytes: int = MAX_CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield a whole message: `parts` joined, in chunks of equal size, so that the parts' lengths don't show."""
        left = sum(map(len, parts))
        for chunk in _cut(parts, chunk_bytes if self._chunked else left):
            left -= len(chunk)
            yield self.seal(chunk, final=not left)


def _cut(parts: tuple[Data, ...], size: int) -> Iterator[Data]:
    """Cut the concatenation of `parts` into pieces of `size`, at least one; what lies within one part is not copied."""
    begun: list[memoryview] = []
    missing = size
    for part in parts:
        view, start, end = memoryview(part), 0, len(part)
        while end - start > missing:
            piece = view[start : start + missing]
            start += missing
            yield b"".join([*begun, piece]) if begun else piece
            begun, missing = [], size
        if start < end:
            begun.append(view[start:])
            missing -= end - start
    yield begun[0] if len(begun) == 1 else b"".join(begun)


class _StreamOpener:
    """Reads chunks after a prefix of `prefix_bytes`, from which a subclass learns the keys."""

    def __init__(self, form: Form, limit: int) -> None:
        self.form = form
        self._frames = FrameReader("varint" if form.chunked else "rest", limit)
        self._prefix = b""
        self._sequence: AeadSequence | None = None
        self._scratch = Scratch()
        self._broken = False
        self.opened = False  # whether a chunk was authenticated

    def feed(self, data: Data) -> Iterator[memoryview]:
        """Yield the plaintext of the chunks that these further bytes complete; iterate to the end."""
        if self._broken:
            raise ChannelError("channel.unopenable", "this message goes on after its end, or after an error")
        self._broken = True  # until all went well
        if self._sequence is None:
            data = self._read_prefix(memoryview(data))
        if (sequence := self._sequence) is not None:
            for frame in self._frames.feed(data):
                plaintext = self._open(sequence, frame, b"")
                if not plaintext:
                    raise ChannelError("channel.unopenable", "a chunk that is not the final one is empty")
                yield plaintext
                del plaintext  # so that its memory can be used again
        self._broken = False

    def finish(self) -> list[memoryview]:
        """Return the plaintext of the final chunk, if any; raise `ChannelError` if the stream was cut."""
        sequence = self._sequence
        if sequence is None or self._broken:
            raise ChannelError("channel.truncated", "the sealed message ends within its header")
        self._broken = True
        plaintext = self._open(sequence, self._frames.finish() or b"", _FINAL if self.form.chunked else b"")
        self._scratch = Scratch()  # an opener that is kept keeps no plaintext
        return [plaintext] if plaintext else []

    def _open(self, sequence: AeadSequence, frame: Data, aad: bytes) -> memoryview:
        plaintext = self._scratch.take(max(len(frame) - TAG_BYTES, 0))
        sequence.open_into(frame, aad, plaintext)
        self.opened = True
        return plaintext

    def _read_prefix(self, view: memoryview) -> memoryview:
        """Consume bytes of the prefix; set `_sequence` when it is complete."""
        while missing := self._prefix_bytes() - len(self._prefix):
            if not view:
                return view
            self._prefix += view[:missing]
            view = view[missing:]
        self._sequence = self._start(self._prefix)
        return view

    def _prefix_bytes(self) -> int:
        raise NotImplementedError

    def _start(self, prefix: bytes) -> AeadSequence:
        raise NotImplementedError


# --- Requests --------------------------------------------------------------------------------------------------------


class RequestSealer(_StreamSealer):
    """Seals one request to a key configuration (RFC 9458 section 4.3).

    Args:
        config: The gateway's key configuration, from claims that were verified.
        form: `CHUNKED` or `ONE_SHOT`.
        ephemeral: For test vectors only.
    """

    def __init__(self, config: KeyConfig, form: Form = CHUNKED, *, ephemeral: X25519PrivateKey | None = None) -> None:
        aead = Aead.AES_256_GCM if Aead.AES_256_GCM in config.aeads else config.aeads[0]
        header = _HEADER.pack(config.key_id, config.kem, KDF_HKDF_SHA256, aead)
        info = form.request_label + b"\x00" + header
        self._context = setup_sender(config.kem, config.public, info, aead, ephemeral=ephemeral)
        self._aead = aead
        super().__init__(form, self._context, header + self._context.enc)

    def response_opener(self, *, limit: int = MAX_CHUNK_BYTES) -> ResponseOpener:
        """Return the opener of this request's response."""
        return ResponseOpener(self.form, self._context, self._aead, limit)


class RequestOpener(_StreamOpener):
    """Opens one encapsulated request.

    Args:
        find: Gives the key with a certain id, or None.
        form: `CHUNKED` or `ONE_SHOT`, as the media type says.
        limit: Bytes of plaintext that a chunk may hold.
    """

    def __init__(
        self, find: Callable[[int], GatewayKey | None], form: Form = CHUNKED, *, limit: int = MAX_CHUNK_BYTES
    ) -> None:
        super().__init__(form, limit)
        self._find = find
        self._key: GatewayKey | None = None
        self._context: Context | None = None
        self._aead = Aead.AES_256_GCM

    @property
    def enc(self) -> bytes:
        """The encapsulated key, unique to this request; empty until it has arrived."""
        return self._context.enc if self._context else b""

    def check_key(self) -> None:
        """Raise `KeysChangedError` when the key of this request is not honoured any more."""
        if self._key is None or self._find(self._key.config.key_id) is not self._key:
            raise keys_changed()

    def response_sealer(self, *, nonce: bytes | None = None) -> ResponseSealer:
        """Return the sealer of this request's response; `nonce` is for test vectors only."""
        if self._context is None:
            raise ChannelError("channel.truncated", "there is no request to answer yet")
        return ResponseSealer(self.form, self._context, self._aead, nonce)

    def _prefix_bytes(self) -> int:
        if not self._prefix:
            return 1
        if self._key is None:
            self._key = self._find(self._prefix[0])
            if self._key is None:
                raise keys_changed()
        return _HEADER.size + self._key.config.kem.enc_bytes

    def _start(self, prefix: bytes) -> Context:
        key = self._key
        header = prefix[: _HEADER.size]
        _, kem, kdf, aead = _HEADER.unpack(header)
        if key is None or kem != key.config.kem or kdf != KDF_HKDF_SHA256 or aead not in key.config.aeads:
            raise keys_changed()
        self._aead = _AEADS[aead]
        info = self.form.request_label + b"\x00" + header
        self._context = setup_recipient(key.private, prefix[_HEADER.size :], info, self._aead)
        return self._context


def keys_changed() -> KeysChangedError:
    """Return the error for a request that is sealed to a key that is not held (any more)."""
    return KeysChangedError(
        "channel.keys-changed",
        "the request is sealed to a key that the server does not hold",
        hint="verify the server again to learn its present key",
    )


# --- Responses (RFC 9458 section 4.4) --------------------------------------------------------------------------------


def response_sequence(secret: bytes, enc: bytes, nonce: bytes, aead: Aead) -> AeadSequence:
    """Derive the keys of a response from the request's exported secret, its encapsulated key and the response nonce."""
    key, base_nonce = derive(enc + nonce, secret, b"key", b"nonce")
    return AeadSequence(aead, key[: aead.key_bytes], base_nonce[:NONCE_BYTES])


def entropy_bytes(aead: Aead) -> int:
    """Length of a response's nonce and of the exported secret: max(Nn, Nk)."""
    return max(NONCE_BYTES, aead.key_bytes)


class ResponseSealer(_StreamSealer):
    """Seals one response; made by `RequestOpener.response_sealer`."""

    def __init__(self, form: Form, context: Context, aead: Aead, nonce: bytes | None = None) -> None:
        nonce = nonce or secrets.token_bytes(entropy_bytes(aead))
        secret = context.export(form.response_label, entropy_bytes(aead))
        super().__init__(form, response_sequence(secret, context.enc, nonce, aead), nonce)


class ResponseOpener(_StreamOpener):
    """Opens one response; made by `RequestSealer.response_opener`."""

    def __init__(self, form: Form, context: Context, aead: Aead, limit: int = MAX_CHUNK_BYTES) -> None:
        super().__init__(form, limit)
        self._secret = context.export(form.response_label, entropy_bytes(aead))
        self._enc = context.enc
        self._aead = aead

    def _prefix_bytes(self) -> int:
        return entropy_bytes(self._aead)

    def _start(self, prefix: bytes) -> AeadSequence:
        return response_sequence(self._secret, self._enc, prefix, self._aead)
