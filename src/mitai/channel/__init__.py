"""End-to-end encryption to an attested key: HPKE, Binary HTTP, chunked Oblivious HTTP, EHBP; see docs/spec/channel.md.

The server puts its app behind `ChannelMiddleware`; a client uses `mitai.client.transport`. Bytes in, bytes out: nothing
here opens a connection, a file or a thread.
"""

from mitai.channel import compiled as compiled  # first: it finds the others
from mitai.channel.asgi import EXCHANGE_KEY, ChannelMiddleware, Limits
from mitai.channel.exchange import EXCHANGE_HEADER, Exchange
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import KeyConfig
from mitai.channel.replay import ReplayCache

__all__ = [
    "EXCHANGE_HEADER",
    "EXCHANGE_KEY",
    "ChannelMiddleware",
    "Exchange",
    "KeyConfig",
    "KeyRing",
    "Limits",
    "ReplayCache",
]
