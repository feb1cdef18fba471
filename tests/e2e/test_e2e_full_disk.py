"""A disk that is full under each process in turn: clear errors, nothing acknowledged lost, and it goes on afterwards.

A limit on file sizes that a running process gets from outside stands for the full disk: every write to a file fails.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time

import httpx2
import pytest

from mitai import client as mitai_client
from mitai import demo_model
from mitai.attest import Policy
from mitai.cli import owner as owners
from mitai.cli.deploy import deploy_capsule
from mitai.cli.output import Output
from mitai.client import chat
from mitai.client.objects import upload
from mitai.errors import BrokerError, ClientError, FleetError
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home

pytestmark = pytest.mark.slow

ALLOW = "permit(principal, action, resource);"


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("disk"))
    platform = platforms.start(home, platforms.Settings(port=0, capture=True))
    try:
        model = demo_model.path(), demo_model.NAME
        platform.capsule, _ = owners.seal_publish(Output(True), home, model, platform.gateway, platform.upload_token)
        deploy_capsule(Output(True), home, platform.capsule, demo_model.NAME)
        yield platform
    finally:
        platform.stop()


@contextlib.contextmanager
def full_disk(platform, name):
    pid = platform.processes[name].pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert platform.dead() == []


def policy(platform):
    return Policy.from_toml(platform.home.policy.read_text())


def ledger_size(platform):
    return httpx2.get(platform.processes["broker"].health).json()["ledger_size"]


def uses(owner, capsule):
    return owner.capsule(capsule).grants[0].uses


def ask(platform):
    with mitai_client.http_client(platform.gateway, policy(platform)) as http:
        return "".join(chat.chat(http, [{"role": "user", "content": "What is a TEE?"}], demo_model.NAME, max_tokens=8))


def test_the_brokers(platform):
    owner = owners.verified_broker(platform.home, platform.gateway, policy(platform))
    with contextlib.closing(owner):
        size, used = ledger_size(platform), uses(owner, platform.capsule)
        with full_disk(platform, "broker"):
            with pytest.raises(BrokerError) as refused:
                owner.set_policy(platform.capsule, ALLOW, uses=3)
            assert refused.value.code == "broker.storage"
            with pytest.raises(FleetError) as failed:
                deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME, replace=True)
            assert failed.value.code == "broker.storage"
            assert ask(platform), "what is served goes on"
        assert ledger_size(platform) - size <= 1, "a receipt at most: no policy, no release"
        assert uses(owner, platform.capsule) == used
        deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME, replace=True)
        assert uses(owner, platform.capsule) == used + 1
        owner.set_policy(platform.capsule, ALLOW, uses=used + 9)
    platform.home.capture.unlink()
    size = ledger_size(platform)
    os.kill(platform.processes["broker"].pid, 9)
    platform.processes["broker"].popen.wait(10)
    platform.restart("broker")
    assert ledger_size(platform) >= size


def test_the_gateways(platform, tmp_path):
    home = platform.home
    sealed = owners._seal(Output(True), home, demo_model.path(), tmp_path / "sealed", "second")
    stored = home.objects / sealed.capsule_id
    with full_disk(platform, "gateway"):
        with pytest.raises(ClientError) as refused:
            upload(tmp_path / "sealed", platform.gateway, platform.upload_token, owner=home.owner().public)
        assert refused.value.code == "fleet.object-store"
        assert ask(platform), "traffic goes on, although it can't be captured"
    assert [path for path in stored.rglob("*") if path.is_file()] == []
    upload(tmp_path / "sealed", platform.gateway, platform.upload_token, owner=home.owner().public)
    assert len(list(stored.iterdir())) == len(list((tmp_path / "sealed").iterdir()))


def test_the_witness(platform):
    """What is decided meanwhile is cosigned as soon as there is room."""
    owner = owners.verified_broker(platform.home, platform.gateway, policy(platform))
    witness = platform.processes["witness"]
    with contextlib.closing(owner):
        with full_disk(platform, "witness"):
            index = owner.set_policy(platform.capsule, ALLOW, uses=99)
            log_start = witness.log.stat().st_size
            time.sleep(1.5)
        owner.set_policy(platform.capsule, ALLOW, uses=100)
    deadline = time.monotonic() + 30
    while True:
        note = httpx2.get(f"{platform.gateway}/broker/ledger/checkpoint").text
        if int(note.splitlines()[1]) > index and "— witness.local" in note:
            break
        assert time.monotonic() < deadline, note
        time.sleep(0.2)
    assert "Traceback" not in witness.log.read_text()[log_start:]


def test_the_replicas(platform):
    with full_disk(platform, "replica-0"):
        deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME, replace=True)
        assert ask(platform), "a replica writes nothing but its log"


def test_the_users(platform, tmp_path):
    """The answer is shown; that its receipt could not be kept is said."""

    def run(*arguments, limit=0):
        environment = os.environ | {"MITAI_HOME": str(platform.home.root)}
        return subprocess.run(
            [sys.executable, "-m", "mitai.cli", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
        )

    shutil.rmtree(platform.home.sessions, ignore_errors=True)
    assert run("verify").returncode == 0, "that a session can't be kept costs only a verification"
    said = run("chat", "-m", "What is a TEE?")
    assert len(said.stdout) > 10
    assert "cli.io" in said.stderr
    sealing = ("seal", str(demo_model.path()), str(tmp_path / "s"), "--json")
    cut = run(*sealing, limit=1 << 20)
    assert "capsule.io-failed" in cut.stdout
    assert run(*sealing, limit=1 << 30).returncode == 0, "it resumes"
    elsewhere = {"MITAI_HOME": str(tmp_path / "elsewhere")}
    started = subprocess.run(
        [sys.executable, "-m", "mitai.cli", "up", "--detach", "--port", "0", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | elsewhere,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY)),
    )
    assert started.returncode == 1
    assert '"error"' in started.stdout
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "elsewhere")], check=False, capture_output=True)
    assert left.stdout == b"", "no process is left over"
    for done in (said, cut, started):
        assert "Traceback" not in done.stderr
