"""Problem documents: an error survives the way over HTTP, and a lying peer gains nothing by its words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.errors import BrokerError, ClientError, MitaiError
from mitai.problem import error_from, problem, problem_of


def raised(body: bytes, status: int = 502) -> MitaiError:
    return error_from(ClientError, status, body, code="client.failed", who="the server")


def test_a_problem_document_is_what_rfc_9457_says():
    response = problem(403, "broker.policy-denied", "the policy says no", "ask the owner")
    assert (response.status_code, response.media_type) == (403, "application/problem+json")
    assert json.loads(response.body) == {
        "type": "about:blank",
        "status": 403,
        "code": "broker.policy-denied",
        "detail": "the policy says no",
        "hint": "ask the owner",
    }
    assert "hint" not in json.loads(problem(400, "a.b", "why").body)


def test_an_error_survives_the_way():
    sent = BrokerError("broker.policy-denied", "the policy says no", step="evaluate", hint="ask the owner")
    got = error_from(BrokerError, 403, problem_of(403, sent).body, code="x.y", who="the broker")
    assert type(got) is BrokerError
    assert got.to_dict() == {"code": sent.code, "message": sent.message, "hint": sent.hint}  # steps stay inside


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff", b'"\xff"', b"[]", b"{", b"null", b'{"code":1}', b"[" * 70_000, b"{}"]
)
def test_an_answer_that_is_no_problem_document(body):
    error = raised(body)
    assert (error.code, error.message, error.hint) == ("client.failed", "the server answered with status 502", None)


def test_unknown_members_are_ignored():
    assert raised(b'{"code":"a.b","detail":"why","instance":"/1","balance":30}').to_dict() == {
        "code": "a.b",
        "message": "why",
    }


def test_a_lying_peers_words_are_cut_and_cleaned():
    body = json.dumps({"code": "c" * 1000, "detail": "\x1b[2Jgood\r\nnews" + "x" * 1000, "hint": "\x07\u202erun"})
    error = raised(body.encode())
    assert len(error.code) == 100
    assert error.message.startswith("[2Jgoodnewsx")
    assert len(error.message) <= 500
    assert error.hint == "run"


def test_a_document_above_64_kib_is_not_read():
    body = json.dumps({"code": "a.b", "detail": "x" * 70_000}).encode()
    assert raised(body).code == "client.failed"


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda d: json.dumps(d).encode(),
        st.dictionaries(
            st.sampled_from(["code", "detail", "hint", "step", "status"]), st.text() | st.integers() | st.none()
        ),
    )
)
def test_any_answer_becomes_an_error_that_a_terminal_can_show(body):
    error = raised(body)
    assert error.code
    assert all(text.isprintable() for text in error.to_dict().values())
