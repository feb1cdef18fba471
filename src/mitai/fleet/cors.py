"""What browsers are told about the gateway's answers: who may read them from a page of another host.

A page that is hosted elsewhere talks to the gateway's public paths: sealed requests, evidence, the ledger, health and
the host's offer. All of that is public or sealed and none of it needs cookies, so every site may read it.

Invariants:

- `/control` and `/objects` are never opened to other sites, nor are methods beyond GET and POST.
- What a replica or the broker says about other sites, or about the page's host, is dropped: this is the gateway's word
  alone (`guests`).
- No answer is run as a script or style because of how it looks (`nosniff`), and nothing but the page's own files can be
  a document with a script: objects, replicas and broker share the page's origin, and with it what the browser keeps.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN = {
    "/ohttp",
    "/broker/ohttp",
    "/.well-known/mitai/evidence",
    "/broker/.well-known/mitai/evidence",
    "/healthz",
    "/mitai.json",
}
_OPEN_BELOW = "/broker/ledger/"
_METHODS = {"GET", "HEAD", "POST"}
_NO_PAGE = "default-src 'none'; sandbox"  # a Content-Security-Policy
_OF_HOST = (
    *(b"access-control-", b"clear-site-data", b"content-security-policy", b"refresh", b"service-worker-allowed"),
    b"set-cookie",
)
_PREFLIGHT = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "content-type, incremental, mitai-replica",
    "access-control-max-age": "86400",  # browsers keep it for two hours or a day
}


class BrowserRules:
    """ASGI middleware: answers preflight requests, and adds to each answer what a browser needs to know."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        opened = path in _OPEN or path.startswith(_OPEN_BELOW)
        if opened and method == "OPTIONS" and "access-control-request-method" in Headers(scope=scope):
            await Response(None, 204, _PREFLIGHT)(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                if opened and method in _METHODS:
                    headers["access-control-allow-origin"] = "*"
                    headers["access-control-expose-headers"] = "mitai-replica"
                if path.startswith("/objects/"):
                    headers["content-security-policy"] = _NO_PAGE
            await send(message)

        await self._app(scope, receive, told)


def guests(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return what of a replica's or the broker's headers goes out beside the page."""
    kept = [(name.lower(), value) for name, value in headers if not name.lower().startswith(_OF_HOST)]
    return [*kept, (b"content-security-policy", _NO_PAGE.encode())]
