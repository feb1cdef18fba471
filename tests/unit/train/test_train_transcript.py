"""Runs with transcripts: honest ones are found so bit for bit, forged ones are refused."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import msgspec
import pytest
import torch
from train_rig import MemorySource, job, lines
from transcript_rig import FORGERIES, KEY, Run, Setting, caught, forge, samples, train

from mitai.errors import MitaiError, TrainError
from mitai.identity import Identity
from mitai.train.job import Job
from mitai.train.run import run
from mitai.train.state import State as Checkpoint
from mitai.train.transcript.audit import VERDICT, audit, check_output, prove_membership
from mitai.train.transcript.document import Transcript, check_membership
from mitai.train.transcript.observer import OPENING, TRANSCRIPT, Transcriber, observers
from mitai.train.transcript.recorder import Recorder, batch_mac, state_name
from mitai.train.transcript.sampling import caught as probability
from mitai.train.transcript.sampling import draw, surely_caught
from mitai.train.transcript.state import State

MANIFESTS = {"base": "1" * 64, "records": "2" * 64}
LORA = "[lora]\nrank = 2\nalpha = 4\ndropout = 0.1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        Setting(steps=20, dropout=0.2),
        Setting(steps=20, dropout=0.2, rows=samples(3, 30)),
        Setting(steps=20, dropout=0.2, rows=samples(3, 30), arguments={"gradient_accumulation_steps": 2}),
        Setting(steps=20, dropout=0.2, rows=samples(3, 24), arguments={"eval_strategy": "steps", "eval_steps": 5}),
        Setting(steps=20, arguments={"lr_scheduler_type": "cosine", "warmup_steps": 4, "weight_decay": 0.1}),
    ],
    ids=["dropout", "epochs", "accumulation", "evaluation", "schedule"],
)
def test_an_honest_run_is_re_executed_bit_for_bit(setting: Setting) -> None:
    done = train(setting)
    verdict = done.verify(share=1.0)
    assert (verdict.distance, verdict.re_executed, verdict.same_software) == (0.0, setting.steps, True)
    assert done.verify(random.Random(1), share=0.1).re_executed <= 3  # what is passed by doesn't disturb what isn't


@pytest.mark.slow
def test_segments_may_have_several_steps() -> None:
    done = train(Setting(steps=31), segment_steps=4)
    assert [segment.end.step for segment in done.transcript.segments] == [4, 8, 12, 16, 20, 24, 28, 31]
    assert done.verify(share=1.0).distance == 0


@pytest.fixture(scope="module")
def honest() -> Run:
    return train(Setting(steps=40))


def test_the_verdict_says_how_sure_it_is(honest: Run) -> None:
    verdict = honest.verify(random.Random(3))
    assert verdict.below_median is not None
    assert verdict.below_median < 0.5
    assert "A forgery that touches 63% of the segments or more" in verdict.words  # 3 drawn of 40, and 1 pointed at
    assert "with at least 7.3%" in verdict.words
    assert "All segments were re-executed" in honest.verify(share=1.0).words


@pytest.mark.parametrize("kind", FORGERIES)
def test_forgeries_are_refused(kind: str) -> None:
    assert caught(forge(kind, 11, steps=40, share=0.4), 11)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", FORGERIES)
def test_forgeries_of_a_tenth_of_the_steps_are_refused(kind: str) -> None:
    """Of 20 here; of 100, as promised, by `python -m benchmarks.transcript --only caught`."""
    assert sum(bool(caught(forge(kind, seed), seed)) for seed in range(20)) >= 19


def step_of(run: Run, **options: object) -> str | None:
    with pytest.raises(MitaiError) as refused:
        run.verify(random.Random(0), **options)
    return refused.value.step


def test_each_check_refuses_what_it_is_there_for(honest: Run) -> None:
    claim, transcript = honest.claim, honest.transcript

    def with_claim(**changed: object) -> Run:
        return Run(honest.setting, transcript, dataclasses.replace(claim, **changed))

    name = state_name(7)
    other = {**claim.published, "lm_head.weight": claim.published["lm_head.weight"] + 1}
    assert step_of(with_claim(job_sha256="b" * 64)) == "job"
    assert step_of(with_claim(inputs=claim.inputs[:1])) == "inputs"
    assert step_of(with_claim(records=honest.setting.rows[1:])) == "data"
    assert step_of(with_claim(records=honest.setting.rows[::-1])) == "data"
    assert step_of(with_claim(states={**claim.states, name: claim.states[state_name(8)]})) == "states"
    assert step_of(with_claim(states={k: v for k, v in claim.states.items() if k != name})) == "states"
    assert step_of(with_claim(published=other)) == "published"
    assert step_of(with_claim(published={})) == "published"
    assert step_of(Run(dataclasses.replace(honest.setting, rows=samples(9, 160)), transcript, claim)) == "order"
    assert (
        step_of(Run(dataclasses.replace(honest.setting, arguments={"learning_rate": 1e-3}), transcript, claim))
        == "segment"
    )
    assert step_of(Run(dataclasses.replace(honest.setting, steps=39), transcript, claim)) in ("steps", "segment")
    with pytest.raises(MitaiError, match="signature"):
        honest.verify(envelope=transcript.sign(Identity.generate()))


def test_random_numbers_are_compared_too(honest: Run) -> None:
    """A forger who could choose dropout masks could choose among many models."""
    from transcript_rig import forged_state

    assert step_of(forged_state(honest, 20, random_part=True), share=1.0) == "segment"


def test_a_tolerance_takes_what_is_near_and_nothing_else(honest: Run) -> None:
    from transcript_rig import forged_state

    near = forged_state(honest, 20, size=1e-7)
    assert step_of(near, share=1.0) == "segment"
    assert 0 < near.verify(share=1.0, tolerance=0.01).distance < 0.01
    assert step_of(forged_state(honest, 20, size=1e-2), share=1.0, tolerance=0.01) == "segment"
    assert step_of(forged_state(honest, 20, size=float("nan")), share=1.0, tolerance=0.01) == "segment"


@pytest.mark.slow
def test_states_that_do_not_fit_each_other_are_refused(honest: Run) -> None:
    from transcript_rig import forged_state

    def first(part: dict[str, torch.Tensor]) -> str:
        return next(iter(part))

    for change in (
        lambda state: State({**state.weights, "more": torch.zeros(1)}, state.optimizer, state.random),
        lambda state: State(state.weights, {**state.optimizer, first(state.optimizer): torch.zeros(2)}, state.random),
        lambda state: State(state.weights, {}, state.random),
        lambda state: State(state.weights, state.optimizer, {}),
    ):
        for segment in (20, 39):
            forged = forged_state(honest, segment, change=change)
            assert step_of(forged, share=1.0) in ("states", "published", "segment", None)


def test_a_run_of_too_many_segments_does_not_start() -> None:
    trainer = Setting(steps=1, arguments={"max_steps": 20_000}).build()
    trainer.state.max_steps = 20_000
    with pytest.raises(TrainError, match="at most 10000 segments"):
        Recorder(lambda name, data: None, segment_steps=1).begin(trainer, 0)


def test_a_jump_within_the_run_is_found_without_being_drawn(honest: Run) -> None:
    from transcript_rig import forged_state

    jump = forged_state(honest, 20, size=0.05)
    assert all(caught(jump, seed) for seed in range(3))


def test_what_is_drawn_and_how_sure_that_is() -> None:
    rng = random.Random(5)
    for segments, count in ((200, 20), (7, 4), (3, 3), (1, 1), (40, 2), (0, 0)):
        drawn = draw(segments, count, rng)
        assert len(set(drawn)) == count
        assert all(0 <= index < segments for index in drawn)
    assert {index for _ in range(300) for index in draw(20, 4, rng)} == set(range(20))
    assert probability(0.1, 20) == pytest.approx(0.878, abs=1e-3)
    assert surely_caught(0.95, 20) == pytest.approx(0.139, abs=1e-3)
    # a row of 19 steps of 200 covers one of twenty strata wholly
    assert all(set(range(start, start + 19)) & set(draw(200, 20, rng)) for start in range(0, 181, 3))


def test_batches_are_told_apart() -> None:
    one = {"a": torch.zeros(2, dtype=torch.int64), "b": [1, "x", None]}
    found = {
        batch_mac(b"s" * 32, bytes(32), each)
        for each in (
            one,
            {**one, "a": torch.zeros(2, dtype=torch.int32)},
            {**one, "a": torch.zeros(1, 2, dtype=torch.int64)},
            {**one, "b": [1, "x"]},
            {**one, "b": ["1", "x", None]},
            {**one, "c": True},
        )
    }
    assert len(found) == 6
    assert batch_mac(b"s" * 32, bytes(32), one) in found
    assert batch_mac(b"t" * 32, bytes(32), one) not in found
    with pytest.raises(TrainError, match="no digest"):
        batch_mac(b"s" * 32, bytes(32), {"a": object()})


def test_an_optimizer_that_keeps_more_than_tensors_is_refused() -> None:
    trainer = Setting(steps=1).build()
    trainer.train()
    next(iter(trainer.optimizer.state.values()))["odd"] = 3
    with pytest.raises(TrainError, match="'odd'"):
        Recorder(lambda name, data: None).begin(trainer, 0)


# Jobs, as the worker runs them.


def made(inputs: dict[str, MemorySource], text: str, scratch: Path) -> tuple[dict[str, bytes], Transcript]:
    wanted = job(text)
    files = run(wanted, inputs, observers=observers(wanted, inputs, MANIFESTS, KEY, scratch)).files
    assert list(scratch.iterdir()) == []  # the encrypted states are gone
    return files, Transcript.open(files[TRANSCRIPT], KEY.public)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        "",
        LORA,
        LORA + "[sft]\npacking = true\n",
        LORA + "[evaluation]\nevery_steps = 2\nrows = 4\n[early_stopping]\npatience = 1\n",
    ],
    ids=["full", "lora", "packing", "early stopping"],
)
def test_an_output_is_checked_against_its_transcript(
    inputs: dict[str, MemorySource], more: str, tmp_path: Path
) -> None:
    text = "[training]\nbatch = 4\nepochs = 2\nlearning_rate = 1e-2\nmax_length = 64\n[transcript]\n" + more
    files, transcript = made(inputs, text, tmp_path)
    verdict = check_output(MemorySource(files), inputs, MANIFESTS, KEY.public, share=1.0)
    assert (verdict.distance, verdict.steps) == (0.0, transcript.steps)
    assert transcript.passes >= 1


PREFERENCES = lines([{"prompt": f"q {n}? ", "chosen": "yes", "rejected": "no way"} for n in range(8)])
METHODS = {
    "dpo": ("", PREFERENCES),
    "reward": ('[reward]\ntemplate = "chatml"\n', PREFERENCES),
    "grpo": (
        '[grpo]\ngenerations = 4\nmax_answer = 6\n[[grpo.rewards]]\nname = "length"\ntarget = 12\n',
        lines([{"prompt": f"q {n}?", "answer": str(n)} for n in range(4)]),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_other_methods_are_re_executed_bit_for_bit(llama: MemorySource, method: str, tmp_path: Path) -> None:
    table, records = METHODS[method]
    sources = {"base": llama, "records": records}
    wanted = job("[training]\nbatch = 4\nmax_length = 64\n[transcript]\n" + table + LORA, method=method)
    files = run(wanted, sources, observers=observers(wanted, sources, MANIFESTS, KEY, tmp_path)).files
    for share in (1.0, 0.1):
        verdict = check_output(MemorySource(files), sources, MANIFESTS, KEY.public, share=share)
        assert verdict.distance == 0


def test_an_audit_is_about_what_it_declared(inputs: dict[str, MemorySource], output: dict[str, bytes]) -> None:
    sources = inputs | {"made": MemorySource(output), "more": inputs["records"]}
    manifests = dict.fromkeys(sources, "2" * 64) | MANIFESTS

    def audited(more: str = "", **about: str) -> dict[str, bytes]:
        wanted = job(more + '[audit]\noutput = "made"\n', method="audit", **about)
        return audit(wanted, sources, manifests, {"made": KEY.public})

    told = json.loads(audited()[VERDICT])
    assert told["job_sha256"] == Job.decode(output["transcript-job.json"]).sha256()
    for more in ("[limits]\nrows = 10\n", '[limits]\ncolumns = ["messages"]\n', "[training]\nepochs = 2\n"):
        with pytest.raises(TrainError, match="limits or epochs"):
            audited(more)
    with pytest.raises(TrainError, match="other inputs"):
        audited(data='["records", "more"]')


def test_a_checked_job_has_no_more_tokens_than_it_stated(inputs: dict[str, MemorySource], tmp_path: Path) -> None:
    text = "[limits]\ntokens = {}\n[training]\nbatch = 8\n[transcript]\n" + LORA
    done = run(wanted := job(text.format(10**6)), inputs, observers=observers(wanted, inputs, MANIFESTS, KEY, tmp_path))
    assert check_output(MemorySource(done.files), inputs, MANIFESTS, KEY.public).distance == 0
    stated = {"transcript-job.json": job(text.format(done.metrics["tokens"] - 1)).encode()}
    forged = Transcript.open(done.files[TRANSCRIPT], KEY.public)
    forged = msgspec.structs.replace(forged, job_sha256=Job.decode(stated["transcript-job.json"]).sha256())
    with pytest.raises(TrainError, match="at most"):
        check_output(MemorySource(done.files | stated | {TRANSCRIPT: forged.sign(KEY)}), inputs, MANIFESTS, KEY.public)


@pytest.fixture
def output(inputs: dict[str, MemorySource], tmp_path: Path) -> dict[str, bytes]:
    return made(inputs, "[training]\nbatch = 8\n[transcript]\nsegment_steps = 2\n" + LORA, tmp_path)[0]


def test_an_output_with_other_files_is_refused(inputs: dict[str, MemorySource], output: dict[str, bytes]) -> None:
    weights = output["adapter_model.safetensors"]
    for changed in (
        {OPENING: b"short"},
        {OPENING: b"x" * 32},
        {TRANSCRIPT: b"{}"},
        {"adapter_model.safetensors": weights[:-1] + bytes([weights[-1] ^ 1])},
        {"adapter_model.safetensors": b"nothing"},
        {"model.safetensors": weights},
        {"adapter_config.json": output["adapter_config.json"].replace(b'"lora_alpha": 4', b'"lora_alpha": 400')},
        {"model.safetensors.index.json": b"{}"},  # a loader would take other weights
        {"chat_template.jinja": b"x"},
        {"transcript-job.json": b"{}"},
        {"transcript-job.json": b" " * (1 << 20)},
    ):
        with pytest.raises(MitaiError):
            check_output(MemorySource(output | changed), inputs, MANIFESTS, KEY.public)
    for missing in (TRANSCRIPT, OPENING, "transcript-job.json", "adapter_config.json", "adapter_model.safetensors"):
        with pytest.raises(TrainError):
            check_output(MemorySource({k: v for k, v in output.items() if k != missing}), inputs, MANIFESTS, KEY.public)
    with pytest.raises(TrainError, match="not at hand"):
        check_output(MemorySource(output), {"base": inputs["base"]}, MANIFESTS, KEY.public)
    with pytest.raises(TrainError, match="other inputs"):
        check_output(MemorySource(output), inputs, MANIFESTS | {"base": "9" * 64}, KEY.public)


def test_was_my_document_used(inputs: dict[str, MemorySource], output: dict[str, bytes]) -> None:
    mine = {"messages": [{"role": "user", "content": "What is 7?"}, {"role": "assistant", "content": "Number 7."}]}
    proof = prove_membership(MemorySource(output), inputs, KEY.public, mine)
    transcript = check_membership(proof, output[TRANSCRIPT], KEY.public, mine)
    assert transcript.data.records == 24
    with pytest.raises(TrainError, match="something else"):
        check_membership(proof, output[TRANSCRIPT], KEY.public, {"messages": []})
    with pytest.raises(TrainError, match="another transcript"):
        check_membership(
            msgspec.structs.replace(proof, transcript_sha256="0" * 64), output[TRANSCRIPT], KEY.public, mine
        )
    with pytest.raises(TrainError, match="exactly these values"):
        prove_membership(MemorySource(output), inputs, KEY.public, {"messages": []})
    changed = MemorySource(output | {OPENING: b"x" * 32})
    with pytest.raises(TrainError, match="other records"):
        prove_membership(changed, inputs, KEY.public, mine)


def test_a_killed_run_has_the_same_transcript(inputs: dict[str, MemorySource], tmp_path: Path) -> None:
    text = "[training]\nbatch = 4\nepochs = 2\n[checkpoints]\nevery_steps = 5\n[transcript]\nsegment_steps = 2\n" + LORA
    wanted = job(text)

    class Kept:
        newest_state: bytes | None = None

        def save(self, state: Checkpoint) -> None:
            self.newest_state = state.encode()

        def newest(self) -> Checkpoint | None:
            return Checkpoint.decode(self.newest_state) if self.newest_state else None

    kept = Kept()
    calls = iter([False] * 7 + [True])
    with pytest.raises(TrainError, match="cancelled"):
        run(
            wanted,
            inputs,
            states=kept,
            observers=observers(wanted, inputs, MANIFESTS, KEY, tmp_path),
            cancelled=lambda: next(calls),
        )
    files = run(wanted, inputs, states=kept, observers=observers(wanted, inputs, MANIFESTS, KEY, tmp_path)).files
    verdict = check_output(MemorySource(files), inputs, MANIFESTS, KEY.public, share=1.0)
    assert (verdict.steps, verdict.segments, verdict.distance) == (12, 6, 0.0)


def test_states_on_the_disk_are_encrypted_and_checked(inputs: dict[str, MemorySource], tmp_path: Path) -> None:
    wanted = job("[transcript]\n" + LORA)
    seen = Transcriber(wanted, inputs, MANIFESTS, KEY, tmp_path)

    class Meddler:
        def begin(self, trainer: object, step: int) -> None: ...
        def step(self, step: int, samples: object, loss: float) -> None: ...
        def state(self) -> dict[str, object]:
            return {}

        def restore(self, state: dict[str, object]) -> None: ...
        def end(self, trainer: object) -> dict[str, bytes]:
            first = min(tmp_path.iterdir())
            assert b"lora_A" not in first.read_bytes()
            content = first.read_bytes()
            first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            return {}

    with pytest.raises(TrainError, match="lost or changed"):
        run(wanted, inputs, observers={"meddler": Meddler(), "transcript": seen})


def test_a_job_without_a_table_has_no_transcript(inputs: dict[str, MemorySource], tmp_path: Path) -> None:
    assert observers(job(LORA), inputs, MANIFESTS, KEY, tmp_path) == {}
    with pytest.raises(TrainError, match="not for the method private"):
        job("[transcript]\n[private]\nepsilon = 1.0\ndelta = 1e-5\n", method="private")
