"""`verify`, `chat`, `receipt` and `up` where parties compute together: what is shown, kept and refused."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import httpx2
import pytest

from mitai.cli import parties
from mitai.cli.commands import app
from mitai.cli.options import client_folder, platform_url
from mitai.cli.output import Output
from mitai.client.transport import EXCHANGE_EXTENSION
from mitai.errors import MitaiError, MpcError
from mitai.fleet.home import Home, PlatformFile
from mitai.identity import Identity
from mitai.ledger.receipt import PartyReceipt
from mitai.mpc.kept import Kept
from mitai.mpc.settings import SETTINGS
from mitai.mpc.sharing import Generation

SIDES = {role: Identity.generate() for role in ("p0", "p1", "dealer")}
KNOWN = {role: identity.key_id for role, identity in SIDES.items()}
FIELDS = {
    "exchange": "0" * 32,
    "request_sha256": "1" * 64,
    "response_sha256": "2" * 64,
    "started": "2026-11-22T15:00:00Z",
    "finished": "2026-11-22T15:00:09Z",
    "protocol": "2+1",
    "version": "0.1.0",
    "parties": KNOWN,
    "evidence_sha256": {"dealer": "6" * 64},
    "shares": "3" * 32,
    "config_sha256": "4" * 64,
    "approximation": "exact",
    "task": "generate 64 16 greedy",
    "temperature": 0.0,
    "top_p": 1.0,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path))
    return Home(tmp_path)


@pytest.fixture
def side(monkeypatch):
    """A client's folder as it is read, wherever it is."""
    tasks = tuple(Generation(None, length, 16, kind) for length in (64, 256) for kind in ("greedy", "sampled"))
    side = SimpleNamespace(
        peers={role: SimpleNamespace(key_id=key, address=f"{role}:1") for role, key in KNOWN.items()},
        offer=SimpleNamespace(setting=SETTINGS["2+1"], tasks=tasks, config_sha256="4" * 64, approximation="exact"),
        config=SimpleNamespace(model="demo"),
    )
    monkeypatch.setattr(parties.Side, "open", lambda _: side)
    monkeypatch.setattr(parties, "greet", lambda *_: {"p0": None, "p1": None})
    return side


def run(*words):
    return app(list(map(str, words)), exit_on_error=False, print_error=False, result_action="return_value")


def kept(**changes):
    signed = {
        role: PartyReceipt(role=role, **FIELDS | (changes if role == "p1" else {})).sign(SIDES[role])
        for role in ("p0", "p1")
    }
    return Kept.of(signed, {role: SIDES[role].public for role in signed}).encode()


def refused(code, *words):
    with pytest.raises(MitaiError) as caught:
        run(*words)
    assert caught.value.code == code


def up(home, trust="mpc", pid=None):
    pids = {"p0": os.getpid() if pid is None else pid}
    home.write_platform(PlatformFile("", "", "", pids, simulated=True, trust=trust))


def test_which_platform_is_meant(home, tmp_path, monkeypatch):
    assert client_folder(home, None) is None
    (tmp_path / "client").mkdir()
    assert client_folder(home, str(tmp_path / "client")) is None
    (tmp_path / "client" / "share.json").touch()
    assert client_folder(home, str(tmp_path / "client")) == tmp_path / "client"
    assert client_folder(home, "http://x") is None
    up(home)
    with pytest.raises(MitaiError, match="stopped"):
        client_folder(home, None)
    monkeypatch.setattr("mitai.cli.options.alive", lambda _: True)
    assert client_folder(home, None) == home.mpc_client
    with pytest.raises(MitaiError) as caught:
        platform_url(home, None)
    assert caught.value.code == "client.no-gateway"
    assert platform_url(home, "http://x") == "http://x"
    up(home, "tee")
    assert client_folder(home, None) is None


@pytest.mark.parametrize(
    "words",
    [
        ("up", "--trust", "mpc", "--port", "1"),
        ("up", "--trust", "mpc", "--replicas", "2", "--train"),
        ("up", "--trust", "mpc", "--no-model"),
        ("up", "--setting", "3pc"),
        ("up", "--new-tokens", "5", "--prompt-tokens", "5"),
    ],
)
def test_options_of_another_kind_of_platform(home, words):
    refused("fleet.option-useless", *words)
    assert not home.platform.exists()


def test_options_that_mean_nothing_to_parties(home, side, tmp_path):
    (tmp_path / "share.json").touch()
    for words in (("verify", "--nonce", "00"), ("verify", "--policy", "x"), ("chat", "--policy", "x", "-m", "y")):
        refused("client.option-malformed", words[0], str(tmp_path), *words[1:])


def test_who_would_answer_is_shown(side, home, tmp_path, capsys):
    (tmp_path / "share.json").touch()
    run("verify", tmp_path)
    shown = capsys.readouterr().out
    for word in (*KNOWN.values(), "p0:1", "2+1", "padded to 64 or 256 tokens", "no policy demands", "exact", "demo"):
        assert word in shown
    assert "ONE MACHINE" not in shown
    run("verify", tmp_path, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["simulated"], told["dealers"]) == ("verified", False, {"dealer": KNOWN["dealer"]})
    assert (told["prompt_tokens"], told["new_tokens"], told["sampling"]) == ([64, 256], [16], ["greedy", "sampled"])
    assert told["parties"]["p1"] == {"key": KNOWN["p1"], "address": "p1:1", "machine": None}


