"""Where ciphertext comes from, and what a replica's file may say."""

from __future__ import annotations

import msgspec
import pytest

from mitai.broker.policy.facts import COLUMNS, NUMBERS
from mitai.capsule import FolderStore, FsspecStore
from mitai.client.objects import HttpStore
from mitai.errors import ServeError
from mitai.serve.config import DeployRequest, ServeConfig
from mitai.serve.deployment import object_store


def test_stores_by_address(tmp_path):
    with object_store("http://127.0.0.1:1/objects/", "abc") as store:
        assert isinstance(store, HttpStore)
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / ("0" * 32)).write_bytes(b"object")
    with object_store(f"file://{tmp_path}", "abc") as store:
        assert isinstance(store, FolderStore)
        assert store.names() == ("0" * 32,)
    with object_store("memory://objects", "abc") as store:
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


@pytest.mark.parametrize("name", [*NUMBERS, COLUMNS, f"{COLUMNS}.2"])
def test_a_host_declares_nothing_that_owners_count(name):
    body = {"capsules": ["ab"], "broker": "http://b", "objects": "file:///o", "model": "tiny"}
    assert msgspec.convert(body | {"parameters": {"region": "eu"}}, DeployRequest).parameters == {"region": "eu"}
    with pytest.raises(msgspec.ValidationError, match="on its host's word"):
        msgspec.convert(body | {"parameters": {name: "1"}}, DeployRequest)
