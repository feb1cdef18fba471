"""Errors over HTTP: RFC 9457 problem documents, made on one side and raised again on the other.

A document carries `code`, `detail` and, where there is one, `hint`: the fields of `MitaiError`.
"""

from __future__ import annotations

import msgspec
from starlette.responses import JSONResponse, Response

from mitai.errors import MitaiError

MEDIA_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True):
    """The members that mitai reads; others are ignored, as RFC 9457 §3.2 asks."""

    type: str = "about:blank"
    status: int = 0
    code: str = ""
    detail: str = ""
    hint: str | None = None
    step: str | None = None


def problem(status: int, code: str, detail: str, hint: str | None = None) -> Response:
    """Return a problem document as a response."""
    content = {"type": "about:blank", "status": status, "code": code, "detail": detail}
    return JSONResponse(content | ({"hint": hint} if hint else {}), status, media_type=MEDIA_TYPE)


def problem_of(status: int, error: MitaiError) -> Response:
    """Return an error of the tree as a response."""
    return problem(status, error.code, error.message, error.hint)


def error_from(kind: type[MitaiError], status: int, body: bytes, *, code: str, who: str) -> MitaiError:
    """Return the error that a peer's answer stands for; `code` when it gave none.

    The peer may lie: its words are cut short and stripped of control characters before a person sees them.
    """
    try:
        told = msgspec.json.decode(body[:65536], type=Problem)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        told = Problem()
    detail = told.detail or f"{who} answered with status {status}"
    return kind(_plain(told.code, 100) or code, _plain(detail, 500), hint=_plain(told.hint or "", 500) or None)


def _plain(text: str, limit: int) -> str:
    return "".join(character for character in text[:limit] if character.isprintable())
