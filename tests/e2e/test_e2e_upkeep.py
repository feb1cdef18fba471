"""`mitai up` in the foreground: replicas killed and revoked, an adapter, SIGTERM that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mitai import client as mitai_client
from mitai import demo_model
from mitai.attest import Policy
from mitai.broker.lease_client import RENEW_S
from mitai.client import chat
from mitai.errors import MitaiError
from mitai.fleet.home import Home

pytestmark = pytest.mark.slow
ASK = [{"role": "user", "content": "Who are you?"}]


def start(root: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"MITAI_HOME": str(root)}
    command = [sys.executable, "-m", "mitai.cli", "up", "--port", "0", "--threads", "1", *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes(root: Path) -> list[int]:
    """Return the processes whose command line names this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"mitai." in command and str(root).encode() in command:
            found.append(int(folder.name))
    return found


def until(true, within_s: float):
    ends = time.monotonic() + within_s
    while not (answer := true()):
        assert time.monotonic() < ends
        time.sleep(0.1)
    return answer


@pytest.fixture
def up(tmp_path):
    running = start(tmp_path)
    try:
        until((tmp_path / "platform" / "deployment.json").exists, 120)
        yield running, Home(tmp_path)
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        assert processes(tmp_path) == []


def asked(home: Home) -> tuple[bool, str]:
    """Return whether there was an answer, and it or the code of what went wrong, as a new client sees it."""
    gateway, policy = home.read_platform().gateway, Policy.from_toml(home.policy.read_text())
    try:
        with mitai_client.http_client(gateway, policy=policy) as http:
            return True, "".join(chat.chat(http, ASK, demo_model.NAME, max_tokens=8, temperature=0))
    except MitaiError as error:
        return False, error.code


def test_a_killed_replica_serves_again_until_its_owner_revokes(up, capsys):
    _, home = up
    well, _ = served = asked(home)
    assert well, served
    killed = home.read_platform().pids["replica-0"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: home.read_platform().pids["replica-0"] != killed, 60)
    until(lambda: asked(home) == served, 60)
    capsule = next(home.objects.iterdir()).name
    done = subprocess.run(
        [sys.executable, "-m", "mitai.cli", "revoke", capsule], env=os.environ | {"MITAI_HOME": str(home.root)}
    )
    began = time.monotonic()
    assert done.returncode == 0
    until(lambda: not asked(home)[0], 60)
    took = time.monotonic() - began
    assert took < RENEW_S + 5
    with capsys.disabled():
        sys.stdout.write(f"\n  from `mitai revoke` to refused requests: {took:.1f} s, renewing every {RENEW_S:g} s\n")


def write_adapter(folder: Path) -> None:
    """Write a LoRA adapter of the demo model's attention, as peft would."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model, tensors = AutoModelForCausalLM.from_pretrained(demo_model.path()), {}
    for name, layer in model.named_modules():
        if name.endswith("q_proj"):
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, layer.in_features)
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(layer.out_features, 4)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapter_from_the_command_line(up, tmp_path):
    _, home = up

    def mitai(*arguments: str) -> dict:
        environment = os.environ | {"MITAI_HOME": str(home.root)}
        command = [sys.executable, "-m", "mitai.cli", *arguments, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    write_adapter(tmp_path / "support")
    sealed = mitai("seal", str(tmp_path / "support"), "--kind", "adapter", "--out", str(tmp_path / "support.capsule"))
    mitai("publish", str(tmp_path / "support.capsule"))
    model = next(each.name for each in home.objects.iterdir() if each.name != sealed["capsule"])
    deployed = mitai("deploy", model, "--adapter", sealed["capsule"], "--replace")
    name = f"{deployed['model']}:support"
    assert deployed["adapters"] == {name: sealed["capsule"]}
    gateway, policy = home.read_platform().gateway, Policy.from_toml(home.policy.read_text())
    with mitai_client.http_client(gateway, policy=policy) as http:
        assert chat.models(http) == [deployed["model"], name]
    mitai("chat", "--message", "Who are you?", "--max-tokens", "20", "--model", name)
    receipt = mitai("receipt")
    assert (receipt["model"], receipt["capsules"], receipt["adapters"]) == (name, [model], [sealed["capsule"]])
    told = subprocess.run(
        [sys.executable, "-m", "mitai.cli", "verify"],
        env=os.environ | {"MITAI_HOME": str(home.root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    ).stdout
    assert f"{name} answers with capsule {sealed['capsule']}" in told


@pytest.mark.parametrize("after", ["broker.toml", "replica-0.toml", "gateway.toml"])
def test_sigterm_while_it_starts_and_deploys_leaves_no_process(tmp_path, after):
    running = start(tmp_path)
    until((tmp_path / "platform" / after).exists, 60)
    if after == "gateway.toml":
        until(lambda: any((tmp_path / "platform" / "objects").rglob("manifest.json")) or running.poll() is not None, 60)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 128 + signal.SIGTERM
    assert processes(tmp_path) == []
