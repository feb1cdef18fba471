"""Job files and records: whatever comes in, it is read as what it says, or refused with an error of the tree."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.capsule import MemorySource
from mitai.errors import TrainError
from mitai.train.data import read
from mitai.train.job import Job

JOB = '[job]\nname = "n"\nmethod = "sft"\nmodel = "m"\ndata = ["d"]\n'
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.text(max_size=300))
def test_any_text_is_a_job_or_refused(text: str) -> None:
    for whole in (text, JOB + text):
        try:
            job = Job.parse(whole)
        except TrainError:
            continue
        assert Job.decode(job.encode()) == msgspec.structs.replace(job, sft=job.options)


@given(st.integers(1, 1000), st.integers(1, 65536), st.floats(1e-6, 1.0), st.integers(1, 2**53), st.booleans())
def test_a_job_says_and_declares_what_its_file_says(
    epochs: int, batch: int, rate: float, rows: int, packing: bool
) -> None:
    text = f"{JOB}[training]\nepochs = {epochs}\nbatch = {batch}\nlearning_rate = {rate!r}\n[limits]\nrows = {rows}\n"
    job = Job.parse(text + f"[sft]\npacking = {str(packing).lower()}\n")
    assert (job.training.epochs, job.training.batch, job.training.learning_rate) == (epochs, batch, rate)
    assert job.declared() == {"method": "sft", "epochs": str(epochs), "rows": str(rows)}
    again = Job.decode(job.encode())
    assert again == job
    assert again.sha256() == job.sha256()
    other = Job.parse(text + f"[sft]\npacking = {str(not packing).lower()}\n")
    assert other.sha256() != job.sha256()


@pytest.mark.parametrize(
    "more",
    [
        "v = 2\n" + JOB,
        JOB + "trust_remote_code = true",
        JOB + "[plugins]",
        JOB + "[dpo]\nbeta = 0.1",
        JOB + "[training]\nlearning_rate = nan",
        JOB + "[training]\nlearning_rate = inf",
        JOB + "[training]\nepochs = 0",
        JOB + "[training]\nepochs = true",
        JOB + '[training]\nepochs = "1"',
        JOB + "[training]\nweight_decay = -0.1",
        JOB + "[limits]\nrows = -1",
        JOB + "[limits]\ncolumns = []",
        JOB + '[limits]\ncolumns = ["a,b"]',
        JOB + "[early_stopping]",
        JOB + "[evaluation]\nevery_steps = 1",
        JOB + 'adapter = "a"\n[lora]',
        JOB + 'adapter = "m"',
        JOB.replace('"n"', '"a b"'),
        JOB.replace('"n"', '"n\\n"'),
        JOB.replace('"m"', '"../m"'),
        JOB.replace('["d"]', '["d", "d"]'),
        JOB.replace('["d"]', "[]"),
        JOB.replace('"sft"', '"none"'),
        JOB + "[training]\n" + "[" * 500,
        "#" * 70000,
    ],
)
def test_what_a_job_must_not_say(more: str) -> None:
    with pytest.raises(TrainError):
        Job.parse(more)


@given(
    st.lists(st.tuples(TEXT, st.integers(-(2**53), 2**53), st.booleans()), min_size=1, max_size=8), st.integers(1, 9)
)
def test_records_come_back_as_they_were(rows: list[tuple[str, int, bool]], limit: int) -> None:
    whole = [{"flag": flag, "number": number, "text": text} for text, number, flag in rows]
    content = b"\n".join(json.dumps(row).encode() for row in whole)
    assert read([MemorySource({"a.jsonl": content})], rows=limit).plain() == whole[:limit]


@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_refused(content: bytes) -> None:
    try:
        records = read([MemorySource({"a.jsonl": content})])
    except TrainError:
        return
    assert all(set(row) == set(records.columns) for row in records.rows)