def test_a_party_that_does_not_hold_is_an_error(side, home, tmp_path, monkeypatch):
    def lie(*_):
        raise MpcError("mpc.peer-unproven", "its evidence does not hold")

    (tmp_path / "share.json").touch()
    monkeypatch.setattr(parties, "greet", lie)
    refused("mpc.peer-unproven", "verify", tmp_path)
    refused("mpc.peer-unproven", "chat", tmp_path, "-m", "x")


def test_receipts_are_checked_offline(side, home, tmp_path, capsys):
    path = tmp_path / "kept.json"
    path.write_bytes(kept())
    run("receipt", path)
    shown = capsys.readouterr().out
    for word in (*KNOWN.values(), "generate 64 16 greedy", "0" * 32, "6" * 64, "signed by p0, p1"):
        assert word in shown
    run("receipt", path, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["receipts"]["p1"]["parties"] == KNOWN
    refused("client.option-malformed", "receipt", path, "--policy", "x")
    path.write_bytes(kept(task="generate 64 64 greedy"))
    refused("mpc.receipt-wrong", "receipt", path)
    path.write_bytes(b"[")
    refused("client.proof-malformed", "receipt", path)


@pytest.fixture
def talk(side, home, tmp_path, monkeypatch):
    """A conversation with parties whose API gives this answer and this receipt."""
    api = {"receipt": kept(), "finish": b"stop"}

    def answer(request):
        if request.url.path.startswith("/v1/receipts/"):
            return httpx2.Response(200 if api["receipt"] else 404, content=api["receipt"])
        data = b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"%b"}]}\n\n' % api["finish"]
        return httpx2.Response(
            200, content=data + b"data: [DONE]\n\n", extensions={EXCHANGE_EXTENSION: SimpleNamespace(id="e" * 32)}
        )

    http = httpx2.Client(transport=httpx2.MockTransport(answer), base_url="http://x.invalid")
    monkeypatch.setattr(parties, "http_client", lambda _: http)
    talk = parties.PartyTalk(Output(True), home, tmp_path, {})
    talk.api = api
    return talk


def test_an_answer_comes_with_receipts(talk, home, capsys):
    talk.ask("q", "demo")
    told = json.loads(capsys.readouterr().out)
    assert (told["answer"], told["receipt"], told["parties"]) == ("Hi", "0" * 32, ["p0", "p1"])
    assert (home.receipts / f"{'0' * 32}.json").read_bytes() == talk.api["receipt"]
    assert talk.verified == "p0: the key that you know; p1: the key that you know"
    assert not talk.simulated


def test_an_answer_that_is_cut_is_said_to_be(talk, capsys):
    talk.api["finish"] = b"length"
    talk.ask("q", "demo")
    assert "cut after" in capsys.readouterr().err


@pytest.mark.parametrize("receipt", [b"", kept(shares="f" * 32)])
def test_an_answer_whose_receipts_do_not_hold_is_an_error(talk, home, capsys, receipt):
    talk.api["receipt"] = receipt
    with pytest.raises(MitaiError):
        talk.ask("q", "demo")
    assert capsys.readouterr().out == ""
    assert not home.receipts.exists()


@pytest.mark.parametrize("again", [False, True])
def test_who_interrupts_stays_or_insists(talk, monkeypatch, capsys, again):
    stayed = []

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parties.chats, "chat", interrupt)
    monkeypatch.setattr(parties, "stay", interrupt if again else lambda: stayed.append(1))
    monkeypatch.setattr(parties.os, "_exit", lambda status: stayed.append(status))
    with pytest.raises(KeyboardInterrupt):
        talk.ask("q", "demo")
    assert stayed == ([130] if again else [1])
    assert "Staying" in capsys.readouterr().err


def test_sides_keep_their_keys_when_a_model_is_cut_anew(home, monkeypatch, tmp_path):
    made = []

    def split(model, out, setting, progress):
        made.append(model)
        for role in (*SETTINGS[setting].roles, "client"):
            (out / role).mkdir(parents=True)

    monkeypatch.setattr(parties, "split_model", split)
    for model in ("first", "second"):
        parties._cut(home, model, SETTINGS["2+1"], None)
        if model == "first":
            (home.parties / "p0" / "identity.pem").write_bytes(b"p0's")
            home.mpc_client.parent.mkdir()
            (home.parties / "client").rename(home.mpc_client)
            (home.mpc_client / "identity.pem").write_bytes(b"client's")
    assert made == ["first", "second"]
    assert (home.parties / "p0" / "identity.pem").read_bytes() == b"p0's"
    assert (home.parties / "client" / "identity.pem").read_bytes() == b"client's"
    assert not (home.parties / "p1" / "identity.pem").exists()
