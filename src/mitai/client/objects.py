"""Ciphertext objects at a gateway: upload a sealed folder, read ranges of its objects.

Nothing here is trusted or secret: the objects are ciphertext, and what comes back is checked by whoever opens it.

Example:
    >>> upload(Path("demo.capsule"), "http://127.0.0.1:8700", token)
    >>> open_capsule(HttpStore("http://127.0.0.1:8700/objects/" + capsule_id), envelope, key, owner=owner)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx2

from mitai.bodies import PLAIN, bounded
from mitai.capsule import MANIFEST_NAME, open_manifest
from mitai.capsule.stores import checked, missing
from mitai.errors import CapsuleError, ClientError
from mitai.identity import PublicKey
from mitai.problem import error_from

_BLOCK_BYTES = 4 << 20
_MAX_REFUSAL_BYTES = 64 << 10
Report = Callable[[int, int], None]


class HttpStore:
    """The objects of one capsule under an HTTP address that answers range requests."""

    def __init__(self, url: str, http: httpx2.Client | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = http or httpx2.Client(timeout=60.0)

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        answer = self._send("HEAD", name)
        try:
            return int(answer.headers["content-length"])
        except (KeyError, ValueError):
            raise CapsuleError("capsule.store-failed", f"the store gives no size for object {name}") from None

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; a store that sends more than was asked is refused."""
        done = 0
        if not buffer:
            return done
        try:
            headers = {"range": f"bytes={offset}-{offset + len(buffer) - 1}", "accept-encoding": "identity"}
            with self._http.stream("GET", f"{self._url}/{checked(name)}", headers=headers) as answer:
                _check_status(answer, name, expected=206)
                for part in answer.iter_raw():
                    if done + len(part) > len(buffer):
                        raise CapsuleError("capsule.store-failed", f"the store sends more of {name} than was asked")
                    buffer[done : done + len(part)] = part
                    done += len(part)
        except httpx2.HTTPError as error:
            raise _unreachable(name, error) from error
        return done

    def _send(self, method: str, name: str) -> httpx2.Response:
        try:
            answer = self._http.request(method, f"{self._url}/{checked(name)}", headers={"accept-encoding": "identity"})
        except httpx2.HTTPError as error:
            raise _unreachable(name, error) from error
        _check_status(answer, name, expected=200)
        return answer


def upload(
    folder: Path, gateway: str, token: str, *, owner: PublicKey, progress: Report | None = None, revision: bool = False
) -> int:
    """Store every object of a sealed folder at a gateway, and its manifest last; return the bytes sent.

    Of a new `revision` only the objects are stored, beside the former ones: its manifest comes from the broker.
    Objects that are there already are left alone, so an interrupted upload can be repeated.

    Raises:
        ClientError: The gateway refused or can't be reached.
        CapsuleError, MitaiError: The folder is not a whole capsule of `owner`.
    """
    manifest = open_manifest((folder / MANIFEST_NAME).read_bytes(), owner=owner)
    names = [entry.object for entry in manifest.files] + ([] if revision else [MANIFEST_NAME])
    total = sum((folder / name).stat().st_size for name in names)
    done, sent = 0, 0
    with httpx2.Client(timeout=60.0, headers={"authorization": f"Bearer {token}"}) as http:
        for name in names:
            url, path = f"{gateway.rstrip('/')}/objects/{manifest.capsule_id}/{name}", folder / name
            size = path.stat().st_size
            if not _stored(http, url, size):
                _put(http, url, _blocks(path, partial(_report, progress, done, total)))
                sent += size
            done += size
            if progress:
                progress(done, total)
    return sent


def _report(progress: Report | None, before: int, total: int, read: int) -> None:
    if progress:
        progress(before + read, total)


def _stored(http: httpx2.Client, url: str, size: int) -> bool:
    try:
        answer = http.head(url)
    except httpx2.HTTPError as error:
        raise _no_gateway(url, error) from error
    if answer.status_code == 200 and int(answer.headers.get("content-length", -1)) != size:
        raise ClientError(
            "client.object-differs",
            f"another object of this name is stored at {url}",
            hint="objects are never overwritten: seal again, which makes a new capsule",
        )
    return answer.status_code == 200


def _put(http: httpx2.Client, url: str, blocks: Iterator[bytes]) -> None:
    try:
        with http.stream("PUT", url, content=blocks, headers=PLAIN) as answer:
            body = bounded(answer, _MAX_REFUSAL_BYTES) or b""  # what is longer is no reason
    except httpx2.HTTPError as error:
        raise _no_gateway(url, error) from error
    if answer.status_code != 201:
        raise error_from(ClientError, answer.status_code, body, code="client.upload-refused", who=url)


def _blocks(path: Path, report: Callable[[int], object]) -> Iterator[bytes]:
    with path.open("rb") as file:
        read = 0
        while block := file.read(_BLOCK_BYTES):
            yield block
            read += len(block)
            report(read)


def _check_status(answer: httpx2.Response, name: str, *, expected: int) -> None:
    if answer.status_code == 404:
        raise missing(name)
    if answer.status_code != expected:
        raise CapsuleError("capsule.store-failed", f"the store answered with status {answer.status_code} for {name}")


def _unreachable(name: str, error: httpx2.HTTPError) -> CapsuleError:
    return CapsuleError("capsule.store-failed", f"object {name} can't be read ({type(error).__name__})")


def _no_gateway(url: str, error: httpx2.HTTPError) -> ClientError:
    return ClientError("client.unreachable", f"{url} can't be reached ({type(error).__name__})", hint="is it up?")
