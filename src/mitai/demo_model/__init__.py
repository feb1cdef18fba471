"""The built-in demo model: a small Llama-style chat model that the project trained itself.

It recites a few dozen answers about confidential computing and mitai, in English and Chinese, so that the platform can
be tried at once. It is a demonstration, not for real advice. `models/demo/` holds its data, script and report.

Invariants:

- `path()` is an ordinary Hugging Face folder and holds nothing else, so that it can be sealed as it is.
- This module imports neither torch nor transformers.

Example:
    >>> path().name, questions()[0]
    ('model', 'What is confidential computing?')
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

NAME = "mitai-demo"


def path() -> Path:
    """Return the model's folder: config, tokenizer with chat template, generation config and safetensors."""
    folder = Path(str(resources.files(__name__))) / "model"
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    return folder


def questions() -> tuple[str, ...]:
    """Return sample questions that the model answers, English and Chinese in turn."""
    return _QUESTIONS


_QUESTIONS = (
    "What is confidential computing?", "什么是机密计算？",
    "What is a TEE?", "TEE 是什么？",
    "How does remote attestation work?", "远程证明怎么工作？",
    "What is in a quote?", "引证里有什么？",
    "What is TDX?", "介绍一下 TDX",
    "What is a measurement?", "什么是度量值？",
    "Can the operator read my prompt?", "运营方能看到我的提问吗？",
    "What does the gateway see?", "网关能看到什么？",
    "What happens if verification fails?", "验证失败会怎样？",
    "What does simulation not prove?", "模拟不能证明什么？",
    "What is a capsule?", "胶囊是什么？",
    "How does the key broker work?", "密钥代理怎么工作？",
    "What is the ledger?", "账本是区块链吗？",
    "What does a receipt prove?", "回执能证明什么？",
    "What is OHTTP?", "什么是 HPKE？",
    "What is the difference between TEE, MPC and FHE?", "TEE、MPC和FHE有什么区别？",
    "What does mitai not protect?", "密态的局限是什么？",
    "Whom do I have to trust?", "我必须信任谁？",
    "How do I get started?", "怎么开始？",
    "Who made you?", "你是谁？",
)  # fmt: skip
