"""An owner's commands: what is sent to whom, and what is refused before it is sealed."""

from __future__ import annotations

import json
import struct

import pytest

from mitai import demo_model
from mitai.cli import owner
from mitai.cli.models import check_model, model_folder
from mitai.cli.options import token_for
from mitai.errors import CapsuleError, ClientError, MitaiError, ParseError
from mitai.fleet.home import Home, PlatformFile


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.write_platform(PlatformFile("http://127.0.0.1:8700", "u" * 20, "o" * 20, {}, simulated=True))
    return home


@pytest.mark.parametrize(("kind", "token"), [("upload", "u" * 20), ("operator", "o" * 20)])
def test_the_own_gateway_gets_the_own_tokens(home, kind, token):
    assert token_for(home, "http://127.0.0.1:8700/", kind) == token


@pytest.mark.parametrize("kind", ["upload", "operator"])
@pytest.mark.parametrize(
    "gateway", ["https://gateway.example", "http://127.0.0.1:8701", "http://127.0.0.1:8700.evil.test"]
)
def test_no_other_gateway_does(home, gateway, kind):
    with pytest.raises(ClientError) as refused:
        token_for(home, gateway, kind)
    assert refused.value.code == f"client.no-{kind}-token"
    assert "uuuu" not in str(refused.value)
    assert "oooo" not in str(refused.value)


def shard(path, header=b"{}"):
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    shard(folder / "model.safetensors")
    return folder


def test_a_model_is_accepted(model):
    check_model(model)
    check_model(demo_model.path())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_without_one_of_its_files_is_refused(model, name):
    (model / name).unlink()
    with pytest.raises(CapsuleError, match=name.removeprefix("model")) as refused:
        check_model(model)
    assert refused.value.code == "capsule.model-incomplete"
    assert "--kind data" in refused.value.hint


@pytest.mark.parametrize("content", [b"", b"1234567", b"<html>not a model</html>", struct.pack("<Q", 2) + b"[]"])
def test_a_file_that_is_no_safetensors_is_refused_by_name(model, content):
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ParseError, match=r"model\.safetensors") as refused:
        check_model(model)
    assert refused.value.code == "capsule.safetensors-malformed"


def test_up_looks_at_the_model_first(model):
    (model / "tokenizer.json").unlink()
    with pytest.raises(CapsuleError):
        model_folder(str(model))


def test_any_folder_is_sealed_as_data_and_a_finished_capsule_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path / "home"))
    folder, capsule = tmp_path / "notes", tmp_path / "notes.capsule"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    with pytest.raises(MitaiError) as incomplete:
        owner.seal(folder, capsule)
    assert incomplete.value.code == "capsule.model-incomplete"
    assert not capsule.exists()
    owner.seal(folder, capsule, kind="data", json=True)
    assert json.loads(capsys.readouterr().out)["kind"] == "data"
    with pytest.raises(CapsuleError) as exists:
        owner.seal(folder, capsule, kind="data")
    assert exists.value.code == "capsule.exists"
    assert str(capsule) in exists.value.message
    assert exists.value.hint
