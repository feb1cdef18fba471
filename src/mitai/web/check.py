"""Compare the page of a host with the published one, byte for byte.

What a browser shows is only as trustworthy as the script that the host sent to it, and a page can't vouch for itself.
So somebody else has to look: this does, from outside, without running anything of the host's.

Invariants:

- What is expected comes from a release or from the installed page, never from the host.
- Every answer is read up to a limit, never decompressed, and no redirect is followed.

Example:
    >>> faults = host_faults("https://chat.example", digest)
    ['assets/index-1.js is changed']
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx2

from mitai.attest.refvalues.release import Release
from mitai.attest.refvalues.statement import Subject
from mitai.bodies import PLAIN, bounded
from mitai.errors import WebError
from mitai.web.page import (
    ADDRESSES,
    LIST_NAME,
    MAX_FILE_BYTES,
    MAX_LIST_BYTES,
    SUBJECT,
    installed_page,
    list_faults,
    page_headers,
    parse_list,
)

# With these a host could add to the page, or make other bytes of it, although every file is the published one.
_FORBIDDEN = (
    *("content-encoding", "content-security-policy-report-only", "link", "refresh", "service-worker-allowed"),
    *("set-cookie", "sourcemap", "speculation-rules", "x-sourcemap"),
)


def page_digest(release: Release, subjects: tuple[Subject, ...]) -> str:
    """Return the digest of the page that a release names."""
    for subject in subjects:
        if subject.name == SUBJECT and "sha256" in subject.digest:
            return subject.digest["sha256"]
    raise WebError("web.release-without-page", f"version {release.version} of {release.workload} names no page")


def host_faults(url: str, digest: str, *, headers: bool = True, http: httpx2.Client | None = None) -> list[str]:
    """Say in what the page at `url` differs from the one with this digest; an empty list: it is the same.

    1. The list of the page's files is the expected one.
    2. Every file on it is there and is the listed one, also at the short addresses.
    3. Every answer comes with the headers that the file asks for, and with none that could add to the page.

    Args:
        url: Where the page is, without a file name.
        digest: The page's digest, from whoever is trusted.
        headers: Whether to look at headers: some hosts of static files can't be told to send any.
        http: The client to ask with.
    """
    with http or httpx2.Client(timeout=30.0) as client:
        return list(_faults(client, url.rstrip("/"), digest, headers))


def _faults(client: httpx2.Client, url: str, digest: str, headers: bool) -> Iterator[str]:
    # 1
    told = _get(client, f"{url}/{LIST_NAME}", MAX_LIST_BYTES).body
    if told is not None and hashlib.sha256(told).hexdigest() == digest:
        expected = parse_list(told)
    elif (installed := installed_page()) and installed.digest == digest:
        expected = parse_list(installed.list_bytes)
        yield from _list_differences(expected, told)
    else:
        yield f"{LIST_NAME} is not the one of the page {digest}"
        return
    # 2, 3
    for path, sha256 in expected.items():
        yield from _file_faults(_get(client, f"{url}/{path}", MAX_FILE_BYTES), path, sha256, headers)
    for address, path in ADDRESSES.items():
        got = _get(client, f"{url}{address}", MAX_FILE_BYTES)
        if path in expected and not (address == "/console" and got.status == 404):  # a host of plain files has none
            yield from (f"{address}: {fault}" for fault in _file_faults(got, path, expected[path], headers))


def _list_differences(expected: Mapping[str, str], told: bytes | None) -> Iterator[str]:
    """Say in what the host's own list differs: a file that it adds is found nowhere else."""
    try:
        listed = parse_list(told or b"")
    except WebError:
        yield f"{LIST_NAME} is missing or malformed"
    else:
        yield from (f"{LIST_NAME}: {fault}" for fault in list_faults(expected, listed))


@dataclass(frozen=True)
class _Got:
    """A host's answer; `body` is None above the limit."""

    status: int
    headers: httpx2.Headers
    body: bytes | None


def _get(client: httpx2.Client, url: str, limit: int) -> _Got:
    try:
        with client.stream("GET", url, headers=PLAIN, follow_redirects=False) as answer:
            return _Got(answer.status_code, answer.headers, bounded(answer, limit, within_s=60.0))
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise WebError("web.unreachable", f"{url} can't be read ({type(error).__name__})") from error


def _file_faults(got: _Got, path: str, sha256: str, headers: bool) -> Iterator[str]:
    if got.status != 200:
        yield f"{path} is missing (status {got.status})"
        return
    if got.body is None or hashlib.sha256(got.body).hexdigest() != sha256:
        yield f"{path} is changed"
        return
    given = got.headers.get("content-type", "")
    kind, _, parameters = given.lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if charset not in {"", "utf-8"} or (path.endswith(".html") and kind.strip() != "text/html"):
        yield f"{path} is to be read as something else: content-type {given[:80]!r}"
    yield from (f"{path} comes with a header {name}" for name in _FORBIDDEN if name in got.headers)
    for name, value in page_headers(path, got.body).items() if headers else ():
        if name not in {"cache-control", "content-type"} and got.headers.get(name, "").lower() != value.lower():
            yield f"{path} comes without the header {name}: {value}"
