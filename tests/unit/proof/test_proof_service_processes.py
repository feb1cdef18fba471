"""A service's processes: what they are told, and how they end when that is wrong."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from mitai.errors import ProofError
from mitai.proof.service import __main__ as server
from mitai.proof.service import worker
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.sealed import read_key
from mitai.proof.service.store import Store
from proof_service_rig import KEY, STATE_KEY, config, receipt, said

TEXT = 'port = 0\nprepared = "model"\nname = "tiny"\nkey = "key.pem"\nstate = "/state"\n'


def standard_input(content, *, terminal=False):
    return SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: terminal)


def test_folders_are_beside_the_file(tmp_path):
    path = tmp_path / "service.toml"
    path.write_text(TEXT)
    read = ServiceConfig.read(path)
    assert (read.prepared, read.key, read.state) == (str(tmp_path / "model"), str(tmp_path / "key.pem"), "/state")


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT + "more = 1\n",
        TEXT + "places = 0\n",
        TEXT + 'state_url = "mysql://x"\n',
        TEXT + "prompt_tokens = 5000\n",
        "\xff",
        TEXT + TEXT,
    ],
)
@pytest.mark.parametrize("main", [server.main, worker.main])
def test_a_configuration_that_is_wrong_ends_both(tmp_path, monkeypatch, text, main):
    path = tmp_path / "service.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ProofError) as refused:
        ServiceConfig.read(path)
    assert refused.value.code == "proof.config-malformed"
    monkeypatch.setattr(sys, "argv", ["main", "--config", str(path)])
    for name in ("log_to_stderr", "forbid_core_dumps"):
        monkeypatch.setattr(sys.modules[main.__module__], name, lambda: None)
    monkeypatch.setattr("os.nice", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit, match=r"proof\.config-malformed"):
        main()


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """Both `main`s with a configuration whose database nobody can reach, and nothing done to this process."""
    path = tmp_path / "service.toml"
    path.write_text(TEXT.replace("/state", "state") + 'state_url = "postgresql://mitai@/none?host=/nowhere"\n')
    monkeypatch.setattr(sys, "argv", ["main", "--config", str(path)])
    for module in (server, worker):
        for name in ("log_to_stderr", "forbid_core_dumps"):
            monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr("os.nice", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(worker.Prepared, "open", lambda _: None)


@pytest.mark.parametrize("main", [server.main, worker.main])
def test_without_a_key_or_a_database_both_end_with_the_reason(monkeypatch, quiet, main):
    for given, reason in ((STATE_KEY[:-1], r"proof\.state-key"), (STATE_KEY, r"refuses \(OperationalError\)")):
        monkeypatch.setattr(sys, "stdin", standard_input(given))
        with pytest.raises(SystemExit, match=reason):
            main()


def test_a_proof_that_takes_too_much_memory_has_failed_and_the_next_one_is_made(tmp_path, monkeypatch):
    KEY.save(tmp_path / "key.pem")
    store, proven = Store(config(tmp_path), STATE_KEY), []

    def prove(_prepared, prompt, _answer, _sampling):
        if prompt[-1] == 1:
            raise MemoryError
        proven.append(prompt)
        stop.set()
        return type("Proof", (), {"encode": lambda _: b"proof"})()

    class Stop:
        is_set = staticmethod(lambda: bool(proven))
        set = wait = staticmethod(lambda *_: None)

    stop = Stop()
    monkeypatch.setattr(worker, "prove_answer", prove)
    monkeypatch.setattr(worker.Prepared, "open", lambda _: None)
    for number in (1, 2):
        store.add(said(number), receipt(said(number)), "follows")
    worker.work(config(tmp_path), STATE_KEY, stop)
    assert [store.look(said(number).id).state for number in (1, 2)] == ["failed", "done"]
    store.close()


def test_a_key_is_exactly_what_stands_on_the_input(monkeypatch):
    for given in (b"", STATE_KEY[:-1], STATE_KEY + b"\n", STATE_KEY):
        monkeypatch.setattr(sys, "stdin", standard_input(given))
        if given == STATE_KEY:
            assert read_key() == STATE_KEY
            continue
        with pytest.raises(ProofError) as refused:
            read_key()
        assert refused.value.code == "proof.state-key"
    monkeypatch.setattr(sys, "stdin", standard_input(STATE_KEY, terminal=True))  # nobody waits for a person
    with pytest.raises(ProofError):
        read_key()
