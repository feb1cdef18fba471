"""`python -m mitai.serve` as a process behind the real gateway: failures, a deployment, and what its log tells."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import time

import httpx2
import openai
import pytest
from serve_platform import platform, served

from mitai.capsule import seal
from mitai.client.http import session_client
from mitai.client.objects import upload
from mitai.client.owner import Owner
from mitai.client.session import Session
from mitai.fleet.gateway import GatewayConfig, create_app
from mitai.identity import Identity

POLICY = 'permit (principal == Workload::"serve", action == Action::"inference", resource);'
FORBID = "forbid (principal, action, resource);"
SECRET = "Zanzibar-purple-elephant"


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """A replica process and its log; the broker runs here."""
    root = tmp_path_factory.mktemp("process")
    with platform(root) as running:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = root / "serve.toml"
        policy = json.dumps(str(root / "policy.toml"))
        config.write_text(
            f"port = {port}\nsim = {json.dumps(str(running.sim))}\nbroker_policy = {policy}\nthreads = 1\n"
            "[limits]\nmax_requests = 9\n"
        )
        log = root / "serve.log"
        gateway = GatewayConfig(
            replicas={"one": f"http://127.0.0.1:{port}"},
            broker=running.broker,
            objects=str(root / "stored"),
            upload_token="up",
            operator_token="op",
        )
        upstream = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))
        with log.open("wb") as sink, served(create_app(gateway, upstream)) as url:
            command = [sys.executable, "-X", "dev", "-m", "mitai.serve", "--config", str(config)]
            with subprocess.Popen(command, stdout=sink, stderr=sink) as child:
                driver = Driver(running, url, log, root, child)
                try:
                    yield driver
                finally:
                    driver.http.close()
                    driver.sessions.close()
                    child.terminate()


class Driver:
    def __init__(self, running, gateway, log, root, child):
        self.running, self.gateway, self.log, self.root, self.child = running, gateway, log, root, child
        self.alice = Identity.generate()
        self.http = httpx2.Client(headers={"authorization": "Bearer op"}, timeout=30)
        self.sessions = httpx2.Client()

    def status(self):
        for _ in range(600):
            try:
                answer = self.http.get(f"{self.gateway}/control/status").json()["one"]
            except httpx2.HTTPError:
                answer = {"status": 0}
            if answer["status"] == 200 and answer["body"]["state"] != "deploying":
                return answer["body"]
            assert self.child.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(answer)

    def deploy(self, capsule_id, **more):
        body = {
            "capsules": [capsule_id],
            "broker": f"{self.gateway}/broker",
            "objects": f"{self.gateway}/objects",
            "model": "m",
        }
        answer = self.http.post(f"{self.gateway}/control/deploy", json=body | more).json()["one"]
        assert answer["status"] == 202, answer
        return self.status()

    def owner(self):
        session = Session(self.running.broker, self.running.policy, workload="broker", http=self.sessions)
        return Owner(self.running.broker, self.alice, self.running.policy, session=session)

    def session(self):
        return Session(self.gateway, self.running.policy, http=self.sessions)


def test_a_life(process, llama_folder):
    assert process.status()["state"] == "idle"
    assert process.status()["simulated"] is True

    # nothing in the clear, and clear errors for nonsense
    assert process.http.post(f"{process.gateway}/control/deploy", json={"capsules": []}).json()["one"]["status"] == 400
    assert httpx2.post(f"{process.gateway}/control/deploy", json={}).status_code == 401

    # a capsule that nobody registered
    status = process.deploy("ab" * 16)
    assert (status["state"], status["step"]) == ("failed", "release")
    assert status["error"]["code"].startswith("broker.")

    folder = shutil.copytree(llama_folder, process.root / "model")
    sealed = seal(folder, process.root / "sealed", owner=process.alice, name="m", kind="model")
    owner = process.owner()
    owner.register("Alice")

    # an owner who says no
    owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=FORBID)
    status = process.deploy(sealed.capsule_id)
    assert status["state"] == "failed"
    assert "polic" in status["error"]["code"] + status["error"]["message"]
    owner.set_policy(sealed.capsule_id, POLICY)

    # objects that are not there
    status = process.deploy(sealed.capsule_id)
    assert (status["state"], status["error"]["code"]) == ("failed", "capsule.object-missing")

    # objects with a byte changed, stored by a host that lies
    stored = process.root / "stored" / sealed.capsule_id
    upload(process.root / "sealed", process.gateway, "up", owner=process.alice.public)
    victim = max(stored.glob("[0-9a-f]*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    good = victim.read_bytes()
    victim.write_bytes(content)
    status = process.deploy(sealed.capsule_id)
    assert (status["state"], status["step"]) == ("failed", "load")
    assert status["error"]["code"].startswith("capsule.")
    victim.write_bytes(good)

    # and now it holds
    status = process.deploy(sealed.capsule_id)
    assert status["state"] == "ready", status
    before = process.session()
    answers = []
    with session_client(before) as http:
        client = openai.OpenAI(
            base_url=f"{process.gateway}/v1", api_key="sk-topsecret", http_client=http, max_retries=0
        )
        ask = {"model": "m", "messages": [{"role": "user", "content": f"Tell me about {SECRET}"}], "max_tokens": 40}
        answers.append(client.chat.completions.create(**ask).choices[0].message.content)
        stream = client.chat.completions.create(**ask, stream=True)
        answers.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
        for wrong in ({"temperature": 9}, {"tools": [{"x": SECRET}]}, {"extra_body": {"stop": [SECRET] * 9}}):
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(**ask | wrong)
        client.embeddings.create(model="m", input=SECRET)

        # loading it again replaces keys too: the old session is verified anew by itself
        key = before.key_config
        assert process.deploy(sealed.capsule_id, replace=True)["state"] == "ready"
        client.chat.completions.create(**ask)
        assert before.key_config != key
    owner.close()

    check_log(process, sealed, answers)


def check_log(process, sealed, answers):
    """Nothing of what was asked, answered or released is in what the host sees of the process: its log and status."""
    log = process.log.read_text() + json.dumps(process.status())
    assert "deployed" in log  # it is the right file
    assert "deployment failed" in log
    forbidden = [SECRET, "purple", "sk-topsecret", "Tell me about", sealed.data_key.hex()]
    forbidden += [base64.b64encode(sealed.data_key).decode(), repr(sealed.data_key)]
    forbidden += [answer[at : at + 12] for answer in answers for at in range(0, max(len(answer) - 12, 1), 6)]
    assert not [text for text in forbidden if text.strip() and text in log]
    assert "Traceback" not in log


def test_a_process_that_cannot_start_says_why(tmp_path):
    for text, reason in (
        ("port = 1", "broker_policy"),
        ('port = 1\nbroker_policy = "p"', "attest.collect-none"),
        ('port = 1\nsim = "nowhere"\nbroker_policy = "p"', "nowhere"),
        ('port = 1\nsim = "x"\nbroker_policy = "p"\nfoo = 1', "foo"),
    ):
        (tmp_path / "serve.toml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "mitai.serve", "--config", str(tmp_path / "serve.toml")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
