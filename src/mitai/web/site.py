"""The page over HTTP, for the gateway: its files as they are, compressed once, with strict headers.

The host is untrusted: a user who wants to know whether these are the published bytes asks `mitai web check`.

Invariants:

- Only the paths of the page's own files are answered, and only for GET and HEAD: no path of the API is hidden.
- The bytes are those that `Page.load` found to be the list's; nothing is read from disk for a request.

Example:
    >>> Site(Page.load(), offer).answer(request)
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mitai.attest.policy import MAX_POLICY_BYTES
from mitai.errors import WebError
from mitai.problem import problem
from mitai.web.page import ADDRESSES, LIST_NAME, OFFER_NAME, Page, page_headers

_MAX_RELEASE_BYTES = 1 << 20


class Offer(msgspec.Struct, frozen=True):
    """`mitai.json`: where the gateway is and what the host offers. The page believes none of it unless it is pinned."""

    v: int = 1
    gateway: str = ""  # its base URL; empty: where the page came from
    policy: str = ""  # text of the appraisal policy
    releases: tuple[str, ...] = ()  # signed release manifests, as text
    proof: str | msgspec.UnsetType = msgspec.UNSET  # what a service of answers with a proof is

    @staticmethod
    def read(policy: Path, releases: tuple[Path, ...] = (), gateway: str = "") -> Offer:
        """Make an offer of files."""
        manifests = tuple(_text(path, _MAX_RELEASE_BYTES) for path in releases)
        return Offer(gateway=gateway, policy=_text(policy, MAX_POLICY_BYTES), releases=manifests)

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def _text(path: Path, limit: int) -> str:
    data = path.read_bytes()
    if len(data) > limit:
        raise WebError("web.offer-malformed", f"{path} has {len(data)} bytes; at most {limit} are offered")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WebError("web.offer-malformed", f"{path} is not text") from error


class Site:
    """Every address of the page: its files, their list and what the host offers."""

    def __init__(self, page: Page | None, offer: Offer | None = None) -> None:
        files = {**page.files, LIST_NAME: page.list_bytes} if page else {}
        files |= {OFFER_NAME: offer.encode()} if offer else {}
        self._files = {f"/{path}": _File(path, data) for path, data in files.items()}
        for address, path in ADDRESSES.items():
            if f"/{path}" in self._files:
                self._files[address] = self._files[f"/{path}"]

    def answer(self, request: Request) -> Response | None:
        """Answer with a file of the page; None where the address is not the page's."""
        file = self._files.get(request.scope["path"])
        return file.answer(request) if file and request.method in {"GET", "HEAD"} else None

    def app(self) -> Starlette:
        """Return an app that serves the page and nothing else."""

        async def answer(request: Request) -> Response:
            return self.answer(request) or problem(404, "web.not-found", "the page has no such file")

        return Starlette(routes=[Route("/{path:path}", answer)])


class _File:
    """One file, as it is and compressed."""

    def __init__(self, path: str, data: bytes) -> None:
        self._data = data
        self._small = gzip.compress(data, mtime=0)
        self._headers = {
            **page_headers(path, data),
            "etag": f'W/"{hashlib.sha256(data).hexdigest()[:32]}"',  # weak: the same for both encodings
            "vary": "accept-encoding",
        }

    def answer(self, request: Request) -> Response:
        """Answer with the file, or that the browser's copy is still the same."""
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(None, 304, self._headers)
        codings = {part.strip() for part in request.headers.get("accept-encoding", "").split(",")}
        if "gzip" in codings and len(self._small) < len(self._data):
            return Response(self._small, 200, self._headers | {"content-encoding": "gzip"})
        return Response(self._data, 200, self._headers)
