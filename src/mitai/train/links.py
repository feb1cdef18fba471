"""One sealed link between two ranks of a job: bytes in, the same bytes out at the other end, or the job ends.

Follows `docs/spec/distributed.md`, "Frames". What lies between the two ends is the hosts': they can read sizes and
times, and cut the link.

Invariants:

- Each direction has a key of its own and counts its frames: a frame that is changed, dropped, repeated, moved or sent
  back does not open. After that the link is of no use.
- How many bytes come next is known to the receiver beforehand; the sender does not choose it.
- No wait is longer than `silence_s` for a frame.

Example:
    >>> one, other = SealedLink(a, sending, receiving, 60.0), SealedLink(b, receiving, sending, 60.0)
    >>> one.send(b"sum", b"1234")
    >>> other.receive(b"sum", 4)
    b'1234'
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from mitai.channel.hpke import NONCE_BYTES, TAG_BYTES, Aead, AeadSequence
from mitai.errors import ChannelError, TrainError

FRAME_BYTES = 1 << 20  # of plaintext, at most
KEY_BYTES = Aead.AES_256_GCM.key_bytes + NONCE_BYTES  # of one direction: key and base nonce
_LABEL = b"mitai training frame v1\0"


class SealedLink:
    """One end of a link.

    Args:
        end: A connected socket; the link's from now on.
        sending: Key and base nonce of what this end sends.
        receiving: Those of what it receives.
        silence_s: How long the other end may take for a frame.
    """

    def __init__(self, end: socket.socket, sending: bytes, receiving: bytes, silence_s: float) -> None:
        self._end, self._silence_s = end, silence_s
        self._sending, self._receiving = _sequence(sending), _sequence(receiving)

    def send(self, what: bytes, data: memoryview | bytes) -> None:
        """Send `data` for the purpose `what`."""
        view = memoryview(data).cast("B")
        for start, end in _frames(len(view)):
            sealed = self._sending.seal(view[start:end], _bound(what, len(view), start))
            try:
                self._end.settimeout(self._silence_s)
                self._end.sendall(sealed)
            except TimeoutError:
                raise silent() from None
            except OSError:
                raise gone() from None

    def receive(self, what: bytes, size: int) -> bytearray:
        """Return the next `size` bytes, which were sent for `what`."""
        data = bytearray(size)
        for start, part in self.parts(what, size):
            data[start : start + len(part)] = part
        return data

    def parts(self, what: bytes, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield what `receive` returns as it comes: (offset, bytes).

        Raises:
            TrainError: The other end is gone or silent, or a frame is not the one that it sealed here.
        """
        for start, end in _frames(size):
            sealed = exactly(self._end, end - start + TAG_BYTES, time.monotonic() + self._silence_s)
            try:
                yield start, self._receiving.open(sealed, _bound(what, size, start))
            except ChannelError:
                raise TrainError(
                    "train.link-broken",
                    "what came over the link of two ranks is not what the other rank sent",
                    hint="it was changed, dropped, repeated or moved on its way; submit the job again to all ranks",
                ) from None

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def exactly(end: socket.socket, size: int, until: float) -> bytearray:
    """Return exactly `size` bytes that come before the monotonic time `until`; raise `TrainError` otherwise."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        left = until - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            end.settimeout(left)
            got = end.recv_into(view[done:])
        except TimeoutError:
            raise silent() from None
        except OSError:
            raise gone() from None
        if not got:
            raise gone()
        done += got
    return data


def gone() -> TrainError:
    """Return the error for a link that was cut."""
    return TrainError(
        "train.peer-gone",
        "another rank of the job has ended, or the link to it was cut",
        hint="its own error says why; submit the job again to all ranks: it resumes from the leader's checkpoint",
    )


def silent() -> TrainError:
    """Return the error for a rank that does not come or does not answer."""
    return TrainError(
        "train.peer-silent",
        "another rank of the job said nothing for too long",
        hint="was the job submitted to every worker? does a step take longer than silence_s in their configuration?",
    )


def _sequence(key: bytes) -> AeadSequence:
    cut = Aead.AES_256_GCM.key_bytes
    return AeadSequence(Aead.AES_256_GCM, key[:cut], key[cut:])


def _frames(size: int) -> Iterator[tuple[int, int]]:
    """Return where the frames of `size` bytes begin and end; nothing is one empty frame."""
    return ((start, min(start + FRAME_BYTES, size)) for start in range(0, max(size, 1), FRAME_BYTES))


def _bound(what: bytes, size: int, start: int) -> bytes:
    """Return a frame's associated data; its number in the link is in the nonce."""
    return _LABEL + what + b"\0" + size.to_bytes(8, "big") + start.to_bytes(8, "big")
