"""Small model folders for tests: random weights, a trained byte-level tokenizer, a chat template."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('role') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "机密计算保护模型和数据",
    "密态大模型 confidential computing",
    "hello world 你好世界",
]


def make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", chat_template=TEMPLATE)


def config(kind: str, vocabulary: int, **changes):
    from transformers import (
        BloomConfig,
        Gemma2Config,
        GPT2Config,
        LlamaConfig,
        MambaConfig,
        MistralConfig,
        Qwen2Config,
    )

    end = {"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": None}
    small = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.4,
        **end,
    }
    if kind == "llama":
        return LlamaConfig(**{**small, "tie_word_embeddings": True, **changes})
    if kind == "qwen2":
        return Qwen2Config(**{**small, **changes})
    if kind == "mistral":
        return MistralConfig(**{**small, "sliding_window": 9, **changes})
    if kind == "gemma2":
        return Gemma2Config(**{**small, "head_dim": 16, "sliding_window": 32, **changes})
    if kind == "bloom":
        return BloomConfig(vocab_size=vocabulary, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.4, **end)
    if kind == "mamba":
        return MambaConfig(vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2, initializer_range=0.4, **end)
    return GPT2Config(
        **{
            "vocab_size": vocabulary,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 512,
            "initializer_range": 0.4,
            **end,
            **changes,
        }
    )


def make_model(path: Path, kind: str, *, dtype: str = "float32", shard: str = "5GB", **changes) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config(kind, len(tokenizer), **changes)).to(getattr(torch, dtype))
    tokenizer.save_pretrained(path)
    model.save_pretrained(path, max_shard_size=shard)
    return path
