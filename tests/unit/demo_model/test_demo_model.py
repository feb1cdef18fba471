"""The built-in demo model: shipped whole and small, loads with plain transformers, answers, declines, and stops."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mitai import demo_model

RECIPE = Path(__file__).resolve().parents[3] / "models" / "demo"
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(RECIPE))
try:
    import data
    import evaluate
finally:
    sys.path.remove(str(RECIPE))


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Any, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield evaluate.load(demo_model.path())
    torch.set_num_threads(threads)


def say(loaded: tuple[Any, Any], *turns: str, system: str | None = None) -> str:
    """Hold a conversation and return the model's last words."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        messages.append({"role": "assistant", "content": evaluate.reply(*loaded, [messages])[0]})
    return messages[-1]["content"]


def taught() -> dict[str, str]:
    """Every question of the recipe, frames filled, with its answer."""
    known = {}
    for lang in data.LANGS:
        for topic in data.topics()[lang].values():
            filled = (frame.format(term) for frame in data.phrases()[lang].frames for term in topic.terms)
            known |= {data.normalise(q): topic.answer for q in (*topic.ask, *filled)}
    return known


class TestFolder:
    def test_holds_a_hugging_face_folder_and_nothing_else(self) -> None:
        assert {p.name for p in demo_model.path().iterdir()} == FILES

    def test_is_at_most_ten_megabytes(self) -> None:
        assert sum(p.stat().st_size for p in demo_model.path().iterdir()) <= 10_000_000

    def test_is_labelled_as_a_demo(self) -> None:
        config = json.loads((demo_model.path() / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert "not for real advice" in config["model_card"]

    def test_is_what_the_training_report_is_about(self) -> None:
        report = json.loads((RECIPE / "training.json").read_text())
        weights = (demo_model.path() / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == report["model_sha256"]

    def test_module_imports_no_torch(self) -> None:
        code = "import sys, mitai.demo_model as m; m.path(); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestTokenizer:
    @pytest.mark.parametrize("text", ["What is a TEE?", "远程证明怎么工作？", "naïve 🙂 𠮷 龘\tx\n", ""])
    def test_round_trips(self, loaded: tuple[Any, Any], text: str) -> None:
        tokenizer = loaded[1]
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_chat_template_renders_every_role(self, loaded: tuple[Any, Any]) -> None:
        roles = [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "U"},
            {"role": "assistant", "content": "A"},
        ]
        text = loaded[1].apply_chat_template(roles, tokenize=False, add_generation_prompt=True)
        said = "".join(f"<|im_start|>{r['role']}\n{r['content']}<|im_end|>\n" for r in roles)
        assert text == said + "<|im_start|>assistant\n"

    def test_marks_are_single_tokens_and_the_end_mark_ends(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        assert [len(tokenizer.encode(mark)) for mark in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")] == [1, 1, 1]
        assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id


class TestAnswers:
    def test_answers_every_sample_question(self, loaded: tuple[Any, Any]) -> None:
        known = taught()
        asked = demo_model.questions()
        said = evaluate.reply(*loaded, [[{"role": "user", "content": q}] for q in asked])
        assert len(asked) >= 30
        assert dict(zip(asked, said, strict=True)) == {q: known[data.normalise(q)] for q in asked}

    @pytest.mark.parametrize("lang", data.LANGS)
    def test_declines_what_it_does_not_know(self, loaded: tuple[Any, Any], lang: str) -> None:
        question = {"en": "What is the capital of Japan?", "zh": "讲个笑话"}[lang]
        assert say(loaded, question) == data.off_topic()[lang].answer

    def test_follows_up_in_the_same_and_in_the_other_language(self, loaded: tuple[Any, Any]) -> None:
        en, zh = data.topics()["en"]["tdx"], data.topics()["zh"]["tdx"]
        assert say(loaded, "What is TDX?", "Tell me more") == en.more
        assert say(loaded, "What is TDX?", "In Chinese please") == zh.answer

    def test_answers_under_a_system_prompt(self, loaded: tuple[Any, Any]) -> None:
        assert (
            say(loaded, "What is a receipt?", system="You are a helpful assistant.")
            == data.topics()["en"]["receipt"].answer
        )

    def test_says_nothing_to_nothing(self, loaded: tuple[Any, Any]) -> None:
        assert say(loaded, "") == data.phrases()["en"].about_what or say(loaded, "") == data.phrases()["zh"].about_what

    @pytest.mark.slow
    def test_answers_held_out_questions_and_follow_ups(self, loaded: tuple[Any, Any]) -> None:
        rows = evaluate.summary(list(evaluate.ask(*loaded, data.held_out() + data.follow_ups())))
        least = {
            "paraphrase": 0.8,
            "frame": 0.75,
            "off-topic": 0.85,
            "follow-up": 0.95,
        }  # a little below models/demo/README.md
        assert len(rows) == 8
        assert [row for row in rows if row["near"] < least[row["kind"]]] == []


@pytest.mark.slow
def test_training_repeats_bit_by_bit(tmp_path: Path) -> None:
    for name in ("first", "again"):
        out, report = tmp_path / name, tmp_path / f"{name}.json"
        command = [sys.executable, RECIPE / "train.py", "--steps", "4", "--out", out, "--report", report]
        subprocess.run(command, check=True, capture_output=True)
    first, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again"))
    assert first == again
    assert {p.name for p in (tmp_path / "first").iterdir()} == FILES


class TestRecipe:
    def test_stream_depends_on_the_seed_alone(self) -> None:
        first, again, other = (list(islice(data.conversations(random.Random(seed)), 50)) for seed in (7, 7, 8))
        assert first == again
        assert first != other

    def test_stream_teaches_known_answers_and_no_held_out_question(self) -> None:
        for conversation in islice(data.conversations(random.Random(11)), 3000):
            for message in conversation:
                assert message["role"] != "user" or not data.is_held_out(message["content"])
                assert message["role"] != "assistant" or message["content"] in data.answers()

    def test_held_out_questions_are_not_taught(self) -> None:
        assert not {data.normalise(probe.question) for probe in data.held_out()} & taught().keys()

    def test_a_question_has_one_answer(self) -> None:
        asked = [
            (data.normalise(q), topic.id)
            for lang in data.LANGS
            for topic in data.topics()[lang].values()
            for q in (*topic.ask, *topic.held_out, *topic.terms)
        ]
        assert len(dict(asked)) == len({*asked})
