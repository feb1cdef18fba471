"""What an operator asks of the training worker behind a gateway; nobody vouches for what it answers.

Example:
    >>> job = submit(gateway, operator_token, text, upload_token)
    >>> show(gateway, operator_token, job["id"])["state"]
    'running'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from mitai.errors import FleetError
from mitai.fleet.platform import ask
from mitai.problem import error_from

_MAX_ANSWER_BYTES = 4 << 20
Fields = dict[str, Any]


def submit(gateway: str, token: str, job: str, upload_token: str, place: Mapping[str, object] | None = None) -> Fields:
    """Give a job file to the worker, with what lies at this same gateway; return what it says of the job.

    Args:
        gateway: The gateway's address.
        token: Its operator token.
        job: The job file's text.
        upload_token: Its upload token.
        place: Of a job of several workers: this one's `rank`, and `host` and `port` of rank 0.
    """
    body: dict[str, object] = {
        "job": job,
        "broker": f"{gateway}/broker",
        "objects": f"{gateway}/objects",
        "output": {"gateway": gateway, "token": upload_token},
    }
    body |= {"place": place} if place else {}
    return _asked(gateway, token, "jobs", body)


def every(gateway: str, token: str) -> Fields:
    """Return what the worker says of all jobs."""
    return _asked(gateway, token, "jobs")


def show(gateway: str, token: str, job: str) -> Fields:
    """Return what it says of one job."""
    return _asked(gateway, token, f"jobs/{quote(job, safe='')}")


def numbers(gateway: str, token: str, job: str, after: int = 0) -> list[dict[str, float]]:
    """Return the numbers of a job's steps, from the `after`-th on."""
    found: list[dict[str, float]] = []
    while True:
        page = _asked(gateway, token, f"jobs/{quote(job, safe='')}/logs?after={after + len(found)}")
        try:
            rows = msgspec.convert(page.get("numbers"), list[dict[str, float]])
        except msgspec.ValidationError:
            raise FleetError("fleet.control-refused", "the training worker's answer is malformed") from None
        found += rows
        if len(rows) < 1000:
            return found


def cancel(gateway: str, token: str, job: str) -> Fields:
    """End a job."""
    return _asked(gateway, token, f"jobs/{quote(job, safe='')}/cancel", {})


def _asked(gateway: str, token: str, path: str, body: Mapping[str, object] | None = None) -> Fields:
    headers = {"authorization": f"Bearer {token}"}
    status, content = ask(gateway, f"/control/train/{path}", _MAX_ANSWER_BYTES, headers, body)
    try:
        fields = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        fields = None
    if status not in {200, 202} or not isinstance(fields, dict):
        raise error_from(FleetError, status, content, code="fleet.control-refused", who="the training worker")
    return fields
