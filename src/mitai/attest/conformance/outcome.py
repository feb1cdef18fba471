"""What every stage has in common: exit codes, refusals, strict input."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from mitai.errors import MitaiError

ACCEPTED, REJECTED, MALFORMED = 0, 10, 30
MAX_INPUT_BYTES = 1 << 20

Outcome = tuple[int, dict[str, object]]
Input = TypeVar("Input")


class Rejected(Exception):  # noqa: N818 - an outcome
    """A refusal by the suite's own name."""

    def __init__(self, code: str, stage: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.stage = stage


class Malformed(Exception):  # noqa: N818 - an outcome
    """The input is none."""


def run_stage(
    stage: str,
    data: bytes,
    kind: type[Input],
    appraise: Callable[[Input], dict[str, object]],
    translate: Callable[[MitaiError, Input], str] = lambda error, _: error.code,
) -> Outcome:
    """Decode one input, appraise it, and say what came out in the suite's words."""
    try:
        if len(data) > MAX_INPUT_BYTES:
            raise Malformed
        given = msgspec.json.decode(data, type=kind)
        if getattr(given, "schema_version", "1") != "1":
            raise Malformed
        return ACCEPTED, {"stage": stage, "accepted": True, "outputs": appraise(given)}
    except (Malformed, msgspec.MsgspecError, UnicodeError, RecursionError):
        return MALFORMED, refusal(stage, "INPUT_MALFORMED")
    except Rejected as rejected:
        return REJECTED, refusal(stage, rejected.code, {"stage": rejected.stage} if stage == "verify-full" else {})
    except MitaiError as error:
        return REJECTED, refusal(stage, translate(error, given), {"message": str(error)})


def moment(unix_s: int) -> datetime:
    """Return a time of the input."""
    try:
        return datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Malformed from error


def refusal(stage: str, code: str, more: dict[str, str] | None = None) -> dict[str, object]:
    """Return the output of a refusal."""
    return {"stage": stage, "accepted": False, "rejection": {"code": code, **(more or {})}}
