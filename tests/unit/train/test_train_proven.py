"""What a job makes has the identity that proofs name it by: in manifest and lineage, and for who prepares it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from train_rig import MemorySource, conversations, job, tiny_llama

from mitai.errors import TrainError
from mitai.identity import Envelope
from mitai.mpc.text import Text
from mitai.proof.prepared import prepare
from mitai.proof.texts import calibration
from mitai.train.proven import BYPRODUCT, identity, require_provable


@pytest.mark.slow
def test_an_identity_is_that_of_who_prepares_the_model(tmp_path: Path) -> None:
    source = tiny_llama()
    files = {name: source.read(name) for name in source.names()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    card = prepare(tmp_path, calibration(Text.load(tmp_path)), tmp_path / "prepared")
    assert identity(files) == card.identity


def test_a_job_asks_for_it() -> None:
    plain = job()
    assert "proof" not in plain.declared()
    assert b"proof" not in plain.encode()  # so digests of jobs are what they were
    asked = job("[proof]\n")
    assert asked.declared()["proof"] == "named"
    assert asked.decode(asked.encode()).sha256() == asked.sha256() != plain.sha256()


@pytest.mark.parametrize(
    ("more", "method"),
    [("[proof]\nmodel = 1\n", "sft"), ("[proof]\n[lora]\nrank = 2\n", "sft"), ("[proof]\n", "reward")],
)
def test_a_job_that_makes_no_such_model(more: str, method: str) -> None:
    with pytest.raises(TrainError) as refused:
        job(more, method=method)
    assert refused.value.code == "train.job-malformed"


@pytest.mark.parametrize("config", [{"model_type": "bert"}, {}, {"model_type": "gpt2", "n_layer": -1}])
def test_a_model_that_is_not_proven_is_found_out_before(config: dict[str, object]) -> None:
    with pytest.raises(TrainError) as refused:
        require_provable(MemorySource({"config.json": json.dumps(config).encode()}))
    assert refused.value.code == "train.not-provable"


@pytest.mark.slow
def test_manifest_and_lineage_name_it(tmp_path: Path) -> None:
    from train_platform import platform

    with platform(tmp_path) as stage:
        owner = stage.party("lab")
        model = stage.publish(owner, tiny_llama(), "model")
        data = stage.publish(owner, conversations(16), "data")
        about = f'[job]\nname = "t"\nmethod = "sft"\nmodel = "{model}"\ndata = ["{data}"]\n'
        answer = stage.submit(about + "[training]\nmax_length = 32\n[transcript]\n[proof]\n")
        done = stage.until(answer.json()["id"])
        assert (done["state"], done["kind"]) == ("done", "model"), done
        envelope = Envelope.decode((stage.root / "objects" / done["capsule"] / "manifest.json").read_bytes())
        named = json.loads(envelope.payload)["proof_identity"]
        made = owner.lineage(done["capsule"]).nodes[done["capsule"]].statement
        assert made is not None
        assert made.byproducts[BYPRODUCT] == named
        assert {"transcript.json", "job"} <= made.byproducts.keys()
        owner.close()
