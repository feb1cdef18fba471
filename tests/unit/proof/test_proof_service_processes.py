"""A service's processes: what they are told, and how they end when that is wrong."""

from __future__ import annotations

import sys

import pytest

from mitai.errors import ProofError
from mitai.proof.service import __main__ as server
from mitai.proof.service import worker
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.store import Store
from proof_service_rig import KEY, config, receipt, said

TEXT = 'port = 0\nprepared = "model"\nname = "tiny"\nkey = "key.pem"\nstate = "/state"\n'


def test_folders_are_beside_the_file(tmp_path):
    path = tmp_path / "service.toml"
    path.write_text(TEXT)
    read = ServiceConfig.read(path)
    assert (read.prepared, read.key, read.state) == (str(tmp_path / "model"), str(tmp_path / "key.pem"), "/state")


@pytest.mark.parametrize(
    "text", ["", TEXT + "more = 1\n", TEXT + "places = 0\n", TEXT + "prompt_tokens = 5000\n", "\xff", TEXT + TEXT]
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


def test_a_proof_that_takes_too_much_memory_has_failed_and_the_next_one_is_made(tmp_path, monkeypatch):
    KEY.save(tmp_path / "key.pem")
    store, proven = Store(tmp_path / "state", config(tmp_path)), []

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
    worker.work(config(tmp_path), stop)
    assert [store.look(said(number).id).state for number in (1, 2)] == ["failed", "done"]
    store.close()
