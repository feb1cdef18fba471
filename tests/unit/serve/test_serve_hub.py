"""Models by path or hub id."""

from __future__ import annotations

import pytest

from mitai.errors import ServeError
from mitai.serve.hub import FILES, resolve_model


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../x", "https://x/y", "a b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServeError) as refused:
        resolve_model(name)
    assert refused.value.code == "serve.model-not-found"


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ServeError, match=r"config\.json"):
        resolve_model(str(tmp_path))


def test_a_hub_id_downloads_only_what_is_read(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("Qwen/Qwen2.5-0.5B", revision="abc") == tmp_path
    assert asked == {"name": "Qwen/Qwen2.5-0.5B", "revision": "abc", "allow_patterns": FILES}
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in FILES)


def test_offline_is_said_clearly(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ServeError) as refused:
        resolve_model("Qwen/Qwen2.5-0.5B")
    assert refused.value.code == "serve.hub-failed"
    assert "network" in refused.value.hint
