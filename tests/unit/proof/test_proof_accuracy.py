"""The demo model as an integer program finds the same tokens as in floating point."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mitai import demo_model
from mitai.mpc.models.arrays import Tensors
from mitai.mpc.models.config import LlamaConfig, parse_config
from mitai.proof.graph import Graph
from mitai.proof.models.accuracy import accuracy
from mitai.proof.models.calibration import calibrate, quantise, sample
from mitai.proof.models.llama import Llama


def test_what_is_counted():
    exact = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]]))
    found = exact + np.array([[1.0], [2.0], [3.0]])
    assert accuracy([([0, 0, 1], exact, found)]).agreement == 1
    found[1, 0] += 1
    result = accuracy([([0, 0, 1], exact, found)])
    assert (result.places, result.agreement) == (3, 2 / 3)
    assert result.exact_perplexity == pytest.approx(2)
    assert result.deviation == pytest.approx(3)


@pytest.mark.slow
def test_the_demo_model_agrees():
    folder = demo_model.path()
    model = Llama(parse_config((folder / "config.json").read_bytes(), LlamaConfig))
    arrays = dict(model.arrays(Tensors(folder)))
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in demo_model.questions()[::9]:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        answers.append(exact.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0].tolist())
    draw = np.random.default_rng(1)
    randoms = draw.integers(0, 2560, (23, 64)).tolist()
    reaches = calibrate(arrays, [sample(model, tokens) for tokens in answers[:2] + randoms[:3]])
    weights = quantise(model, reaches, arrays)

    def compared(tokens):
        graph = model.write(Graph(reaches), len(tokens), reveal="all")
        logits = graph.program().run({"tokens": np.array(tokens)}, weights).outputs["logits"]
        with torch.no_grad():
            return tokens, exact(torch.tensor([tokens])).logits[0].numpy(), logits * 0.5 ** graph.fractions["logits"]

    for prompts in (answers[2:], randoms[3:]):
        found = accuracy(map(compared, prompts))
        assert found.agreement >= 0.99
        assert found.perplexity == pytest.approx(found.exact_perplexity, rel=0.01)
        assert found.deviation < 0.1
