"""Model folders with random weights, of sizes that people use: for benchmarks that need work, not answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def smollm_135m(folder: Path) -> None:
    """Write the shape of SmolLM2-135M in bfloat16 (270 MB)."""
    from transformers import LlamaConfig

    _write(
        folder,
        LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0,
        ),
    )  # fmt: skip


def qwen2_half_billion(folder: Path) -> None:
    """Write the shape of Qwen2-0.5B in bfloat16 (988 MB)."""
    from transformers import Qwen2Config

    _write(
        folder,
        Qwen2Config(
            vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
            num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0,
        ),
    )  # fmt: skip


def _write(folder: Path, config: PretrainedConfig) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    _tokenizer(config.vocab_size).save_pretrained(folder)


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without merges: any text, one token a byte; all other ids are made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    words = [f"Ġ{at:x}" for at in range(size - len(special) - len(alphabet))]
    vocabulary = {token: at for at, token in enumerate([*special, *alphabet, *words])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.add_special_tokens(special)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", chat_template=TEMPLATE)
