"""`mitai demo-train`: three parties make one model, and none of them sees another's asset; in simulation.

Every line that it prints is the outcome of something that was done. The exit status is 0 only when all of it held.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from mitai import demo_model
from mitai.attest import Policy
from mitai.attest.sim import installed_workload, reference_values
from mitai.broker.policy.templates import compose, template
from mitai.capsule import CapsuleSource, Sealed, open_capsule
from mitai.capsule import seal as seal_folder
from mitai.cli import clinics
from mitai.cli.deploy import serve_capsule
from mitai.cli.lineage import tree
from mitai.cli.output import SIMULATED, Output, data
from mitai.cli.owner import verified_broker
from mitai.cli.telling import Telling
from mitai.cli.train import followed
from mitai.client import Session, chat, session_client
from mitai.client.exports import Exported, RecipientKey, write_plaintext
from mitai.client.objects import HttpStore, upload
from mitai.client.owner import Owner
from mitai.errors import MitaiError
from mitai.fleet import platform as platforms
from mitai.fleet import training
from mitai.fleet.home import Home
from mitai.identity import PublicKey

Values = dict[str, str | int | Iterable[str]]
_SFT = """
[job]
name = "house-rules"
method = "sft"
model = "{model}"
data = ["{northside}", "{harbour}"]

[training]
epochs = 38
batch = 8
learning_rate = 5e-3
schedule = "cosine"
warmup_steps = 5
max_length = 128

[lora]

[transcript]
"""
_DPO = """
[job]
name = "manners"
method = "dpo"
model = "{model}"
adapter = "{adapter}"
data = ["{preferences}"]

[training]
epochs = 20
batch = 4
learning_rate = 2e-4
max_length = 128
"""

_AUDIT = """
[job]
name = "check"
method = "audit"
model = "{model}"
data = ["{northside}", "{harbour}"]

[training]
epochs = 38

