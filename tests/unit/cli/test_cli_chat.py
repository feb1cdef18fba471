"""`mitai chat`: where its words go, what ends a conversation and what does not."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from mitai.cli import chat
from mitai.cli.output import Output
from mitai.errors import AttestError, ClientError
from mitai.fleet.home import Home

MACHINE = SimpleNamespace(title="Intel TDX")
APPRAISAL = SimpleNamespace(simulated=True, machine=MACHINE, tcb_status="UpToDate", workload="serve")
REFUSED = ClientError("context_length_exceeded", "the prompt is too long")


class Answer:
    def __init__(self, pieces=("An ", "answer"), error=None):
        self.pieces, self.error, self.text = pieces, error, ""
        self.finish_reason, self.prompt_tokens, self.completion_tokens = "stop", 1, 2
        self.exchange = SimpleNamespace(name="e" * 32)

    def __iter__(self):
        if self.error:
            raise self.error
        for piece in self.pieces:
            self.text += piece
            yield piece


@pytest.fixture
def talk(tmp_path, monkeypatch):
    """A conversation with a server that gives these answers, with receipts that hold."""
    session = SimpleNamespace(verified_at=datetime.now(UTC), appraisal=APPRAISAL, policy=None, base_url="http://x")
    talk = chat.Conversation(Output(False), Home(tmp_path), session, None, {})
    talk.answers, talk.sent = [], []

    def ask(_, messages, model, **__):
        talk.sent.append(messages)
        return talk.answers.pop(0)

    proof = SimpleNamespace(bundle=SimpleNamespace(index=7), encode=lambda: b"proof")
    monkeypatch.setattr(chat.chats, "chat", ask)
    monkeypatch.setattr(chat.receipts, "fetch", lambda *_: proof)
    monkeypatch.setattr(chat.receipts, "check", lambda *_: (None, SimpleNamespace(claims=SimpleNamespace(ledger=None))))
    return talk


def test_only_the_answer_is_on_standard_output(talk, capsys):
    talk.answers = [Answer()]
    talk.ask("q", "m")
    shown = capsys.readouterr()
    assert shown.out == "An answer\n"
    assert "ledger entry 7" in shown.err
    assert (talk.home.receipts / f"{'e' * 32}.json").read_bytes() == b"proof"


def test_a_question_that_fails_leaves_no_trace(talk):
    talk.answers = [Answer(), Answer(error=REFUSED), Answer()]
    talk.ask("first", "m")
    with pytest.raises(ClientError):
        talk.ask("too long", "m")
    talk.ask("third", "m")
    assert [message["content"] for message in talk.sent[-1]] == ["first", "An answer", "third"]


def test_a_new_verification_is_told_once(talk, capsys):
    talk.answers = [Answer(), Answer(), Answer()]
    talk.ask("q", "m")
    talk.session.verified_at = datetime.now(UTC)
    talk.ask("q", "m")
    talk.ask("q", "m")
    assert capsys.readouterr().err.count("verified again") == 1


def test_a_receipt_that_is_not_logged_yet_is_a_note(talk, capsys, monkeypatch):
    def pending(*_):
        raise ClientError("serve.receipt-pending", "not yet")

    monkeypatch.setattr(chat.receipts, "fetch", pending)
    talk.out, talk.answers = Output(True), [Answer()]
    talk.ask("q", "m")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["receipt"] is None
    assert "no receipt" in shown.err


def test_a_receipt_that_does_not_hold_is_an_error(talk, monkeypatch):
    def broken(*_):
        raise ClientError("serve.receipt-unknown", "there is none")

    monkeypatch.setattr(chat.receipts, "fetch", broken)
    talk.answers = [Answer()]
    with pytest.raises(ClientError, match="there is none"):
        talk.ask("q", "m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def conversation(monkeypatch):
    """Run `mitai chat` over questions that are typed or piped in, and a server that gives these answers."""

    def hold(stdin, answers, **options):
        asked = []

        class Talk:
            verified, simulated = "a machine", True

            def __init__(self, *_, **__):
                self.messages, self.http = [], Http()

            def end(self):
                pass

            def ask(self, question, model):
                asked.append(question)
                if error := answers.pop(0):
                    raise error

        class Http:
            def close(self):
                return None

        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(chat, "Session", lambda *_, **__: SimpleNamespace(appraisal=APPRAISAL))
        monkeypatch.setattr(chat, "session_client", lambda _: Http())
        monkeypatch.setattr(chat, "read_policy", lambda *_: None)
        monkeypatch.setattr(chat.chats, "models", lambda _: ["m"])
        monkeypatch.setattr(chat, "Conversation", Talk)
        chat.chat("http://x", **options)
        return asked

    return hold


def test_by_hand_a_refusal_does_not_end_the_conversation(conversation, capsys):
    assert conversation(Terminal("a\nb\n\n"), [REFUSED, None]) == ["a", "b"]
    shown = capsys.readouterr()
    assert "too long" in shown.err
    assert "› " in shown.err
    assert shown.out == ""


def test_a_pipe_gets_no_prompt_and_an_error(conversation, capsys):
    with pytest.raises(ClientError):
        conversation(io.StringIO("a\nb\n"), [REFUSED, None])
    assert conversation(io.StringIO("a\nb\n"), [None, None]) == ["a", "b"]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "›" not in shown.err


@pytest.mark.parametrize(
    "error",
    [
        AttestError("attest.nonce-mismatch", "x"),
        ClientError("client.other-workload", "x"),
        ClientError("client.unreachable", "x"),
    ],
)
def test_what_ends_the_trust_ends_the_conversation(conversation, error):
    with pytest.raises(type(error)):
        conversation(Terminal("a\nb\n"), [error, None])


def test_an_interrupt_ends_the_line(conversation, capsys):
    with pytest.raises(KeyboardInterrupt):
        conversation(Terminal("a\n"), [KeyboardInterrupt()])
    assert capsys.readouterr().err.endswith("\n")


def test_a_model_that_is_not_served_is_answered_with_those_that_are(conversation):
    with pytest.raises(ClientError) as unknown:
        conversation(io.StringIO(""), [], model="other")
    assert unknown.value.code == "client.model-unknown"
    assert "m" in unknown.value.hint
