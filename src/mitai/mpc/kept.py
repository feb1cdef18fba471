"""What a user keeps of an answer by parties: their receipts, to be checked later, offline, by anybody.

Follows `docs/spec/receipt.md`, "Parties".

Invariants:

- Which keys are the parties' is said by whoever checks (a client's `party.toml`), never by the file.
- The file holds digests of shares, keys and lengths: nothing of question or answer.

Example:
    >>> kept = Kept.decode(path.read_bytes())
    >>> kept.check({"p0": "3f…", "p1": "a0…", "dealer": "77…"})["p0"].task
    'generate 64 16 greedy'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from mitai.errors import MpcError
from mitai.identity import PublicKey
from mitai.ledger.receipt import MAX_RECEIPT_BYTES, PartyReceipt
from mitai.mpc.receipts import agree, missing, opened
from mitai.mpc.settings import SETTINGS
from mitai.wire import parse_json

MAX_KEPT_BYTES = 1 << 20
Role = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A party's receipt, and the key that signed it."""

    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    envelope: Annotated[bytes, msgspec.Meta(max_length=MAX_RECEIPT_BYTES)]


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The receipts of all parties for one answer."""

    v: Literal["mitai parties proof v1"] = "mitai parties proof v1"
    receipts: Annotated[dict[Role, Signed], msgspec.Meta(min_length=1, max_length=8)]

    @staticmethod
    def of(receipts: Mapping[str, bytes], keys: Mapping[str, PublicKey]) -> Kept:
        """Return what `mitai.mpc.clients.Answer` has."""
        return Kept(receipts={role: Signed(keys[role].raw, envelope) for role, envelope in receipts.items()})

    def encode(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.format(msgspec.json.encode(self))

    @staticmethod
    def decode(data: bytes) -> Kept:
        """Parse a kept file; raise `ParseError` on anything else or above 1 MiB."""
        return parse_json(
            data, Kept, MAX_KEPT_BYTES, "mpc.proof-malformed", "this file does not hold receipts of parties"
        )

    def check(self, known: Mapping[str, str]) -> dict[str, PartyReceipt]:
        """Return the receipts, by role.

        1. Each is signed by the key that is known to be its party's, and names others as they are known.
        2. They say the same.
        3. None is missing, of all parties of the setting that they name.

        Args:
            known: Key ids by role: of all parties, and of those who deal where one knows them.

        Raises:
            MpcError: `mpc.receipt-wrong`, `mpc.receipt-missing`.
            ParseError: A key is none.
        """
        found = {}
        for role, signed in self.receipts.items():  # 1.
            key = PublicKey(signed.key)
            if known.get(role) != key.key_id:
                raise _wrong(role, "its key is not the one that is known to be this party's")
            found[role] = opened(role, signed.envelope, key)
            if any(known.get(name, key_id) != key_id for name, key_id in found[role].parties.items()):
                raise _wrong(role, "it names other sides than those that are known")
        agree(found)  # 2.
        role, receipt = next(iter(found.items()))  # 3.
        setting = next((each for each in SETTINGS.values() if each.name == receipt.protocol), None)
        if setting is None:
            raise _wrong(role, "its setting is none that is known")
        for name in setting.parties:
            if name not in found:
                raise missing(name)
        return found


def _wrong(role: str, why: str) -> MpcError:
    return MpcError(
        "mpc.receipt-wrong",
        f"the receipt of {role} does not hold: {why}",
        hint="are the keys from the client who asked? if so, don't rely on what this file says",
    )
