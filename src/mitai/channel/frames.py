"""Frames: cuts a stream of length-prefixed ciphertexts, fed in pieces of any size, into ciphertexts.

Used by both protocols: chunked Oblivious HTTP (variable-length integers; a zero means that the rest of the stream is
the final chunk) and EHBP (four bytes, big endian; zero-length frames are ignored). A one-shot message is such a chunk.

Invariants:

- A length is checked against the limit before anything of that frame is stored.
- A frame that lies whole in what was fed is yielded as a view of it; only split frames are copied, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from mitai.channel.hpke import TAG_BYTES, Data
from mitai.errors import ChannelError

MAX_CHUNK_BYTES: Final = 256 << 10  # plaintext of one chunk; draft-ietf-ohai-chunked-ohttp demands 16 KiB at least

# Without the two bits that tell the size.
_VARINT_MASKS: Final = {size: (1 << (8 * size - 2)) - 1 for size in (1, 2, 4, 8)}


class FrameReader:
    """Reads the frames of one stream.

    Args:
        style: How a length is written; "rest" is a stream that is one final frame.
        limit: Bytes of plaintext that a frame may hold.
    """

    def __init__(self, style: Literal["varint", "u32", "rest"], limit: int = MAX_CHUNK_BYTES) -> None:
        self._style = style
        self._limit = limit
        self._prefix = b""  # of the length that is being read
        self._size: int | None = None  # of the frame that is being read, once its length is known
        self._buffer = bytearray()  # what has arrived of it
        self._in_final = style == "rest"

    def feed(self, data: Data) -> Iterator[memoryview]:
        """Yield the ciphertexts that these further bytes complete."""
        view = memoryview(data)
        while view:
            size = self._size
            if size is None:
                if self._in_final:
                    self._check(len(self._buffer) + len(view))
                    self._buffer += view
                    return
                view = self._read_length(view)
            elif not self._buffer and len(view) >= size:
                self._size = None
                yield view[:size]
                view = view[size:]
            else:
                missing = size - len(self._buffer)
                self._buffer += view[:missing]
                view = view[missing:]
                if len(self._buffer) == size:
                    whole, self._buffer, self._size = self._buffer, bytearray(), None
                    yield memoryview(whole)

    def finish(self) -> bytearray | None:
        """Return the final frame of a style that has one; raise `ChannelError` if the stream was cut."""
        whole = not self._prefix and self._size is None if self._style == "u32" else self._in_final
        if not whole:
            raise ChannelError(
                "channel.truncated",
                "the sealed stream ends before its end",
                hint="the connection was cut, or somebody on the way removed the rest; try again",
            )
        return self._buffer if self._in_final else None

    def _read_length(self, view: memoryview) -> memoryview:
        """Consume bytes of a length; set `_size`, or `_in_final`, when it is complete."""
        length_bytes = 4 if self._style == "u32" else 1 << ((self._prefix or view)[0] >> 6)
        missing = length_bytes - len(self._prefix)
        prefix = self._prefix + view[:missing]
        if len(prefix) < length_bytes:
            self._prefix = prefix
            return view[missing:]
        self._prefix = b""
        size = int.from_bytes(prefix)
        if self._style == "varint":
            size &= _VARINT_MASKS[length_bytes]
            self._in_final = not size
        if size:
            self._check(size)
            self._size = size
        return view[missing:]

    def _check(self, size: int) -> None:
        if size > self._limit + TAG_BYTES:
            raise ChannelError("channel.too-large", f"a sealed chunk exceeds the limit of {self._limit} bytes")
