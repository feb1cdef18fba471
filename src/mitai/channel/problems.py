"""Refusals of the channel as problem documents (RFC 9457), and back into errors on the other side."""

from __future__ import annotations

from typing import Final

import msgspec

from mitai.errors import ChannelError, KeysChangedError, MitaiError, ReplayError

MEDIA_TYPE: Final = "application/problem+json"
OHTTP_KEY_TYPE: Final = "https://iana.org/assignments/http-problem-types#ohttp-key"  # RFC 9458 section 5.3
DATE_TYPE: Final = "https://iana.org/assignments/http-problem-types#date"  # RFC 9458 section 6.5.2

_STATUS: Final = {
    "channel.not-found": 404,
    "channel.method": 405,
    "channel.idle": 408,
    "channel.replayed": 409,
    "channel.too-large": 413,
    "channel.media-type": 415,
    "channel.app-failed": 500,
    "channel.busy": 503,
    "channel.replay-cache-full": 503,
    "channel.timeout": 504,
}
_TYPES: Final = {"channel.keys-changed": OHTTP_KEY_TYPE, "channel.date": DATE_TYPE}
_TITLES: Final = {"channel.keys-changed": "key identifier unknown", "channel.date": "date outside of acceptable range"}


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document, as far as we read and write it."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    code: str = ""
    detail: str = ""
    hint: str = ""


def status_of(error: MitaiError) -> int:
    """Return the HTTP status of a refusal: 400 unless its code has another."""
    return _STATUS.get(error.code, 400)


def encode(error: MitaiError, *, status: int | None = None, problem_type: str | None = None) -> bytes:
    """Return the problem document of a refusal; it says what the error says, which is never content."""
    return msgspec.json.encode(
        Problem(
            type=problem_type or _TYPES.get(error.code, "about:blank"),
            title=_TITLES.get(error.code, ""),
            status=status or status_of(error),
            code=error.code,
            detail=error.message,
            hint=error.hint or "",
        )
    )


def decode(body: bytes) -> Problem:
    """Parse a problem document leniently: what can't be read is an empty problem."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Problem()


def refusal(code: str, status: int) -> MitaiError:
    """Return the error that a client raises for a refusal of the channel; the code may come from an untrusted hop."""
    if code == "channel.keys-changed":
        return KeysChangedError(
            code,
            "the server does not hold the key any more that this request was sealed to",
            hint="verify the server again",
        )
    if code == "channel.replayed":
        return ReplayError(code, "the server has seen this request before")
    if code == "channel.date":
        return ReplayError(code, "the server's clock and this device's differ too much", hint="set the clock")
    known = code if code in _STATUS else "channel.refused"
    return ChannelError(known, f"the sealed request was refused with status {status}")
