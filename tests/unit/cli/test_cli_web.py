"""`mitai web`: the installed page, hosts that serve it and hosts that don't, and the page elsewhere."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import uvicorn
from starlette.testclient import TestClient

from mitai import demo_model
from mitai.attest import Policy
from mitai.attest.refvalues.release import Measurements, Release, sign_release
from mitai.attest.refvalues.statement import Subject
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import installed_workload, reference_values
from mitai.cli.commands import app
from mitai.errors import MitaiError
from mitai.fleet.processes import free_port
from mitai.identity import Identity
from mitai.web.export import export
from mitai.web.page import Page
from mitai.web.site import Offer, Site

NOW = datetime.now(UTC)
PUBLISHER = Identity.generate()
HTML = (
    b"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; connect-src 'self'; base-uri 'none'\">"
)
PAGE = Page({"index.html": HTML, "console.html": HTML, "badge.js": b"badge()"})
OTHER = Page({**PAGE.files, "badge.js": b"evil()"})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user with a policy that trusts a publisher, and an installed page."""
    export(PAGE, tmp_path / "page", Offer())
    monkeypatch.setattr("mitai.web.page.INSTALLED", tmp_path / "page")
    monkeypatch.setenv("MITAI_HOME", str(tmp_path / "home"))
    policy = Policy(releases=(ReleaseTrust("serve", key=PUBLISHER.public.raw.hex()),))
    (tmp_path / "home" / "user").mkdir(parents=True)
    (tmp_path / "home" / "user" / "policy.toml").write_text(policy.to_toml())
    return tmp_path / "home"


@pytest.fixture
def run(capsys) -> Callable[..., dict]:
    def command(*words: object) -> dict:
        arguments = ["web", *map(str, words), "--json"]
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return json.loads(capsys.readouterr().out)

    return command


@pytest.fixture
def refused(run) -> Callable[..., MitaiError]:
    def command(*words: object) -> MitaiError:
        with pytest.raises(MitaiError) as error:
            run(*words)
        return error.value

    return command


