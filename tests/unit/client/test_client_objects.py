"""Uploading and reading ciphertext objects, from stores that are honest and from some that are not."""

from __future__ import annotations

import httpx2
import pytest

from mitai.client.objects import HttpStore
from mitai.errors import CapsuleError

NAME = "0" * 32


def store(answer):
    return HttpStore("http://store.test/objects/c", httpx2.Client(transport=httpx2.MockTransport(answer)))


def test_ranges_are_read():
    content = bytes(range(100))

    def answer(request):
        start, end = request.headers["range"].removeprefix("bytes=").split("-")
        return httpx2.Response(206, stream=httpx2.ByteStream(content[int(start) : int(end) + 1]))

    buffer = memoryview(bytearray(20))
    assert store(answer).read_into(NAME, 10, buffer) == 20
    assert buffer == content[10:30]
    assert store(answer).read_into(NAME, 10, buffer[:0]) == 0


def test_more_than_was_asked_is_refused():
    with pytest.raises(CapsuleError) as refused:
        store(lambda _: httpx2.Response(206, stream=httpx2.ByteStream(b"x" * 100))).read_into(
            NAME, 0, memoryview(bytearray(10))
        )
    assert refused.value.code == "capsule.store-failed"


@pytest.mark.parametrize("status", [200, 403, 500])
def test_another_status_is_refused(status):
    with pytest.raises(CapsuleError):
        store(lambda _: httpx2.Response(status, content=b"x")).read_into(NAME, 0, memoryview(bytearray(1)))


def test_a_missing_object_and_a_store_that_is_gone():
    with pytest.raises(CapsuleError) as refused:
        store(lambda _: httpx2.Response(404)).size(NAME)
    assert refused.value.code == "capsule.object-missing"

    def gone(_):
        raise httpx2.ConnectError("gone")

    for attempt in (lambda: store(gone).size(NAME), lambda: store(gone).read_into(NAME, 0, memoryview(bytearray(1)))):
        with pytest.raises(CapsuleError):
            attempt()


def test_a_size_that_is_no_number():
    with pytest.raises(CapsuleError):
        store(lambda _: httpx2.Response(200, headers={"content-length": "many"})).size(NAME)


def test_a_name_that_points_elsewhere():
    with pytest.raises(CapsuleError):
        store(lambda _: httpx2.Response(206, content=b"")).read_into("../secret", 0, memoryview(bytearray(1)))
