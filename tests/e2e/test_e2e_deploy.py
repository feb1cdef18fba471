"""A replica that is killed, or a store that stalls, lies or floods, in the middle of a deployment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from mitai import client as mitai_client
from mitai import demo_model
from mitai.attest import Policy
from mitai.cli import owner as owners
from mitai.cli.deploy import deploy_capsule
from mitai.cli.output import Output
from mitai.client import chat
from mitai.errors import FleetError, MitaiError
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home


class Store(ThreadingHTTPServer):
    """The objects of a platform, by a server that a test can make misbehave."""

    daemon_threads = True

    def __init__(self, folder, mode):
        self.folder, self.mode, self.asked, self.go_on = folder, mode, threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), _Objects)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self):
        self.go_on.set()
        self.shutdown()
        self.server_close()


class _Objects(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("content-length", str((self.server.folder / self.path[1:]).stat().st_size))
        self.end_headers()

    def do_GET(self):
        content = (self.server.folder / self.path[1:]).read_bytes()
        start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["range"]).groups())
        part, large = content[start : end + 1], len(content) > 1 << 20
        mode = self.server.mode if large else "well"
        if mode == "twice":
            part *= 2
        if mode == "lie":
            part = part[:-1] + bytes([part[-1] ^ 1])
        self.send_response(206)
        self.send_header("content-length", str(len(part)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if mode in {"stall", "cut"}:
                self.wfile.write(part[: len(part) // 2])
                self.server.asked.set()
                if mode == "stall":
                    self.server.go_on.wait(60)
                self.close_connection = True
                return
            self.wfile.write(part)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("deploy"))
    platform = platforms.start(home, platforms.Settings(port=0))
    try:
        model = demo_model.path(), demo_model.NAME
        platform.capsule, _ = owners.seal_publish(Output(True), home, model, platform.gateway, platform.upload_token)
        yield platform
    finally:
        platform.stop()


@pytest.fixture
def store(platform, request):
    store = Store(platform.home.objects, request.param)
    yield store
    store.close()


def begin(platform, store):
    body = {
        "capsules": [platform.capsule],
        "model": demo_model.NAME,
        "replace": True,
        "broker": f"{platform.gateway}/broker",
        "objects": store.url,
    }
    platforms.deploy(platform.gateway, platform.operator_token, body)


def wait(platform):
    deadline = time.monotonic() + 60
    while platforms.deployments(platform.gateway, platform.operator_token):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def policy(platform):
    return Policy.from_toml(platform.home.policy.read_text())


def ask(platform):
    with mitai_client.http_client(platform.gateway, policy(platform)) as http:
        return "".join(chat.chat(http, [{"role": "user", "content": "What is a TEE?"}], demo_model.NAME, max_tokens=8))


def grant(platform):
    with contextlib.closing(owners.verified_broker(platform.home, platform.gateway, policy(platform))) as owner:
        return owner.capsule(platform.capsule).grants[0]


@pytest.mark.parametrize("store", ["stall"], indirect=True)
def test_a_replica_that_is_killed_while_it_streams(platform, store):
    """The use is spent, because the key was released and the ledger says so; nothing is served; the next one works."""
    replica, used = platform.processes["replica-0"], grant(platform).uses
    begin(platform, store)
    assert store.asked.wait(30)
    assert platforms.deployments(platform.gateway, platform.operator_token), "it is in the middle"
    os.kill(replica.pid, signal.SIGKILL)
    replica.popen.wait(10)
    with pytest.raises(FleetError) as gone:
        platforms.deployments(platform.gateway, platform.operator_token)
    assert gone.value.code == "fleet.replica-unreachable"
    assert "replica-0" in gone.value.message
    with pytest.raises(MitaiError) as nobody:
        ask(platform)
    assert nobody.value.code == "fleet.replica-unreachable"
    assert grant(platform).uses == used + 1
    platform.restart("replica-0")
    status = platforms.status(platform.gateway, platform.operator_token)["replica-0"]["body"]
    assert (status["state"], status["serving"]) == ("idle", "")
    deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME)
    assert ask(platform)
    assert grant(platform).uses == used + 2


@pytest.mark.parametrize(
    ("store", "code"),
    [("cut", "capsule.store-failed"), ("twice", "capsule.store-failed"), ("lie", "capsule.object-")],
    indirect=["store"],
)
def test_a_store_that_breaks_off_floods_or_lies(platform, store, code):
    begin(platform, store)
    with pytest.raises(FleetError) as failed:
        wait(platform)
    assert failed.value.code.startswith(code)
    with pytest.raises(MitaiError):
        ask(platform)
    status = platforms.status(platform.gateway, platform.operator_token)["replica-0"]["body"]
    assert (status["state"], status["serving"]) == ("failed", "")
    deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME)
    assert ask(platform)


def test_a_broker_that_is_killed_meanwhile(platform):
    """Without a broker nothing is released, and what is served goes on."""
    broker = platform.processes["broker"]
    deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME, replace=True)
    used = grant(platform).uses
    os.kill(broker.pid, signal.SIGKILL)
    broker.popen.wait(10)
    with pytest.raises(FleetError) as failed:
        deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME, replace=True)
    assert failed.value.code in {"client.unreachable", "fleet.replica-unreachable"}
    assert ask(platform)
    platform.restart("broker")
    assert httpx2.get(broker.health).status_code == 200
    assert grant(platform).uses == used
    deploy_capsule(Output(True), platform.home, platform.capsule, demo_model.NAME, replace=True)
    assert grant(platform).uses == used + 1
