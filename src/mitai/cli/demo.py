"""`mitai demo`: the whole story in simulation, with real processes, real cryptography and a real (tiny) model.

Every line that it prints is the outcome of something that was done. The attacks are tried against the running platform,
and each must be refused with the very code that stands for it. The exit status is 0 only when all of it held.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx2
import msgspec
from cyclopts import Parameter

from mitai import demo_model
from mitai.attest import Evidence, Policy, verify
from mitai.attest.sim import Workload, installed_workload
from mitai.capsule import MANIFEST_NAME, Sealed, open_manifest
from mitai.capsule import seal as seal_folder
from mitai.channel import KeyRing
from mitai.cli.deploy import deploy_capsule
from mitai.cli.output import SIMULATED, Output, data, printable
from mitai.cli.owner import inference_policy, verified_broker
from mitai.cli.telling import DemoFailedError, Telling
from mitai.client import LedgerMemory, Proof, Session, chat, receipts, session_client
from mitai.client.objects import upload
from mitai.client.owner import Owner
from mitai.client.transport import OhttpTransport
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home
from mitai.fleet.processes import stop
from mitai.ledger import verify_log

QUESTIONS = ("What is remote attestation?", "什么是机密计算？")
ASK = {"temperature": 0, "max_tokens": 200}
MODEL_NOTE = "the model is a demo of a few megabytes: it knows some thirty questions"


def _largest(folder: Path) -> list[Path]:
    """Return the two largest objects of a sealed folder: the model's tokenizer and its weights."""
    return sorted((path for path in folder.iterdir() if path.name != MANIFEST_NAME), key=lambda p: p.stat().st_size)[
        -2:
    ]


class _Captured(msgspec.Struct):
    """One line of the gateway's record; bodies in base64."""

    path: str
    headers: list[tuple[str, str]]
    request: bytes
    response: list[bytes]

    def sealed(self) -> bool:
        """Whether this went to a replica through the sealed channel."""
        return self.path == "/ohttp"


