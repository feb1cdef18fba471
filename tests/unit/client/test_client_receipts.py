"""The memory of ledgers, and proofs on disk."""

from __future__ import annotations

import pytest

from mitai.client.receipts import LedgerMemory, Proof, ledger_fetcher
from mitai.errors import ClientError, LedgerError, ParseError
from mitai.identity import Identity
from mitai.ledger import FolderStore, Log, folder_reader

ORIGIN = "example.org/log"


def make(folder, key, entries):
    log = Log(FolderStore(folder), key, ORIGIN)
    log.append(entries)
    return log


@pytest.fixture
def key():
    return Identity.generate()


def test_a_growing_ledger_is_followed(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    memory, fetch = LedgerMemory(tmp_path / "memory"), folder_reader(tmp_path / "log")
    assert memory.observe(log.checkpoint(), log.vkey, fetch).size == 2
    log.append([b"three"] * 300)
    assert memory.observe(log.checkpoint(), log.vkey, fetch).size == 302
    assert memory.recall(log.vkey).size == 302


def test_an_older_checkpoint_of_the_same_history_is_fine(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    old = log.checkpoint()
    log.append([b"three"])
    memory, fetch = LedgerMemory(tmp_path / "memory"), folder_reader(tmp_path / "log")
    memory.observe(log.checkpoint(), log.vkey, fetch)
    assert memory.observe(old, log.vkey, fetch).size == 2
    assert memory.recall(log.vkey).size == 3


def test_another_history_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    fork = make(tmp_path / "fork", key, [b"one", b"TWO", b"three"])
    memory = LedgerMemory(tmp_path / "memory")
    memory.observe(log.checkpoint(), log.vkey, folder_reader(tmp_path / "log"))
    with pytest.raises(LedgerError) as refused:
        memory.observe(fork.checkpoint(), fork.vkey, folder_reader(tmp_path / "fork"))
    assert refused.value.code == "ledger.forked"


def test_a_receipts_checkpoint_of_another_history_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two", b"three"])
    fork = make(tmp_path / "fork", key, [b"one", b"TWO"])
    with pytest.raises(LedgerError) as refused:
        LedgerMemory(tmp_path / "memory").observe(fork.checkpoint(), log.vkey, folder_reader(tmp_path / "log"))
    assert refused.value.code == "ledger.forked"


def test_a_rolled_back_ledger_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one", b"two"])
    memory = LedgerMemory(tmp_path / "memory")
    memory.observe(log.checkpoint(), log.vkey, folder_reader(tmp_path / "log"))
    older = make(tmp_path / "older", key, [b"one"])
    with pytest.raises(LedgerError) as refused:
        memory.observe(older.checkpoint(), older.vkey, folder_reader(tmp_path / "older"), wait_s=0.1)
    assert refused.value.code == "ledger.rolled-back"


def test_an_unpublished_ledger_is_refused(tmp_path, key):
    log = make(tmp_path / "log", key, [b"one"])
    with pytest.raises(LedgerError):
        LedgerMemory(tmp_path / "memory").observe(log.checkpoint(), log.vkey, lambda _: None, wait_s=0.1)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 10000, b"\xff", b"x" * (13 << 20)])
def test_bytes_that_are_no_proof(data):
    with pytest.raises(ParseError):
        Proof.decode(data)


def test_a_ledger_over_http_that_lies_or_is_gone():
    import httpx2

    answers = {
        "/broker/ledger/checkpoint": httpx2.Response(500),
        "/broker/ledger/large": httpx2.Response(200, content=b"x" * (33 << 20)),
    }
    with httpx2.Client(
        transport=httpx2.MockTransport(lambda request: answers.get(request.url.path, httpx2.Response(404)))
    ) as http:
        fetch = ledger_fetcher("http://gateway.test", http)
        assert fetch("none") is None
        with pytest.raises(ClientError):
            fetch("checkpoint")
        with pytest.raises(ClientError) as refused:
            fetch("large")
        assert refused.value.code == "client.ledger-too-large"
