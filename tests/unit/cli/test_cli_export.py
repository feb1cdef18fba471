"""`mitai export` and `mitai lineage`, against a broker in this process: what is shown, asked, signed and written."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from broker_rig import Party, Rig
from mitai.attest.sim import SimPlatform
from mitai.broker.app import create_app
from mitai.broker.derive_client import Derivation
from mitai.capsule import FolderStore, MemorySource, Sealed, seal
from mitai.cli import export, lineage
from mitai.client.exports import RecipientKey, open_export, read_recipient, verify_view, write_plaintext
from mitai.client.owner import Owner
from mitai.errors import CapsuleError, ClientError, MitaiError
from mitai.fleet.home import Home
from mitai.identity import Identity


class InProcess(httpx2.BaseTransport):
    """Sends requests to an app in this process."""

    def __init__(self, app: object) -> None:
        self._inner = httpx2.ASGITransport(app)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        async def answer() -> httpx2.Response:
            whole = httpx2.Request(request.method, request.url, headers=request.headers, content=request.read())
            response = await self._inner.handle_async_request(whole)
            return httpx2.Response(response.status_code, headers=response.headers, content=await response.aread())

        return asyncio.run(answer())


class Desk:
    """Alice and Bob, who own an adapter, and Rita, who is to have it; each with a home and a verified broker."""

    def __init__(self, folder: Path, sim: SimPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        (folder / "broker").mkdir()
        self.rig = Rig(folder / "broker", sim)
        self.rita, self.bob = Party("rita"), Party("bob")
        for party in (self.rig.alice, self.bob, self.rita):
            self.rig.register(party)
        self.parties = {"alice": self.rig.alice, "bob": self.bob, "rita": self.rita}
        inputs = self.rig.release(
            self.rig.publish().capsule_id,
            self.rig.publish(owner=self.bob).capsule_id,
            purpose="training",
            parameters={"method": "sft"},
        )
        derivation = Derivation(self.rig.receipt_key, self.rig.broker.audience, inputs)
        self.adapter = self.seal(derivation.parents)
        with httpx2.Client(transport=InProcess(create_app(self.rig.broker))) as http:
            answer = http.post("http://b/v1/derived", content=derivation.request(self.adapter))
        assert derivation.index(answer.content, self.rig.broker.vkey) < self.rig.broker.size
        monkeypatch.setattr(export, "HttpStore", lambda _url: FolderStore(folder / "sealed"))
        self.be("alice")

    def seal(self, parents: tuple[str, ...]) -> Sealed:
        plain = self.folder / "plain"
        (plain / "deep").mkdir(parents=True)
        (plain / "adapter.bin").write_bytes(secrets.token_bytes(1000))
        (plain / "deep" / "empty.txt").write_bytes(b"")
        key = self.rig.receipt_key
        return seal(plain, self.folder / "sealed", owner=key, name="joint", kind="adapter", parents=parents)

    def owner(self, name: str) -> Owner:
        claims = SimpleNamespace(ledger=self.rig.broker.ledger_claim())
        session = SimpleNamespace(base_url="http://b", appraisal=SimpleNamespace(claims=claims, simulated=True))
        client = httpx2.Client(transport=InProcess(create_app(self.rig.broker)))
        return Owner("http://b", self.parties[name].identity, self.rig.policy, session=session, client=client)

    def be(self, name: str) -> None:
        """Sit down at that party's machine."""
        home = self.folder / name
        (home / "user").mkdir(parents=True, exist_ok=True)
        (home / "user" / "policy.toml").write_text(self.rig.policy.to_toml())
        if not (home / "owner").exists():
            self.parties[name].identity.save(home / "owner" / "identity.pem")
        self.monkeypatch.setenv("MITAI_HOME", str(home))
        for module in (export, lineage):
            self.monkeypatch.setattr(module, "verified_broker", lambda *_: self.owner(name))


