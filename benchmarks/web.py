"""The page for browsers, in Chromium: what a verification takes, what the channel adds, and how much is loaded.

Rows:

- `web-verify-ms`: milliseconds in the page from the evidence's bytes to its appraisal: parse, take in the signed
  releases, all checks, claims; each time with fresh evidence, nothing remembered. Beside it `mitai.attest.verify` in
  Python on the same evidence, in turn. `cold_ms` is the first one of a fresh page, before anything is compiled.
- `web-ttft-ms`: milliseconds that the sealed channel adds to the first token in the page, over the same engine in
  plaintext HTTP, in turn; both servers are those of `benchmarks.throughput`.
- `web-proof-verify-ms`: milliseconds in the page to check an answer of the demo model with its proof. Beside it
  `mitai.proof.answer.check_answer` in Python on the same file, in turn. `web-proof-zk-verify-ms`: with proofs that
  hide the weights, one of so many `uses`.
- `web-weight-kb`: thousands of bytes, headers included, that servers send for the first visit of the chat, all of it:
  page, evidence, list of models, service worker and what that keeps for offline use. `script_kb` is the chat's script
  alone, `console_kb` all that a first visit of the console loads.

Needs Node.js with `web/node_modules`, and Chromium: `make e2e` installs them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from benchmarks.harness import progress, row
from mitai import demo_model
from mitai.attest import Appraisal, Claims, Evidence, Policy, verify
from mitai.attest.evidence import CapsuleClaim, LedgerClaim
from mitai.attest.policy import ClaimRules
from mitai.attest.refvalues.release import Measurements, Release, sign_release, with_releases
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.channel import KeyRing
from mitai.channel.ehbp import KEYS_PATH
from mitai.identity import Identity
from mitai.ledger import vkey
from mitai.proof.answer import Answer, check_answer, generate, prove_answer
from mitai.proof.prepared import Prepared, prepare
from mitai.web.page import Page
from mitai.web.site import Offer, Site
from mitai.workload import Workload

WEB = Path(__file__).parents[1] / "web"
VERIFICATIONS = 60
COLD = 7
TTFT_PAIRS = 60
PROOFS = 7
PROOF_PROMPT = [1, 362, 201, 532, 464, 322, 33, 2, 201, 1, 369, 201]  # "Who are you?" in the demo model's template
PROOF_TOKENS = 12
PROOF_USES = (64, 1000)  # what `mitai proof prepare --zk` has unless asked, and many


class Browser:
    """Chromium, as `web/bench/run.mjs` drives it."""

    def __init__(self) -> None:
        command = ["node", str(WEB / "bench" / "run.mjs")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=WEB)
        self.version = self._answer()["chromium"]

    def do(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - what the page returns
        """Have one command done, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the browser."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _answer(self) -> Any:  # noqa: ANN401
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the browser ended with status {self._process.wait(30)}; what it said is above")
        return json.loads(line)


def missing() -> str | None:
    """Return what this group needs and does not find."""
    chromium = os.environ.get("MITAI_CHROMIUM", "/usr/bin/chromium")
    if shutil.which("node") is None:
        return "Node.js is not on the PATH"
    if not (WEB / "node_modules" / "playwright-core").is_dir():
        return f"no packages in {WEB / 'node_modules'}"
    return None if Path(chromium).is_file() else f"no Chromium at {chromium} (or set MITAI_CHROMIUM)"


# -------------------------------------------------------------------------------------------------------- verification


