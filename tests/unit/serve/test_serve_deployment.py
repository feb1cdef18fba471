"""Where ciphertext comes from, and what a replica's file may say."""

from __future__ import annotations

import pytest

from mitai.capsule import FsspecStore, MemoryStore
from mitai.client.objects import HttpStore
from mitai.errors import ServeError
from mitai.serve.config import ServeConfig
from mitai.serve.deployment import ReadAhead, object_store


class Counting(MemoryStore):
    def __init__(self, objects):
        super().__init__(objects)
        self.reads = []

    def read(self, name, offset, length):
        self.reads.append((offset, length))
        return super().read(name, offset, length)


def test_reading_ahead_changes_nothing_but_the_number_of_reads():
    content = bytes(range(256)) * 40
    store = Counting({"a" * 32: content, "b" * 32: content[::-1]})
    ahead = ReadAhead(store, 4096)
    assert ahead.size("a" * 32) == len(content)
    for at in range(0, len(content), 100):
        assert ahead.read("a" * 32, at, 100) == content[at : at + 100]
    assert len(store.reads) <= 4
    assert ahead.read("b" * 32, 5, 10) == content[::-1][5:15]
    assert ahead.read("a" * 32, 1, 3) == content[1:4]
    assert ahead.read("a" * 32, 0, 9000) == content[:9000]
    assert ahead.read("a" * 32, len(content) - 5, 50) == content[-5:]  # a short answer stays short


def test_stores_by_address(tmp_path):
    with object_store("http://127.0.0.1:1/objects/", "abc") as store:
        assert isinstance(store, HttpStore)
    with object_store(f"file://{tmp_path}", "abc") as store:
        assert isinstance(store, FsspecStore)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "port = 1",
        'port = 1\nsim = "x"',
        'port = -1\nsim = "x"\nbroker_policy = "p"',
        'port = 1\nsim = "x"\nbroker_policy = "p"\nkem = "rsa"',
        'port = 1\nsim = "x"\nbroker_policy = "p"\n[limits]\nfoo = 1',
        "[",
    ],
)
def test_a_wrong_file_is_refused(text):
    with pytest.raises(ServeError) as refused:
        ServeConfig.parse(text)
    assert refused.value.code == "serve.config-malformed"


def test_a_file():
    text = 'port = 1\nsim = "x"\nbroker_policy = "p"\n[engine]\nmax_sequences = 3\n[limits]\nmax_requests = 5\n'
    config = ServeConfig.parse(text)
    assert (config.host, config.engine.max_sequences, config.limits.max_requests) == ("127.0.0.1", 3, 5)
