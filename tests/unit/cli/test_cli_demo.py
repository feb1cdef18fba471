"""The demo ends with an error when anything does not hold: an attack that works, or one refused for another reason."""

from __future__ import annotations

import sys

import pytest

from mitai.cli import demo
from mitai.cli.demo import Story
from mitai.cli.output import Output
from mitai.cli.telling import DemoFailedError
from mitai.errors import MitaiError
from mitai.fleet.home import Home


@pytest.fixture
def story(tmp_path):
    return Story(Output(as_json=False), Home(tmp_path))


def refuse(code):
    def attempt():
        raise MitaiError(code, "no")

    return attempt


def test_an_attack_that_is_refused_for_its_reason(story, capsys):
    story.refused("an attack", "attest.nonce-mismatch", refuse("attest.nonce-mismatch"))
    assert story.refusals == 1
    assert "attest.nonce-mismatch" in capsys.readouterr().out


def test_an_attack_that_works_ends_the_demo(story):
    with pytest.raises(DemoFailedError) as failed:
        story.refused("an attack", "attest.nonce-mismatch", lambda: None)
    assert failed.value.code == "demo.attack-accepted"


def test_an_attack_refused_for_another_reason_ends_the_demo(story):
    with pytest.raises(DemoFailedError) as failed:
        story.refused("an attack", "attest.nonce-mismatch", refuse("client.unreachable"))
    assert failed.value.code == "demo.failed"


def test_what_does_not_hold_ends_the_demo(story):
    with pytest.raises(DemoFailedError):
        story.hold(condition=False, text="the capture holds none of these words")


def test_a_demo_that_failed_ends_with_status_1_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(demo.tempfile, "tempdir", None)
    monkeypatch.setattr(demo.Story, "start", lambda self: self.hold(condition=False, text="nothing starts"))
    monkeypatch.setattr(sys, "argv", ["mitai", "demo"])
    from mitai.cli.commands import run

    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 1
    assert "nothing starts" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
