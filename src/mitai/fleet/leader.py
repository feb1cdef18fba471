"""Which of several broker processes leads, as the gateway sees it: every process is asked, again and again.

What a process says of itself is believed for as long as it says so: nobody's safety rests on it, since requests are
sealed to one process's key and a broker that does not lead decides nothing.

Invariants:

- A leader is given up when it says so, refuses connections, or another one says that it leads; never for being slow.
- Waiting for a leader has an end.

Example:
    >>> leaders = Leaders({"broker-0": "http://127.0.0.1:8701", "broker-1": "http://127.0.0.1:8711"}, transport)
    >>> async with leaders:
    ...     leader = await leaders.find(5.0)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2
import msgspec

ASK_EVERY_S = 0.2
ANSWER_WITHIN_S = 1.0
ROLE_STANDBY = (b"mitai-role", b"standby")  # a field of every answer of a process that does not lead
_MAX_ANSWER_BYTES = 4096


@dataclass(frozen=True, eq=False)
class Leader:
    """The process that leads, until `gone` is set."""

    name: str
    url: str
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class _Health(msgspec.Struct, frozen=True):
    """What is read of `/healthz`."""

    role: str


class Leaders:
    """Finds the leader among the processes at some addresses.

    Args:
        urls: Name → base URL of every process. One alone is not asked.
        transport: Carries the questions.
    """

    def __init__(self, urls: Mapping[str, str], transport: httpx2.AsyncBaseTransport) -> None:
        self.urls, self._transport = dict(urls), transport
        self._leader: Leader | None = None
        self._found = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Leaders:
        """Begin to ask."""
        if len(self.urls) > 1:
            self._tasks = [asyncio.create_task(self._watch(name)) for name in self.urls]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def find(self, within_s: float) -> Leader | None:
        """Return the leader; wait for one up to `within_s` seconds."""
        try:
            async with asyncio.timeout(within_s):
                while self._leader is None:
                    self._found.clear()
                    await self._found.wait()
        except TimeoutError:
            return None
        return self._leader

    def lost(self, leader: Leader) -> None:
        """Say that a leader did not take a request."""
        leader.gone.set()
        if self._leader is leader:
            self._leader = None

    async def _watch(self, name: str) -> None:
        while True:
            role = await self._role(name)
            current = self._leader
            if role == "leader" and (current is None or current.name != name):
                if current is not None:
                    self.lost(current)
                self._leader = Leader(name, self.urls[name])
                self._found.set()
            elif role not in {"leader", "silent"} and current is not None and current.name == name:
                self.lost(current)
            await asyncio.sleep(ASK_EVERY_S)

    async def _role(self, name: str) -> str:
        request = httpx2.Request("GET", f"{self.urls[name]}/healthz", extensions={"timeout": _TIMEOUT})
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await self._transport.handle_async_request(request)
                try:
                    body = b""
                    async for part in answer.aiter_raw():
                        body += part
                        if len(body) > _MAX_ANSWER_BYTES:
                            return "unknown"
                finally:
                    await answer.aclose()
            return msgspec.json.decode(body, type=_Health).role if answer.status_code == 200 else "unknown"
        except (TimeoutError, httpx2.TimeoutException):
            return "silent"
        except (httpx2.HTTPError, msgspec.MsgspecError, UnicodeError):
            return "unknown"


_TIMEOUT = httpx2.Timeout(ANSWER_WITHIN_S).as_dict()