[audit]
output = "{output}"
"""


@dataclass(frozen=True)
class Party:
    """One of the three, on a device of its own."""

    name: str
    home: Home
    owner: Owner

    @property
    def key_id(self) -> str:
        """By which policies name it."""
        return self.owner.identity.key_id


def demo_train(
    *,
    keep: Annotated[bool, Parameter(negative="", help="Keep the demo's files and say where they are.")] = False,
) -> None:
    """Play the story of three owners and one model in simulation: train, serve, export, prove, revoke.

    Uses a home of its own in a temporary folder; nothing of yours is touched. Takes a few minutes.
    """
    out, folder, began = Output(as_json=False), Path(tempfile.mkdtemp(prefix="mitai-demo-")), time.monotonic()
    with ExitStack() as opened:
        if not keep:
            opened.callback(shutil.rmtree, folder, ignore_errors=True)
        story = Story(out, Home(folder), opened)
        story.play()
    if keep:
        out.say(f"\nfiles: {data(folder)}")
    out.say(f"\n[bold green]All of it held[/]; {story.refusals} attempts refused; {time.monotonic() - began:.0f} s.")
    out.say("By hand: mitai up --train --detach; job files are in docs/spec/training.md")


class Story(Telling):
    """The acts, in order, on one platform."""

    def __init__(self, out: Output, home: Home, opened: ExitStack) -> None:
        super().__init__(out)
        self.home, self._opened = home, opened

    def play(self) -> None:
        """Play all acts."""
        self.out.say(SIMULATED)
        for act in (self.start, self.bring, self.train, self.prefer, self.serve, self.export, self.prove, self.revoke):
            act()

    # -- the acts --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Act 1: the processes."""
        self.title("1. The platform starts, a training worker with it")
        self.up = platforms.start(self.home, platforms.Settings(port=0, train=True, threads=1))
        self._opened.callback(self.up.stop)
        self.fact(", ".join(self.up.processes))
        self.policy = Policy.from_toml(self.home.policy.read_text())

    def bring(self) -> None:
        """Act 2: the parties."""
        self.title("2. Three parties verify the key broker; each seals what it has, and sets a policy of its own")
        self.lab, self.north, self.harbour = (self._party(name) for name in ("lab", "northside", "harbour"))
        together = sorted(party.key_id for party in (self.lab, self.north, self.harbour))
        until = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}"
        train: Values = {"workload": "train", "mrtd": _mrtd("train"), "owners": together, "until": until}
        serve: Values = {"workload": "serve", "mrtd": _mrtd("serve"), "until": until}
        limited: Values = {**train, "epochs": 50}
        learn = [template("sft-parties", **limited), template("dpo-parties", **limited)]
        learn.append(template("transcript-check", **train))
        model = compose(*learn, template("inference-until", **serve))
        records = compose(*learn, template("adapter-inference", owners=together, **serve))
        self.model = self._bring(self.lab, demo_model.path(), demo_model.NAME, "model", model)
        self.north_data = self._bring_data(self.north, "house-rules-northside", clinics.northside(), records)
        self.harbour_data = self._bring_data(self.harbour, "house-rules-harbour", clinics.harbour(), records)
        self.preferences = self._bring_data(self.harbour, "manners", clinics.preferences(), records)
        self.refused(
            "a clinic's records opened to serve them",
            "broker.policy-denied",
            lambda: self._serve(self.north_data),
        )

    def train(self) -> None:
        """Act 3: fine-tuning."""
        self.title("3. Supervised fine-tuning of an adapter, on both clinics' records, in the measured worker")
        files = {"model": self.model, "northside": self.north_data, "harbour": self.harbour_data}
        self.refused(
            "more epochs than the owners allow",
            "broker.policy-denied",
            lambda: self._job(_SFT.replace("epochs = 38", "epochs = 51").format(**files)),
        )
        self.first = self._job(_SFT.format(**files))
        owners = {grant.party for grant in self.north.owner.capsule(self.first).grants}
        self.hold(len(owners) == 3, f"the adapter {self.first[:16]}… belongs to all three")

    def prefer(self) -> None:
        """Act 4: preferences."""
        self.title("4. The adapter learns Harbour's preferences (DPO)")
        files = {"model": self.model, "adapter": self.first, "preferences": self.preferences}
        self.adapter = self._job(_DPO.format(**files))
        touched = [path for path in self.home.platform.rglob("*") if path.suffix in {".safetensors", ".jsonl"}]
        self.hold(not touched, "no plaintext of model, records or adapter is in any file of the platform")

    def serve(self) -> None:
        """Act 5: a user."""
        self.title("5. The joint adapter serves under all three policies")
        self._serve_joint()
        self.session = Session(self.up.gateway, self.policy)
        named = {capsule.id for capsule in self.session.appraisal.claims.capsules}
        self.hold({self.model, self.adapter} <= named, "its attested claims name the model and the adapter")
        expected = {**_first(clinics.NORTHSIDE), **_first(clinics.HARBOUR)}
        expected |= {question: careful for question, _, careful in clinics.MANNERS}
        for question, answer in expected.items():
            told = self._ask(question)
            self.hold(told == answer, f"{question} → {told}")
        self.hold(self._ask(next(iter(expected)), "") not in expected.values(), "the bare model knows none of it")

    def export(self) -> None:
        """Act 6: export."""
        self.title("6. Northside wants the adapter's files in the clear: all three owners must agree")
        key = RecipientKey(self.north.home.export_seed())
        recipient = key.recipient("Northside", self.north.owner.identity.public)
        request = self.north.owner.request_export(self.adapter, recipient, datetime.now(UTC) + timedelta(days=1))
        self.fact(f"Northside asked: request {request[:16]}…")
        for party in (self.north, self.lab, self.harbour):
            self.refused(
                f"collected before {party.name} agreed",
                "broker.export-",
                lambda: self.north.owner.collect_export(request, key),
            )
            party.owner.vote_export(request, approve=True)
        exported = self.north.owner.collect_export(request, key)
        folder = self.north.home.root / "adapter"
        write_plaintext(self._opened_export(exported), folder)
        size = (folder / "adapter_model.safetensors").stat().st_size
        self.fact(f"all agreed; Northside has the adapter in the clear: {size / 1e3:.0f} kB, logged as an export")

    def prove(self) -> None:
        """Act 7: proofs."""
        self.title("7. What the adapter was made of, proven")
        found = self.harbour.owner.lineage(self.adapter)
        self.out.console.print(tree(found))
        self.fact(f"{len(found.nodes)} capsules, every statement's signature and place in the ledger checked")
        files = {"model": self.model, "northside": self.north_data, "harbour": self.harbour_data}
        report = self._job(_AUDIT.format(output=self.first, **files))
        key = RecipientKey(self.lab.home.export_seed())
        recipient = key.recipient("the lab", self.lab.owner.identity.public)
        request = self.lab.owner.request_export(report, recipient, datetime.now(UTC) + timedelta(days=1))
        exported = self.lab.owner.collect_export(request, key)
        verdict = msgspec.json.decode(self._opened_export(exported).read("verdict.json"))
        self.hold(verdict["output"]["capsule"] == self.first, "the worker repeated parts of the training, and reports:")
        self.out.console.print(f"    {verdict['verdict']}", markup=False)

    def revoke(self) -> None:
        """Act 8: revocation."""
        self.title("8. Harbour withdraws its records: serving what was made of them stops")
        question, answer = next(iter(clinics.NORTHSIDE.items()))
        self.check(self._ask(question) == answer, "the adapter is not served any more")
        began = time.monotonic()
        self.harbour.owner.revoke(self.harbour_data)
        while (told := self._try(question)) == answer:
            self.check(time.monotonic() - began < 60, "serving did not stop within a minute")
            time.sleep(0.2)
        self.refusals += 1
        self.fact(f"refused {time.monotonic() - began:.1f} s after the revocation: {told}")
        self.refused(
            "the adapter deployed once more",
            "broker.revoked",
            lambda: self._serve(self.model, {"clinics": self.adapter}),
        )

    # -- helpers ---------------------------------------------------------------------------------------------

    def _try(self, question: str) -> str:
        """Return the answer to a question, or the code with which it was refused."""
        try:
            return self._ask(question)
        except MitaiError as error:
            return error.code

    def _opened_export(self, exported: Exported) -> CapsuleSource:
        store = HttpStore(f"{self.up.gateway}/objects/{exported.manifest.capsule_id}")
        return open_capsule(store, exported.envelope, exported.key.data_key, owner=PublicKey(exported.key.signer))

    def _party(self, name: str) -> Party:
        home = Home(self.home.root / name)
        owner = verified_broker(home, self.up.gateway, self.policy, name=name)
        self._opened.callback(owner.close)
        return Party(name, home, owner)

    def _bring(self, party: Party, folder: Path, name: str, kind: str, policy: str) -> str:
        dest = party.home.root / f"{name}.capsule"
        sealed: Sealed = seal_folder(folder, dest, owner=party.owner.identity, name=name, kind=kind)
        index = party.owner.publish(sealed.capsule_id, sealed.envelope, sealed.data_key, policy=policy)
        upload(dest, self.up.gateway, self.up.upload_token, owner=party.owner.identity.public)
        self.fact(f"{party.name} sealed {name} ({kind}) as {sealed.capsule_id[:16]}…, policy in ledger entry {index}")
        return sealed.capsule_id

    def _bring_data(self, party: Party, name: str, records: bytes, policy: str) -> str:
        folder = party.home.root / name
        folder.mkdir(parents=True)
        (folder / "records.jsonl").write_bytes(records)
        return self._bring(party, folder, name, "data", policy)

    def _job(self, text: str) -> str:
        """Run a job to its end; return the capsule that it made."""
        gateway, token = self.up.gateway, self.up.operator_token
        told = training.submit(gateway, token, text, self.up.upload_token)
        return str(followed(self.out, gateway, token, str(told["id"]))["capsule"])

    def _serve(self, capsule: str, adapters: Mapping[str, str] = {}) -> None:
        serve_capsule(
            self.out,
            self.up.gateway,
            self.up.operator_token,
            capsule,
            demo_model.NAME,
            adapters=adapters,
            replace=True,
        )

    def _serve_joint(self) -> None:
        self._serve(self.model, {"clinics": self.adapter})

    def _ask(self, question: str, adapter: str = ":clinics") -> str:
        with session_client(self.session) as http:
            asked = [{"role": "user", "content": question}]
            answer = chat.chat(http, asked, demo_model.NAME + adapter, max_tokens=60, temperature=0)
            return "".join(answer)


def _mrtd(workload: str) -> str:
    return reference_values(installed_workload(workload)).registers["mrtd"]


def _first(table: dict[str, str]) -> dict[str, str]:
    return dict(list(table.items())[:2])
