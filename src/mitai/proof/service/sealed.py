"""How a service's state lies on the disk: sealed under a key that is in its processes' memory only.

Follows `docs/spec/proof-service.md`, "On the disk". All is sealed as the broker's rows are (`mitai.broker.vault`).

Invariants:

- Everything sealed is bound to its kind and to the id that it belongs to; a part of a proof also to its place in it,
  and to how many parts there are. So the first part opens only where no part is missing.
- Names are keyed hashes of ids: what is on the disk fetches nothing.
- A file is there as a whole, and on the disk, when it has its name.

Example:
    >>> files = ProofFiles(Path("proofs"), Sealer(key))
    >>> files.write("cmpl-5f…", proof)
    >>> size, parts = files.read("cmpl-5f…")
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

from mitai.broker.vault import STAMP_BYTES, Vault
from mitai.errors import BrokerError, ProofError

KEY_BYTES = 32
PART_BYTES = 1 << 18
_MORE_BYTES = STAMP_BYTES + 16  # in a part: the stamp, and GCM's tag
_NAME = re.compile(r"[0-9a-f]{32}(\.part)?")


def read_key() -> bytes:
    """Return the key from standard input, where whoever starts this process writes it.

    Raises:
        ProofError: `proof.state-key`.
    """
    key = b"" if sys.stdin.isatty() else sys.stdin.buffer.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise ProofError(
            "proof.state-key",
            f"standard input has to give the {KEY_BYTES} bytes of the key that seals the state, and nothing else",
            hint="mitai up --trust proof does that; by hand, see docs/configuration.md",
        )
    return key


class Sealer:
    """Names, seals and opens under one key (32 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._vault = Vault(key)

    def tag(self, kind: str, name: str) -> bytes:
        """Return what the disk calls something."""
        return self._vault.tag(kind, name)

    def seal(self, kind: str, tag: bytes, data: bytes) -> bytes:
        """Return content as the disk has it."""
        row = self._vault.seal(kind, tag, data)
        return row.stamp + row.sealed

    def open(self, kind: str, tag: bytes, sealed: bytes) -> bytes:
        """Return what was sealed as this.

        Raises:
            ProofError: `proof.state-damaged`.
        """
        try:
            return self._vault.open(kind, tag, sealed[:STAMP_BYTES], sealed[STAMP_BYTES:])
        except BrokerError:
            raise ProofError("proof.state-damaged", f"a stored {kind} was changed on the disk, or swapped") from None


class ProofFiles:
    """A folder of proofs, which only the proving process writes.

    Args:
        folder: Made when missing.
        sealer: Of the state.
    """

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._sealer = folder, sealer

    def write(self, answer_id: str, proof: bytes) -> None:
        """Keep a proof."""
        path = self._folder / self._sealer.tag("answer", answer_id).hex()
        unfinished = path.with_suffix(".part")
        count = -(-len(proof) // PART_BYTES) or 1
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for number in range(count):
                part = proof[number * PART_BYTES : (number + 1) * PART_BYTES]
                file.write(self._sealer.seal("proof", self._place(answer_id, number, count), part))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, answer_id: str) -> tuple[int, Iterator[bytes]]:
        """Return the size of a proof, and its parts, of which the first is opened at once.

        Raises:
            OSError: It is not there.
            ProofError: `proof.state-damaged`; also by the later parts.
        """
        file = (self._folder / self._sealer.tag("answer", answer_id).hex()).open("rb")
        size = os.fstat(file.fileno()).st_size
        count = -(-size // (PART_BYTES + _MORE_BYTES)) or 1

        def parts() -> Iterator[bytes]:
            with file:
                for number in range(count):
                    sealed = file.read(PART_BYTES + _MORE_BYTES)
                    yield self._sealer.open("proof", self._place(answer_id, number, count), sealed)

        rest = parts()
        return size - count * _MORE_BYTES, chain([next(rest)], rest)

    def keep(self, tags: Collection[bytes]) -> None:
        """Delete all proofs but those of these answers; what has another kind of name is somebody else's."""
        names = {tag.hex() for tag in tags}
        for path in self._folder.iterdir():
            if path.name not in names and _NAME.fullmatch(path.name):
                path.unlink()

    def _place(self, answer_id: str, number: int, count: int) -> bytes:
        return self._sealer.tag("proof", f"{answer_id}\0{number}\0{count}")
