"""Model folders with random weights and a real byte-level tokenizer, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from serve_models import make_model


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: make_model(root / kind, kind) for kind in ("llama", "qwen2", "gpt2")}


@pytest.fixture(scope="session")
def llama_folder(model_folders) -> Path:
    return model_folders["llama"]


@pytest.fixture(scope="session")
def engine(llama_folder):
    from mitai.capsule import FolderSource
    from mitai.serve.transformers_engine import EngineOptions, TransformersEngine

    engine = TransformersEngine.load(
        FolderSource(llama_folder), name="tiny", options=EngineOptions(threads=1, step_tokens=32)
    )
    yield engine
    engine.close()