@dataclass(frozen=True)
class Machine:
    """A simulated machine with what a user of it would be given: a policy and a signed release."""

    workload: Workload
    policy: Policy
    release: bytes

    @staticmethod
    def make(folder: Path) -> Machine:
        """Return a machine with claims and a policy as `mitai up` has them."""
        sim = SimPlatform.create(folder / "sim")
        measured, publisher, ledger = installed_workload("serve"), Identity.generate(), Identity.generate()
        values = reference_values(measured)
        release = Release("serve", 1, datetime.now(UTC), (Measurements(values.tee, values.registers),))
        ledger_vkey = vkey("bench.mitai/ledger", ledger.public)
        claims = Claims(
            workload="serve",
            key_config=b"",
            receipt_key=Identity.generate().public.raw,
            capsules=(CapsuleClaim("bench", "ab" * 32),),
            policies=("cd" * 32,),
            ledger=LedgerClaim("bench.mitai/ledger", ledger_vkey, b"a checkpoint"),
        )
        policy = Policy(
            allow_simulation=True,
            sim_roots=(sim.sim_root,),
            workloads=(values,),
            releases=(ReleaseTrust("serve", key=publisher.public.raw.hex()),),
            claims=ClaimRules(ledger_vkey=ledger_vkey),
        )
        workload = Workload(sim.attester(measured), KeyRing.generate(), lambda: claims)
        return Machine(workload, policy, sign_release(release, publisher))

    def subject(self) -> tuple[bytes, bytes, dict[str, object]]:
        """Return fresh evidence, its nonce, and both as the page is given them."""
        nonce = os.urandom(32)
        evidence = self.workload.evidence(nonce).encode()
        texts = {"policy": self.policy.to_toml(), "releases": [self.release.decode()]}
        return evidence, nonce, {"evidence": _base64(evidence), "nonce": _base64(nonce), **texts}

    def verify(self, evidence: bytes, nonce: bytes) -> Appraisal:
        """Verify as the page does, in Python."""
        now = datetime.now(UTC)
        return verify(
            Evidence.decode(evidence), with_releases(self.policy, [self.release], now=now), nonce=nonce, now=now
        )


def verification(browser: Browser, machine: Machine) -> None:
    """Measure `web-verify-ms`."""
    cold = [browser.do("cold", subject=machine.subject()[2])["ms"] for _ in range(COLD)]
    ours, theirs = [], []
    for turn in range(VERIFICATIONS + 10):
        evidence, nonce, subject = machine.subject()
        found = browser.do("verify", subject=subject)
        start = time.perf_counter()
        appraisal = machine.verify(evidence, nonce)
        seconds = time.perf_counter() - start
        if found["evidenceSha256"] != appraisal.evidence_sha256:
            raise RuntimeError("the page and Python verified different evidence")
        if turn >= 10:  # the first ones are compiled meanwhile
            ours.append(found["ms"])
            theirs.append(seconds * 1e3)
    row(
        "web-verify-ms",
        ours,
        "ms",
        peer="mitai.attest.verify in Python",
        peer_samples=theirs,
        cold_ms=round(statistics.median(cold), 2),
        coldest_ms=round(max(cold), 2),
        evidence_kb=round(len(evidence) / 1e3, 1),
        chromium=browser.version,
    )


# ---------------------------------------------------------------------------------------------------------------- proof


def proof(browser: Browser, folder: Path, uses: int = 0) -> None:
    """Measure `web-proof-verify-ms`; with uses `web-proof-zk-verify-ms`."""
    card = prepare(demo_model.path(), [PROOF_PROMPT, list(range(100, 140))], folder, uses=uses)
    prepared = Prepared.open(folder)
    answer = prove_answer(prepared, PROOF_PROMPT, generate(prepared, PROOF_PROMPT, PROOF_TOKENS, lambda _: True))
    encoded = answer.encode()
    ours, theirs = [], []
    for turn in range(PROOFS + 1):
        found = browser.do("proof", file=_base64(encoded), model=card.identity)
        start = time.perf_counter()
        bits = check_answer(Answer.parse(encoded), card.identity)
        seconds = time.perf_counter() - start
        if abs(found["bits"] - bits) > 1e-6:
            raise RuntimeError("the page and Python found different security")
        if turn:  # the first one is compiled meanwhile
            ours.append(found["ms"])
            theirs.append(seconds * 1e3)
    row(
        "web-proof-zk-verify-ms" if uses else "web-proof-verify-ms",
        ours,
        "ms",
        peer="mitai.proof.answer.check_answer in Python",
        peer_samples=theirs,
        tokens=len(answer.prompt) + len(answer.answer),
        uses=uses,
        file_kb=round(len(encoded) / 1e3, 1),
        bits=round(bits, 1),
        chromium=browser.version,
    )


# ----------------------------------------------------------------------------------------------------- the first token


