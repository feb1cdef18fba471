"""Methods through the worker and the broker: what owners' policies see of them before a key is released."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pytest
from train_platform import TRAIN, Stage, platform
from train_rig import MemorySource, conversations, tiny_llama

from mitai.broker.protocol import Amounts
from mitai.client.owner import Owner

PROGRAM = b"def reward(answer, record):\n    return len(answer) / 100\n"
DIGEST = hashlib.sha256(PROGRAM).hexdigest()
PRIVATE = (
    "[training]\nbatch = 8\nmax_length = 64\n[limits]\nrows = 24\nsteps = 3\n"
    "[private]\nepsilon = 5.0\ndelta = 1e-3\n[checkpoints]\nevery_steps = 1\n"
)


@dataclass
class Scene:
    """A lab with two models, a hospital with records."""

    stage: Stage
    lab: Owner
    hospital: Owner
    model: str
    teacher: str

    def ends(self, method: str, data: str, more: str) -> dict:
        about = {"name": "t", "method": method, "model": self.model}
        head = "".join(f'{name} = "{value}"\n' for name, value in about.items())
        answer = self.stage.submit(f"[job]\n{head}data = {json.dumps([data])}\n[lora]\nrank = 2\n{more}")
        assert answer.status_code == 202, answer.text
        return self.stage.until(answer.json()["id"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory):
    with platform(tmp_path_factory.mktemp("platform")) as stage:
        lab, hospital = stage.party("lab"), stage.party("hospital")
        models = [stage.publish(lab, tiny_llama(seed), "model") for seed in (0, 1)]
        yield Scene(stage, lab, hospital, *models)
        lab.close()
        hospital.close()


@pytest.mark.slow
def test_a_private_job_beyond_the_budget_never_starts(scene: Scene) -> None:
    stage = scene.stage
    data = stage.publish(scene.hospital, conversations(24), "data", amounts=Amounts(epsilon_micros=8_000_000))
    done = scene.ends("private", data, PRIVATE)
    assert done["state"] == "done", done
    assert [each["loss"] for each in stage.logs(done["id"])] == [0.0] * 3
    refused = scene.ends("private", data, PRIVATE)
    assert (refused["state"], refused["error"]["code"]) == ("failed", "broker.epsilon-exhausted")
    assert stage.logs(refused["id"]) == []
    undeclared = scene.ends("sft", data, "[training]\nmax_length = 64\n")
    assert undeclared["error"]["code"] == "broker.budget-undeclared"


@pytest.mark.slow
def test_a_policy_pins_the_program_of_a_reward(scene: Scene) -> None:
    rows = b"\n".join(json.dumps({"prompt": f"q {number}?"}).encode() for number in range(8))
    records = MemorySource(
        {"records.jsonl": rows, "reward.py": PROGRAM, "other.py": b"def reward(a, r):\n    return 1"}
    )
    policy = TRAIN.replace(";", f' when {{ context.parameters.contains("reward_code={DIGEST}") }};')
    data = scene.stage.publish(scene.hospital, records, "data", policy)

    def table(file: str, digest: str) -> str:
        return (
            "[training]\nbatch = 4\nmax_length = 64\n[limits]\nsteps = 2\n[grpo]\ngenerations = 4\nmax_answer = 6\n"
            f'[[grpo.rewards]]\nname = "code"\ncapsule = "{data}"\nfile = "{file}"\nsha256 = "{digest}"\n'
        )

    done = scene.ends("grpo", data, table("reward.py", DIGEST))
    assert done["state"] == "done", done
    assert all("reward" in each for each in scene.stage.logs(done["id"]))
    other = hashlib.sha256(records.read("other.py")).hexdigest()
    assert scene.ends("grpo", data, table("other.py", other))["error"]["code"] == "broker.policy-denied"
    assert scene.ends("grpo", data, table("other.py", DIGEST))["error"]["code"] == "train.reward-program-unfit"


@pytest.mark.slow
def test_a_teacher_is_a_parent(scene: Scene) -> None:
    data = scene.stage.publish(scene.hospital, conversations(24), "data")
    done = scene.ends("distill", data, f'[training]\nmax_length = 64\n[distill]\nteacher = "{scene.teacher}"\n')
    assert done["state"] == "done", done
    lineage = str(scene.lab.lineage(done["capsule"]))
    assert all(capsule in lineage for capsule in (scene.model, scene.teacher, data))
