"""The fuzz target of models' configurations runs, and holds for a few inputs of each kind."""

from __future__ import annotations

import fuzz_mpc_models
import pytest

LLAMA = (
    b'{"model_type":"llama","hidden_size":64,"intermediate_size":9,"num_hidden_layers":1,"num_attention_heads":%d,'
    b'"rope_scaling":{"rope_type":"llama3","factor":8,"original_max_position_embeddings":1}}'
)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"\xff", b"[" * 5000, b'{"model_type":"bert","hidden_size":1}', b'{"model_type":"gpt2","n_head":5}',
        b'{"model_type":"bert","architectures":["BertForSequenceClassification"],"id2label":{}}', LLAMA % 2, LLAMA % 64,
        LLAMA % 65,
    ],
)  # fmt: skip
def test_configurations(data: bytes) -> None:
    fuzz_mpc_models.one_input(data)