def first_token(browser: Browser, folder: Path) -> None:
    """Measure `web-ttft-ms`."""
    from benchmarks.models import smollm_135m
    from benchmarks.throughput import MODEL, server

    progress("making a random Llama of 135 million parameters …")
    smollm_135m(folder)
    with server(folder, 1) as (plain, sealed):
        keys = {"plain": plain, "sealed": sealed, "keyConfig": _base64(httpx2.get(sealed + KEYS_PATH).content)}
        added, sealed_ms, plain_ms = [], [], []
        for pair in range(TTFT_PAIRS + 5):
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"{pair}. Hi"}],
                "max_tokens": 1,
                "temperature": 1.0,
                "seed": pair,
                "stream": True,
            }
            took = browser.do("tokens", ask={**keys, "body": json.dumps(body)}, sealedFirst=pair % 2 == 0)
            if pair >= 5:
                added.append(took["sealed"] - took["plain"])
                sealed_ms.append(took["sealed"])
                plain_ms.append(took["plain"])
    row(
        "web-ttft-ms",
        added,
        "ms added",
        peer="the same in plaintext HTTP, in all",
        peer_samples=plain_ms,
        sealed_ms=round(statistics.median(sealed_ms), 2),
    )


# --------------------------------------------------------------------------------------------------------- the weight


@dataclass
class Counted:
    """An ASGI app that counts what it sends, by path."""

    inner: Any
    sent: dict[str, int] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            headers = sum(len(name) + len(value) + 4 for name, value in message.get("headers", ()))
            path = scope["path"]
            self.sent[path] = self.sent.get(path, 0) + headers + len(message.get("body", b""))
            await send(message)

        await self.inner(scope, receive, counting if scope["type"] == "http" else send)

    def take_kb(self) -> dict[str, float]:
        """Return thousands of bytes by path, and begin anew."""
        taken, self.sent = self.sent, {}
        return {path: size / 1e3 for path, size in taken.items()}


def weight(browser: Browser, machine: Machine) -> None:
    """Measure `web-weight-kb`."""
    page, policy = Page.load(), machine.policy.to_toml()
    pinned = f"#policy={hashlib.sha256(policy.encode()).hexdigest()}"
    site = Site(page, Offer(policy=policy, releases=(machine.release.decode(),)))
    models = JSONResponse({"object": "list", "data": [{"id": "bench", "object": "model"}]})
    sealed = machine.workload.app(Starlette(routes=[Route("/v1/models", lambda _: models)]))

    async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
        answer = site.answer(Request(scope)) if scope["type"] == "http" else None
        await (answer or sealed)(scope, receive, send)

    counted = Counted(gateway)
    with serving(counted) as url:
        totals = []
        for _ in range(3):
            browser.do("visit", url=f"{url}/{pinned}", until="Simulated hardware", kept=True)
            chat = counted.take_kb()
            totals.append(sum(chat.values()))
        browser.do("visit", url=f"{url}/console.html{pinned}", until="Key broker", kept=False)
        console = counted.take_kb()
    for path, kilobytes in sorted(chat.items(), key=lambda item: -item[1]):
        progress(f"{kilobytes:8.1f} kB  {path}")
    row(
        "web-weight-kb",
        totals,
        "kB",
        script_kb=round(sum(size for path, size in chat.items() if path.startswith("/assets/index")), 1),
        console_kb=round(sum(console.values()), 1),
        files=len(page.files),
    )


@contextmanager
def serving(app: Any) -> Iterator[str]:  # noqa: ANN401
    """Serve an app in a thread of this process; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def main() -> int:
    if lack := missing():
        progress(f"the group web needs Node.js, web/node_modules and Chromium: {lack}; `make e2e` installs them")
        return 1
    browser = Browser()
    try:
        with tempfile.TemporaryDirectory() as folder:
            machine = Machine.make(Path(folder))
            verification(browser, machine)
            proof(browser, Path(folder) / "prepared")
            for uses in PROOF_USES:
                proof(browser, Path(folder) / f"hidden-{uses}", uses)
            weight(browser, machine)
            first_token(browser, Path(folder) / "model")
    finally:
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