class _Replaying(httpx2.HTTPTransport):
    """A network that sends every request twice and passes on the second answer."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        super().handle_request(request).read()
        return super().handle_request(request)


def demo(
    *,
    keep: Annotated[bool, Parameter(negative="", help="Keep the demo's files and say where they are.")] = False,
) -> None:
    """Play the whole story in simulation: seal, deploy, verify, chat, prove; then try attacks and see them refused.

    Uses a home of its own in a temporary folder; nothing of yours is touched. Takes well under a minute.
    """
    out, folder = Output(as_json=False), Path(tempfile.mkdtemp(prefix="mitai-demo-"))
    story, began = Story(out, Home(folder)), time.monotonic()
    try:
        story.play()
    finally:
        story.close()
        if keep:
            out.say(f"\nfiles: {data(folder)}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    out.say(f"\n[bold green]All of it held[/]; {story.refusals} attacks refused; {time.monotonic() - began:.0f} s.")
    out.say("By hand: mitai up --detach, then mitai verify and mitai chat")


class Story(Telling):
    """The acts, in order, on one platform."""

    def __init__(self, out: Output, home: Home) -> None:
        super().__init__(out)
        self.home = home
        self.platform: platforms.Platform | None = None
        self.owner: Owner | None = None

    def play(self) -> None:
        """Play all acts."""
        self.out.say(SIMULATED)
        for act in (self.start, self.own, self.deploy, self.talk, self.prove, self.attack):
            act()

    def close(self) -> None:
        """Stop every process."""
        if self.owner is not None:
            self.owner.close()
        if self.platform is not None:
            self.platform.stop()

    # -- the acts --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Act 1: the processes."""
        self.title("1. The platform starts, each part its own process")
        self.platform = self.up = platforms.start(self.home, platforms.Settings(port=0, capture=True))
        for name, process in self.up.processes.items():
            self.fact(f"{name:<10} process {process.pid}")
        self.policy = Policy.from_toml(self.home.policy.read_text())

    def own(self) -> None:
        """Act 2: the owner."""
        self.title("2. A model owner verifies the key broker, seals a model, hands over key and policy")
        identity = self.home.owner()
        self.owner = self.party = verified_broker(self.home, self.up.gateway, self.policy)
        checks = self.party.session.appraisal.checks
        self.fact(f"the broker's evidence passed {len(checks)} checks, and it appraises workloads as the owner does")
        self.folder = self.home.root / "sealed"
        self.sealed = self._seal(self.folder)
        stored = sum(path.stat().st_size for path in self.folder.iterdir())
        self.fact(f"sealed the model as capsule {self.sealed.capsule_id[:16]}…: {stored / 1e6:.1f} MB of ciphertext")
        self.until = datetime.now(UTC) + timedelta(days=30)
        index = self._publish(self.sealed, uses=20)
        self.fact(f"gave the broker the key under a policy (this code, 30 days, 20 uses): ledger entry {index}")
        sent = upload(self.folder, self.up.gateway, self.up.upload_token, owner=identity.public)
        self.fact(f"uploaded {sent / 1e6:.1f} MB, ciphertext only")

    def deploy(self) -> None:
        """Act 3: deployment."""
        self.title("3. The replica proves itself to the broker, gets the key, streams the capsule into memory")
        began = time.monotonic()
        deploy_capsule(self.out, self.home, self.sealed.capsule_id, demo_model.NAME)
        self.fact(f"serving {demo_model.NAME} after {time.monotonic() - began:.1f} s; {MODEL_NOTE}")
        touched = [path for path in self.home.platform.rglob("*") if path.suffix == ".safetensors"]
        self.hold(not touched, "no plaintext of the model is in any file of the platform")

    def talk(self) -> None:
        """Act 4: a user."""
        self.title("4. A user verifies the replica, then chats; the gateway sees ciphertext")
        self.session = Session(self.up.gateway, self.policy)
        appraisal = self.session.appraisal
        for step, detail in appraisal.checks:
            self.fact(f"{step}: {detail}")
        self.hold(
            self.sealed.capsule_id in {capsule.id for capsule in appraisal.claims.capsules},
            "its attested claims name the owner's capsule",
        )
        self.answers = [self._ask(question) for question in QUESTIONS]
        self._ask_openai()
        self._inspect_capture()

    def prove(self) -> None:
        """Act 5: proofs."""
        self.title("5. The receipt is checked; the ledger is proven")
        with session_client(self.session) as http, httpx2.Client() as plain:
            self.proof = receipts.fetch(http, self.session, self.answers[0].exchange)
            receipt, _ = receipts.check(Proof.decode(self.proof.encode()), self.policy)
            self.fact(f"receipt {receipt.exchange[:16]}…: signed by the attested key, over the ciphertext we exchanged")
            self.fact(f"in the ledger as entry {self.proof.bundle.index}, inclusion proven")
            self.vkey = self.party.ledger.vkey
            fetch = receipts.ledger_fetcher(self.up.gateway, plain)
            memory = LedgerMemory(self.home.checkpoints)
            before = memory.observe(self.proof.bundle.checkpoint.encode(), self.vkey, fetch)
            self._ask(QUESTIONS[0], quiet=True)
            report = self._whole_log(before.size)
            memory.observe(fetch("checkpoint") or b"", self.vkey, fetch)
            self.fact(
                f"the log grew from {before.size} to {report} entries and extends what was seen: consistency proven"
            )

    def attack(self) -> None:
        """Act 6: attacks."""
        self.title("6. Attacks, each refused with its reason")
        self._attack_evidence()
        self._attack_replay()
        self._attack_capsule()
        self._attack_budget()
        self._attack_rollback()

    # -- attacks ---------------------------------------------------------------------------------------------

    def _attack_evidence(self) -> None:
        sim = platforms.open_sim(self.home)
        code = installed_workload("serve")
        other = sim.attester(Workload("serve", bytes(31) + bytes([code.digest[0] ^ 1])))
        self.refused(
            "another program asks the broker for the key",
            "broker.evidence-refused:attest.measurement-mismatch",
            lambda: self._ask_for_key(other.evidence),
        )
        nonce = bytes(range(32))
        genuine = self._evidence(nonce)
        quote = bytearray(genuine.quote)
        quote[200] ^= 1  # within MRTD
        flipped = msgspec.structs.replace(genuine, quote=bytes(quote))
        self.refused(
            "a quote with one byte changed", "attest.quote-signature-invalid", lambda: self._verify(flipped, nonce)
        )
        mallory = msgspec.structs.replace(self.session.appraisal.claims, key_config=KeyRing.generate().current_config())
        relayed = msgspec.structs.replace(genuine, claims=mallory.encode())
        self.refused(
            "a genuine quote relayed with an attacker's key",
            "attest.report-data-mismatch",
            lambda: self._verify(relayed, nonce),
        )
        self.refused("old evidence for a new nonce", "attest.nonce-mismatch", lambda: self._verify(genuine, bytes(32)))
        strict = msgspec.structs.replace(self.policy, allow_simulation=False)
        self.refused(
            "simulated hardware where the policy demands real",
            "attest.simulation-refused",
            lambda: verify(genuine, strict, nonce=nonce, now=datetime.now(UTC)),
        )

    def _attack_replay(self) -> None:
        transport = OhttpTransport(_Replaying(), self.session, self.up.gateway)
        with httpx2.Client(transport=transport, base_url=self.up.gateway) as http:
            self.refused("a request that the network sends again", "channel.replayed", lambda: chat.models(http))

    def _attack_capsule(self) -> None:
        self.second = self._seal(self.home.root / "second")
        stored = self.home.objects / self.sealed.capsule_id
        tokenizer, weights = _largest(stored)
        kept = {path: path.read_bytes() for path in (tokenizer, weights)}
        tampered = {
            "two shards of the stored capsule swapped": {tokenizer: kept[weights], weights: kept[tokenizer]},
            "a shard cut short by one byte": {weights: kept[weights][:-1]},
            "a shard from another capsule, of the same size": {
                weights: _largest(self.home.root / "second")[1].read_bytes()
            },
        }
        for attack, objects in tampered.items():
            for path, content in objects.items():
                path.write_bytes(content)
            self.refused(attack, "capsule.", self._redeploy)
            for path, content in kept.items():
                path.write_bytes(content)
        self._redeploy()
        self.fact("with the true shards back, it is served again")

    def _attack_budget(self) -> None:
        second = self.second
        self._publish(second, uses=1)
        upload(self.home.root / "second", self.up.gateway, self.up.upload_token, owner=self.home.owner().public)
        deploy_capsule(self.out, self.home, second.capsule_id, demo_model.NAME, replace=True)
        self.refused(
            "a second use where the policy allows one",
            "broker.budget-exhausted",
            lambda: self._redeploy(second.capsule_id),
        )
        past = datetime.now(UTC) - timedelta(seconds=1)
        self.party.set_policy(second.capsule_id, inference_policy(self.policy, self.until), uses=9, not_after=past)
        self.refused("a use after the policy's end", "broker.policy-expired", lambda: self._redeploy(second.capsule_id))
        self.party.revoke(second.capsule_id)
        self.refused("a use after the owner has revoked", "broker.revoked", lambda: self._redeploy(second.capsule_id))

    def _attack_rollback(self) -> None:
        """Put back the broker's state and the published ledger, as a host could; the witness is out of its reach."""
        state = self.home.platform / "broker"
        self._stop_broker()
        older = self.home.root / "older"
        shutil.copytree(state, older)
        self.up.restart("broker")
        self.party.session.renew()
        self.party.set_policy(self.sealed.capsule_id, inference_policy(self.policy, self.until), uses=20)
        self._whole_log(0)
        time.sleep(0.3)
        self._stop_broker()
        newest = state.rename(self.home.root / "newest")
        shutil.copytree(older, state)
        self.refused(
            "the broker's database put back to an older copy", "broker.rolled-back", lambda: self.up.restart("broker")
        )
        shutil.rmtree(state)
        newest.rename(state)
        self.up.restart("broker")
        self._redeploy()
        self.fact(f"with the newest database it starts, and the log still holds: {self._whole_log(0)} entries")

    # -- helpers ---------------------------------------------------------------------------------------------

    def _seal(self, folder: Path) -> Sealed:
        sealed = seal_folder(demo_model.path(), folder, owner=self.home.owner(), name=demo_model.NAME)
        open_manifest((folder / MANIFEST_NAME).read_bytes(), owner=self.home.owner().public)
        return sealed

    def _publish(self, sealed: Sealed, uses: int) -> int:
        cedar = inference_policy(self.policy, self.until)
        return self.party.publish(
            sealed.capsule_id, sealed.envelope, sealed.data_key, policy=cedar, uses=uses, not_after=self.until
        )

    def _redeploy(self, capsule: str | None = None) -> None:
        deploy_capsule(self.out, self.home, capsule or self.sealed.capsule_id, demo_model.NAME, replace=True)

    def _ask(self, question: str, *, quiet: bool = False) -> chat.Answer:
        with session_client(self.session) as http:
            answer = chat.chat(
                http, [{"role": "user", "content": question}], demo_model.NAME, max_tokens=200, temperature=0
            )
            pieces = 0
            if not quiet:
                self.out.console.print(f"  › {question}\n  ", end="", style="cyan")
            for piece in answer:
                pieces += 1
                if not quiet:
                    self.out.console.print(printable(piece), end="", markup=False, soft_wrap=True)
        if not quiet:
            self.out.say("")
            self.hold(
                pieces > 1 and len(answer.text) > 20, f"{answer.completion_tokens} tokens, streamed in {pieces} pieces"
            )
        return answer

    def _ask_openai(self) -> None:
        try:
            import openai
        except ImportError:
            return
        with session_client(self.session) as http:
            client = openai.OpenAI(base_url=f"{self.up.gateway}/v1", api_key="unused", http_client=http)
            stream = client.chat.completions.create(
                model=demo_model.NAME,
                messages=[{"role": "user", "content": QUESTIONS[0]}],
                stream=True,
                temperature=0,
                max_tokens=ASK["max_tokens"],
            )
            text = "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
        self.hold(text == self.answers[0].text, "the stock openai client, over our transport, gets the same answer")

    def _inspect_capture(self) -> None:
        rows = self._captured()
        bodies = [body for row in rows for body in (row.request, b"".join(row.response))]
        words = [word for text in (*QUESTIONS, *(answer.text for answer in self.answers)) for word in (text, text[:8])]
        found = [word for word in words for body in bodies if word.encode() in body]
        self.hold(not found, f"the gateway's capture of {len(rows)} exchanges holds none of these words; one begins:")
        self.out.say(f"    {rows[-1].request[:24].hex(' ', 4)} …")

    def _captured(self) -> list[_Captured]:
        """Return what the gateway recorded of sealed exchanges with the replica."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            lines = self.home.capture.read_bytes().splitlines() if self.home.capture.exists() else []
            rows = [row for row in (msgspec.json.decode(line, type=_Captured) for line in lines) if row.sealed()]
            if rows:
                return rows
            time.sleep(0.05)
        raise DemoFailedError("demo.no-capture", "the gateway has recorded nothing")

    def _evidence(self, nonce: bytes) -> Evidence:
        answer = httpx2.get(f"{self.up.gateway}/.well-known/mitai/evidence", params={"nonce": nonce.hex()})
        return Evidence.decode(answer.content)

    def _verify(self, evidence: Evidence, nonce: bytes) -> None:
        verify(evidence, self.policy, nonce=nonce, now=datetime.now(UTC))

    def _ask_for_key(self, evidence: Callable[[bytes, bytes], Evidence]) -> None:
        from mitai.broker.release_client import Release
        from mitai.serve.link import BrokerLink

        claims = msgspec.structs.replace(self.session.appraisal.claims, key_config=KeyRing.generate().current_config())
        link = BrokerLink(f"{self.up.gateway}/broker", self.policy)
        try:
            challenge = link.post("/v1/challenge", b"")
            release = Release(
                challenge,
                lambda nonce: evidence(claims.encode(), nonce),
                purpose="inference",
                capsules=(self.sealed.capsule_id,),
            )
            link.post("/v1/release", release.body)
        finally:
            link.close()

    def _whole_log(self, at_least: int) -> int:
        """Check the whole published log, once it has `at_least` + 1 entries; return its size."""
        deadline = time.monotonic() + 10
        with httpx2.Client() as plain:
            fetch = receipts.ledger_fetcher(self.up.gateway, plain)
            while True:
                report = verify_log(fetch, self.vkey)
                if report.checkpoint.size > at_least or time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        self.check(report.checkpoint.size > at_least, "the log did not grow")
        return report.checkpoint.size

    def _stop_broker(self) -> None:
        stop([self.up.processes["broker"].pid])
