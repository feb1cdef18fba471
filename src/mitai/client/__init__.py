"""Verify, then talk: sessions, HTTP clients over the sealed channel, receipts, and an owner's commands.

Light: no torch, no engine. `http_client` is all that most programs need.
"""

from mitai.client.http import async_http_client, connect, http_client, session_client
from mitai.client.receipts import LedgerMemory, Proof
from mitai.client.session import Session

__all__ = ["LedgerMemory", "Proof", "Session", "async_http_client", "connect", "http_client", "session_client"]