@contextmanager
def hosting(page: Page) -> Iterator[str]:
    """Serve a page on this machine."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Site(page).app(), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def manifest(folder, page: Page | None, signer: Identity = PUBLISHER):
    values = reference_values(installed_workload("serve"))
    images = (Subject("mitai-page", {"sha256": page.digest}),) if page else ()
    release = Release("serve", 1, NOW - timedelta(hours=1), (Measurements("tdx", values.registers),))
    path = folder / "release.json"
    path.write_bytes(sign_release(release, signer, images))
    return path


def test_digest(run, tmp_path):
    told = run("digest")
    assert told["digest"] == PAGE.digest == hashlib.sha256((tmp_path / "page" / "page.sha256").read_bytes()).hexdigest()
    assert told["files"].keys() == PAGE.files.keys()
    assert told["badge_integrity"].startswith("sha384-")
    assert run("digest", tmp_path / "page")["digest"] == PAGE.digest


def test_a_host_of_the_published_page(run, tmp_path):
    with hosting(PAGE) as url:
        release = manifest(tmp_path, PAGE)
        for more in ((), ("--release", release), ("--digest", PAGE.digest)):
            assert run("check", url, *more)["verdict"] == "published"
        by_key = run("check", url, "--release", release, "--key", PUBLISHER.public.raw.hex())
        assert (by_key["digest"], by_key["headers_checked"]) == (PAGE.digest, True)
        assert run("check", url, "--files-only")["headers_checked"] is False


def test_a_host_of_another_page(refused, run, capsys, tmp_path):
    with hosting(OTHER) as url:
        for more in ((), ("--release", manifest(tmp_path, PAGE)), ("--digest", PAGE.digest)):
            assert refused("check", url, *more).code == "web.page-differs"
        assert run("check", url, "--digest", OTHER.digest)["verdict"] == "published"
        capsys.readouterr()
        with pytest.raises(MitaiError):
            app(["web", "check", url], exit_on_error=False, print_error=False, result_action="return_value")
        assert "badge.js is changed" in capsys.readouterr().out


def test_a_release_must_be_the_publishers_and_name_the_page(refused, tmp_path):
    url = "http://127.0.0.1:9"  # nothing is asked before the release holds
    stranger = Identity.generate()
    assert refused("check", url, "--release", manifest(tmp_path, PAGE, stranger)).code.startswith("attest.release-")
    release = manifest(tmp_path, PAGE)
    wrong = refused("check", url, "--release", release, "--key", stranger.public.raw.hex())
    assert wrong.code == "attest.release-signature-invalid"
    other = refused("check", url, "--release", release, "--key", PUBLISHER.public.raw.hex(), "--workload", "broker")
    assert other.code == "attest.release-workload-mismatch"
    assert refused("check", url, "--release", manifest(tmp_path, None)).code == "web.release-without-page"
    assert refused("check", url, "--release", release, "--digest", "00").code == "client.option-malformed"
    assert refused("check", url, "--digest", "page").code == "client.option-malformed"
    assert refused("check", url, "--release", manifest(tmp_path, PAGE)).code == "web.unreachable"


def test_export(run, refused, home, tmp_path):
    policy = (home / "user" / "policy.toml").read_text()
    told = run("export", tmp_path / "site", "--gateway", "https://gateway.example")
    page = Page.load(tmp_path / "site")
    assert told["digest"] == page.digest != PAGE.digest
    assert told["link"].endswith(hashlib.sha256(policy.encode()).hexdigest())
    assert "connect-src 'self' https://gateway.example;" in told["headers"]["content-security-policy"]
    offer = json.loads((tmp_path / "site" / "mitai.json").read_bytes())
    assert (offer["gateway"], offer["policy"]) == ("https://gateway.example", policy)
    with hosting(page) as url:
        assert run("check", url, "--digest", page.digest)["verdict"] == "published"
    assert refused("export", tmp_path / "site", "--gateway", "https://x").code == "web.folder-in-use"
    assert refused("export", tmp_path / "new", "--gateway", "gateway").code == "client.url-malformed"


def test_open(run, refused, home, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    digest = hashlib.sha256((home / "user" / "policy.toml").read_bytes()).hexdigest()
    link = f"https://chat.example/#policy={digest}"
    assert run("open", "https://chat.example/", "--no-browser") == {"page": link}
    assert not opened
    run("open", "https://chat.example")
    assert opened == [link]
    (home / "user" / "policy.toml").unlink()
    assert refused("open", "https://chat.example").code == "client.no-policy"


def test_serve_runs_the_page_for_a_gateway_elsewhere(run, monkeypatch):
    opened, served = [], []

    def browse(link: str) -> None:
        """The port must be ours by now: else another program on this machine could answer the browser."""
        port = int(link.removeprefix("http://127.0.0.1:").split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            opened.append(link)

    def serve(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        served.extend(listener.getsockname() for listener in sockets)
        for name, status in (("127.0.0.1", 200), ("localhost", 200), ("rebound.example", 400)):
            assert (
                TestClient(server.config.app, f"http://{name}:{served[0][1]}").get("/mitai.json").status_code == status
            )

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr("uvicorn.Server.run", serve)
    told = run("serve", "--gateway", "https://gateway.example", "--port", "0")
    assert opened == [told["page"]]
    [(host, port)] = served
    assert host == "127.0.0.1"
    assert told["page"].startswith(f"http://127.0.0.1:{port}/#policy=")
    assert told["digest"] != PAGE.digest


def test_serve_runs_the_page_for_a_service_of_proofs(run, refused, monkeypatch, tmp_path):
    offer = {"v": "mitai proof service v1", "address": "http://proofs.example", "model": "tiny"}
    (tmp_path / "service.json").write_text(json.dumps(offer | {"identity": "ab" * 32, "key": "cd" * 32}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((demo_model.path() / name).read_bytes())

    def serve(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        client = TestClient(server.config.app, "http://127.0.0.1")
        served.append(client.get("/mitai.json").json())
        assert "connect-src 'self' http://proofs.example;" in client.get("/").headers["content-security-policy"]

    served = []
    monkeypatch.setattr("uvicorn.Server.run", serve)
    told = run("serve", "--proof", tmp_path, "--no-browser", "--port", "0")
    [offered] = served
    assert offered["gateway"] == told["gateway"] == "http://proofs.example"
    assert told["page"].endswith(f"/#proof={hashlib.sha256(offered['proof'].encode()).hexdigest()}")
    for words in ((), ("--proof", tmp_path, "--gateway", "https://gateway.example")):
        assert refused("serve", *words).code == "client.option-malformed"
    assert refused("serve", "--proof", tmp_path / "none").code == "proof.no-service"


def test_an_address_is_shown_as_it_is(monkeypatch, capsys):
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    words = ["web", "serve", "--gateway", "http://[fe80::1]:8700", "--no-browser", "--port", "0"]
    app(words, exit_on_error=False, print_error=False, result_action="return_value")
    assert "for http://[fe80::1]:8700:" in capsys.readouterr().out  # no markup of ours


def test_without_a_page(refused, monkeypatch, tmp_path):
    monkeypatch.setattr("mitai.web.page.INSTALLED", tmp_path / "nowhere")
    for words in (("digest",), ("check", "http://127.0.0.1:9"), ("serve", "--gateway", "https://gateway.example")):
        assert refused(*words).code == "web.page-missing"
