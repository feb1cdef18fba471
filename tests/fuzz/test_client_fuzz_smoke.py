"""The fuzz target of the client's files, on a few inputs and without the fuzzer."""

from __future__ import annotations

import pytest
from fuzz_client_files import one_input

from mitai.identity import Identity

STREAM = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
SIGNED = Identity.from_seed(bytes(32)).sign(b"{}", "application/example").encode()


@pytest.mark.parametrize(
    "data",
    [
        STREAM,
        STREAM[:40],
        b"",
        b"{}",
        b"[[[[",
        b"\xff" * 40,
        SIGNED,
        SIGNED[:-2],
        b'{"code":"\x1b[31m","detail":"a\\u001bb"}',
    ],
)
def test_survives(data):
    one_input(data)