@pytest.fixture
def desk(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(tmp_path, SimPlatform.create(tmp_path_factory.mktemp("sim") / "sim"), monkeypatch)
    yield made
    made.rig.close()


def asked(desk: Desk, capsys: pytest.CaptureFixture[str]) -> str:
    """Rita gives her file to Alice, who asks."""
    desk.be("rita")
    export.key(desk.folder / "rita.json", name="Rita [red]& sons")
    desk.be("alice")
    capsys.readouterr()
    export.request(desk.adapter.capsule_id, recipient=desk.folder / "rita.json", json=True)
    return json.loads(capsys.readouterr().out)["request"]


def test_an_export_from_the_question_to_the_files(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    capsule, request = desk.adapter.capsule_id, asked(desk, capsys)
    for name in ("alice", "bob"):
        desk.be(name)
        export.approve(capsule, request[:16], yes=True)
    shown = capsys.readouterr().out
    assert "adapter joint" in shown
    assert desk.adapter.manifest_sha256 in shown
    assert "Rita [red]& sons" in shown
    assert f"mitai export collect {request}" in shown
    export.list_(capsule)
    assert "approved" in capsys.readouterr().out
    desk.be("rita")
    for folder in ("first", "second"):  # the answer is there until the request's end
        export.collect(request, desk.folder / folder)
        assert (desk.folder / folder / "adapter.bin").read_bytes() == (desk.folder / "plain/adapter.bin").read_bytes()
        assert (desk.folder / folder / "deep" / "empty.txt").read_bytes() == b""
    with pytest.raises(ClientError) as caught:
        export.collect(request, desk.folder / "first")
    assert caught.value.code == "client.export-exists"
    assert not list(desk.folder.glob("*.part"))


def test_nobody_else_opens_it(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    capsule, request = desk.adapter.capsule_id, asked(desk, capsys)
    for name in ("alice", "bob"):
        desk.be(name)
        export.approve(capsule, request, yes=True)
    with pytest.raises(MitaiError):
        export.collect(request, desk.folder / "out")
    assert not (desk.folder / "out").exists()


def test_a_refusal(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    capsule, request = desk.adapter.capsule_id, asked(desk, capsys)
    desk.be("bob")
    export.refuse(capsule, request, yes=True, json=True)
    assert json.loads(capsys.readouterr().out)["state"] == "refused"
    desk.be("rita")
    with pytest.raises(MitaiError) as caught:
        export.collect(request, desk.folder / "out")
    assert caught.value.code == "broker.export-not-approved"


def test_what_is_signed_is_shown_and_asked_first(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsule, request = desk.adapter.capsule_id, asked(desk, capsys)
    with pytest.raises(ClientError) as caught:
        export.approve(capsule, request)
    assert caught.value.code == "client.not-confirmed"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for answer, votes in (("", 0), ("n", 0), ("yes", 1)):
        monkeypatch.setattr("builtins.input", lambda _question, answer=answer: answer)
        if votes:
            export.approve(capsule, request)
        else:
            with pytest.raises(ClientError):
                export.approve(capsule, request)
        assert len(desk.owner("alice").exports(capsule)[0].view.votes) == votes


def test_delegates(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    capsule, request = desk.adapter.capsule_id, asked(desk, capsys)
    desk.be("bob")
    export.delegates(desk.rita.id)
    desk.be("rita")
    export.approve(capsule, request, for_=desk.bob.id, yes=True)
    export.show(capsule, request[:12], json=False)
    assert "agrees by delegates (1 of 1 delegates)" in capsys.readouterr().out
    desk.be("bob")
    export.delegates(json=True)
    assert json.loads(capsys.readouterr().out)["threshold"] == 0


@pytest.mark.parametrize("request_id", ["", "0000000", "0" * 64])
def test_an_unknown_request(desk: Desk, request_id: str) -> None:
    with pytest.raises(ClientError) as caught:
        export.show(desk.adapter.capsule_id, request_id)
    assert caught.value.code == "client.no-request"


def test_a_list_of_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    export.list_(desk.adapter.capsule_id)
    assert "nobody has asked" in capsys.readouterr().out


# --- What the client itself checks ------------------------------------------------------------------------------------


def test_a_request_that_the_broker_made_up_is_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    asked(desk, capsys)
    owner = desk.owner("alice")
    (pending,) = owner.exports(desk.adapter.capsule_id)
    broker = desk.rig.broker.audience
    for capsule, audience in (("f" * 32, broker), (desk.adapter.capsule_id, "0" * 64)):
        with pytest.raises(ClientError) as caught:
            verify_view(pending.view, capsule, audience)
        assert caught.value.code == "client.export-mismatch"
    import msgspec

    forged = msgspec.structs.replace(pending.view, public_key=Identity.generate().public.raw)
    with pytest.raises(MitaiError):
        verify_view(forged, desk.adapter.capsule_id, broker)


def test_another_export_s_answer_is_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    capsule, request = desk.adapter.capsule_id, asked(desk, capsys)
    for name in ("alice", "bob"):
        desk.owner(name).vote_export(request, approve=True)
    desk.be("rita")
    owner, key = desk.owner("rita"), RecipientKey(Home.default().export_seed())
    assert owner.collect_export(request, key).manifest.capsule_id == capsule
    from mitai.broker.protocol import ExportAnswer

    answer = owner._query(f"/v1/export?request={request}", ExportAnswer)
    checkpoint = owner._checkpoint(answer.checkpoint)
    with pytest.raises(ClientError) as caught:
        open_export(answer, "0" * 64, key, checkpoint)
    assert caught.value.code == "client.export-mismatch"
    with pytest.raises(MitaiError):
        open_export(answer, request, RecipientKey(bytes(32)), checkpoint)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 5000, b'{"name":"x","party":"00","key":"AA=="}', b"\xff"])
def test_a_recipient_s_file_is_read_strictly(content: bytes) -> None:
    with pytest.raises(MitaiError):
        read_recipient(content)


def test_damaged_ciphertext_leaves_nothing_behind(desk: Desk, tmp_path: Path) -> None:
    from mitai.capsule import open_capsule

    store = desk.folder / "sealed"
    largest = max((path for path in store.iterdir() if path.name != "manifest.json"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    key = desk.rig.receipt_key.public
    source = open_capsule(FolderStore(store), desk.adapter.envelope, desk.adapter.data_key, owner=key)
    with pytest.raises(CapsuleError):
        write_plaintext(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("files", [("a", "a/b"), ("a/b", "a"), ("alone",)])
def test_what_fits_into_no_folder_is_said(tmp_path: Path, files: tuple[str, ...]) -> None:
    class Fixed(MemorySource):
        def names(self) -> tuple[str, ...]:
            return files

    source, out = Fixed(dict.fromkeys(files, b"x")), tmp_path / "deep" / "out"
    if files == ("alone",):
        out.parent.write_text("a file, not a folder")
    with pytest.raises(ClientError) as caught:
        write_plaintext(source, out)  # type: ignore[arg-type]
    assert caught.value.code == "client.export-unwritable"
    assert "a/b" in caught.value.diagnostics()
    assert not list(tmp_path.rglob("*out*"))


# --- Lineage ----------------------------------------------------------------------------------------------------------


def test_lineage_is_shown_drawn_and_written(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    drawing, events = desk.folder / "lineage.svg", desk.folder / "events.json"
    lineage.lineage(desk.adapter.capsule_id, svg_file=drawing, openlineage=events)
    shown = capsys.readouterr().out
    assert "made by serve in training method=sft" in shown
    assert drawing.read_text().count("<g>") == 3
    assert [event["outputs"][0]["name"] for event in json.loads(events.read_text())] == [desk.adapter.capsule_id]
    lineage.lineage(desk.adapter.capsule_id, json=True)
    result = json.loads(capsys.readouterr().out)
    assert [node["made"] is None for node in result["nodes"]] == [True, True, False]
