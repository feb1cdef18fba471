"""Loading a folder: the same numbers as transformers, no copies, and a reason for every folder that is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from serve_models import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mitai.capsule import FolderSource, FolderStore, open_capsule, seal
from mitai.errors import MitaiError, ParseError, ServeError
from mitai.identity import Identity
from mitai.serve.loading import _tensors, load

TEXT = "the quick brown fox 机密计算 hello world"


def same(folder, source):
    loaded, reference = load(source), AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = loaded.tokenizer.backend_tokenizer.encode(TEXT).ids
    assert ids == tokenizer(TEXT)["input_ids"]
    assert loaded.tokenizer.eos_token == tokenizer.eos_token
    message = [{"role": "user", "content": TEXT}]
    assert loaded.tokenizer.apply_chat_template(message, tokenize=False) == tokenizer.apply_chat_template(
        message, tokenize=False
    )
    assert loaded.model.dtype == reference.dtype
    with torch.inference_mode():
        assert torch.equal(loaded.model(torch.tensor([ids])).logits, reference(torch.tensor([ids])).logits)
    return loaded


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_logits_are_those_of_from_pretrained(model_folders, kind):
    same(model_folders[kind], FolderSource(model_folders[kind]))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_sharded_half_precision_out_of_a_capsule(tmp_path, kind):
    folder = make_model(tmp_path / "plain", kind, dtype="bfloat16", shard="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    owner = Identity.generate()
    sealed = seal(folder, tmp_path / "sealed", owner=owner, name="x", kind="model")
    source = open_capsule(FolderStore(tmp_path / "sealed"), sealed.envelope, sealed.data_key, owner=owner.public)
    loaded = same(folder, source)
    assert loaded.model.dtype == torch.bfloat16


def test_parameters_are_views_of_what_was_read(llama_folder, monkeypatch):
    seen = {}
    monkeypatch.setattr("mitai.serve.loading._tensors", lambda *a: seen.setdefault("tensors", _tensors(*a)))
    model = load(FolderSource(llama_folder)).model
    read = {tensor.data_ptr() for tensor in seen["tensors"].values()}
    assert all(parameter.data_ptr() in read for parameter in model.parameters())
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()  # tied


def test_nothing_is_written(llama_folder, tmp_path, monkeypatch):
    import builtins
    import os

    written = []
    plain_open, plain_os_open = builtins.open, os.open

    def watched(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            written.append(path)
        return plain_open(path, mode, *args, **kwargs)

    def watched_os(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            written.append(path)
        return plain_os_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(os, "open", watched_os)
    monkeypatch.chdir(tmp_path)
    load(FolderSource(llama_folder))
    assert written == []
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_weights(llama_folder):
    seen = []
    load(FolderSource(llama_folder), progress=lambda done, total: seen.append((done, total)))
    size = (llama_folder / "model.safetensors").stat().st_size
    assert seen[-1] == (size, size)


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def cut(path, size=-1):
    path.write_bytes(path.read_bytes()[:size])


def index(folder, **shards):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


WRONG = {
    "serve.model-file-missing": lambda f: (f / "config.json").unlink(),
    "serve.remote-code-refused": lambda f: change_config(f, auto_map={"AutoModel": "evil.Model"}),
    "serve.architecture-unknown": lambda f: change_config(f, model_type="no-such-model"),
    "serve.not-causal-lm": lambda f: change_config(f, model_type="vit"),
    "serve.config-invalid": lambda f: change_config(f, num_attention_heads="many"),
    "serve.model-file-malformed": lambda f: (f / "config.json").write_text("[1"),
    "serve.tokenizer-invalid": lambda f: (f / "tokenizer.json").write_text("{}"),
    "serve.weights-missing": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "serve.shard-missing": lambda f: index(f, x="model-00001.safetensors"),
    "serve.weights-misfit": lambda f: change_config(f, num_hidden_layers=9),
    "capsule.safetensors-malformed": lambda f: cut(f / "model.safetensors"),
}


@pytest.mark.parametrize("code", WRONG)
def test_a_wrong_folder_is_refused_with_its_reason(llama_folder, tmp_path, code):
    folder = shutil.copytree(llama_folder, tmp_path / "wrong")
    WRONG[code](folder)
    with pytest.raises(MitaiError) as refused:
        load(FolderSource(folder))
    assert refused.value.code == code
    assert isinstance(refused.value, ServeError | ParseError)


def test_weights_of_another_shape_are_refused(llama_folder, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "wrong")
    change_config(folder, intermediate_size=80)
    with pytest.raises(ServeError) as refused:
        load(FolderSource(folder))
    assert refused.value.code == "serve.weights-misfit"


def test_state_space_models_are_refused_clearly(tmp_path):
    with pytest.raises(ServeError) as refused:
        load(FolderSource(make_model(tmp_path / "mamba", "mamba")))
    assert refused.value.code == "serve.architecture-unsupported"


def test_code_in_a_tokenizer_folder_never_runs(llama_folder, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "evil")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load(FolderSource(folder))
    assert not (tmp_path / "ran").exists()
