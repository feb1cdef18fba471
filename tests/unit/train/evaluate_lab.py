"""A model whose probabilities one can compute by hand, and signed reports of simulated machines."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from types import SimpleNamespace

import torch

from mitai.attest import CapsuleClaim, Claims, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.channel import KeyRing
from mitai.identity import Identity
from mitai.train.evaluate.report import InputRef, Measured, Number, Result, sign_report
from mitai.train.evaluate.scoring import Scorer

ALPHABET = "^ abcdefgh\n"


class Letters:
    """A tokenizer with one token a letter."""

    bos_token_id, eos_token_id, chat_template, added_tokens_decoder = 0, 0, None, {}

    @property
    def backend_tokenizer(self):
        return self

    def encode(self, text, add_special_tokens=False):
        return SimpleNamespace(ids=[ALPHABET.index(letter) for letter in text])

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(ALPHABET[token] for token in tokens if token)


class Chain:
    """A Markov chain over letters: `probabilities[letter][next]`, the rest spread evenly."""

    def __init__(self, probabilities: dict[str, dict[str, float]], length: int = 8) -> None:
        self.config = SimpleNamespace(max_position_embeddings=length)
        self.device, self.generation_config = torch.device("cpu"), None
        self.table = torch.empty(len(ALPHABET), len(ALPHABET))
        self.seen: list[int] = []
        for at, letter in enumerate(ALPHABET):
            known = probabilities.get(letter, {})
            rest = (1 - sum(known.values())) / (len(ALPHABET) - len(known))
            self.table[at] = torch.tensor([math.log(known.get(each, rest)) for each in ALPHABET])

    def train(self, mode):
        assert not mode

    def get_input_embeddings(self):
        return SimpleNamespace(weight=self.table)

    def __call__(self, input_ids, attention_mask):
        self.seen.append(input_ids.shape[1])
        return SimpleNamespace(logits=self.table[input_ids])


def scorer(probabilities: dict[str, dict[str, float]], length: int = 8, batch: int = 2) -> Scorer:
    return Scorer(Chain(probabilities, length), Letters(), batch)


class Lab:
    """A simulated machine that signs reports, and the policy that trusts it."""

    def __init__(self, folder, workload: str = "train", code: bytes = b"\x07" * 48) -> None:
        self.sim = SimPlatform.create(folder) if not folder.exists() else SimPlatform.open(folder)
        self.workload, self.signer, self.keyring = Workload(workload, code), Identity.generate(), KeyRing.generate()
        self.policy = Policy(
            allow_simulation=True, sim_roots=(self.sim.sim_root,), workloads=(reference_values(self.workload),)
        )

    def evidence(self, key: bytes | None = None, inputs=()):
        claims = Claims(
            workload=self.workload.name,
            key_config=self.keyring.current_config(),
            capsules=tuple(CapsuleClaim(each.capsule, each.manifest_sha256) for each in inputs),
            receipt_key=self.signer.public.raw if key is None else key,
        )
        return self.sim.attester(self.workload).evidence(claims.encode(), b"\x05" * 32)

    def report(self, model: str = "a", value: int = 500_000, signer=None, evidence=None, **changes) -> bytes:
        inputs = changes.pop("inputs", (ref("model", model), ref("data", "records")))
        evidence = evidence or self.evidence(inputs=inputs)
        return sign_report(
            measured(value, **changes),
            inputs,
            signer=signer or self.signer,
            evidence=evidence,
            now=datetime.now(UTC),
        )


def ref(role: str, name: str) -> InputRef:
    return InputRef(role=role, capsule=name, manifest_sha256=name.encode().hex().ljust(64, "0"))


def number(value: int = 500_000, **changes) -> Number:
    fields = {"metric": "acc", "group": "", "n": 40, "value": value, "low": value - 1000, "high": value + 1000}
    return Number(**(fields | changes))


def measured(value: int = 500_000, **changes) -> Measured:
    results = (Result(task="triage", numbers=(number(value), number(value, group="north", n=25))),)
    return Measured(**({"evaluation_sha256": "e" * 64, "min_group": 20, "results": results} | changes))
