"""What both ends know of one sealed exchange: its id, and the digests of what went over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_hex
from typing import Final

EXCHANGE_HEADER: Final = "mitai-exchange"  # sealed response header with the exchange's id
REFUSAL_HEADER: Final = "mitai-refusal"  # sealed response header with the code of a refusal by the channel itself
_NAME_LABEL: Final = b"mitai exchange v1\0"


@dataclass(slots=True)
class Exchange:
    """One request and its answer.

    Attributes:
        protocol: "ohttp-chunked", "ohttp" or "ehbp".
        id: Random hex, chosen by the server and told to the client under the seal; empty until it is known.
        request_sha256: Digest (hex) of the sealed request body as on the wire; None until it was read whole.
        response_sha256: Digest (hex) of the sealed response body as on the wire; None until it ended well.
    """

    protocol: str
    id: str = field(default_factory=lambda: token_hex(16))
    request_sha256: str | None = None
    response_sha256: str | None = None

    @property
    def name(self) -> str:
        """What the exchange is called in public (receipts, ledger): a digest, since the id fetches the receipt."""
        return sha256(_NAME_LABEL + self.id.encode()).hexdigest()[:32]
