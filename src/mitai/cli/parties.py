"""What `mitai up --trust mpc` starts, and what `verify`, `chat` and `receipt` do where parties compute together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mitai.attest import Appraisal, Policy
from mitai.attest.sim import SimPlatform, installed_workload, reference_values
from mitai.cli.chat import Talk
from mitai.cli.output import Output, data, marked
from mitai.cli.verify import brief, machine_of, tell_checks
from mitai.client import chat as chats
from mitai.errors import ClientError, MpcError
from mitai.fleet import parties as fleet
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home, write_private
from mitai.fleet.processes import free_port
from mitai.ledger.receipt import PartyReceipt
from mitai.mpc.attested import WORKLOAD
from mitai.mpc.kept import Kept
from mitai.mpc.openai import greet, http_client, stay
from mitai.mpc.sampling import Kind
from mitai.mpc.settings import SETTINGS, Name, Setting
from mitai.mpc.setup import IDENTITY, Side, configure_here
from mitai.mpc.sharing import CLIENT, Generation, Progress, split_model
from mitai.problem import error_from

TOGETHER = (
    "[black on yellow] ONE MACHINE [/] All sides run on this machine: whoever owns it can put them together and read "
    "all. For trying; see docs/mpc.md for machines of different people."
)


PROMPT_TOKENS, NEW_TOKENS = (64, 256), (64,)  # unless a person says something else


def start(
    out: Output,
    home: Home,
    found: tuple[Path, str],
    setting: Name,
    *,
    prompt_tokens: Sequence[int],
    new_tokens: Sequence[int],
) -> platforms.Platform:
    """Cut a model, start all sides on this machine, and return when the parties take questions.

    Args:
        out: Where progress is told.
        home: Gets the sides' folders, and the client's.
        found: A model's folder, and its name.
        setting: Who takes part.
        prompt_tokens: To how many tokens prompts are padded; by default `PROMPT_TOKENS`.
        new_tokens: How many tokens answers have; by default `NEW_TOKENS`.

    Raises:
        MitaiError: The model is not supported, or a process did not come up.
    """
    platforms.refuse_second(home)
    folder, name = found
    out.note(f"cutting {name} into shares …")
    roles = SETTINGS[setting]
    with out.bar(f"cutting {name}") as report:
        _cut(home, folder, roles, report)
    configure_here(
        home.parties,
        [free_port() for _ in roles.listeners],
        sim=home.sim,
        policy=_policy(platforms.open_sim(home)),
        prompt_tokens=list(prompt_tokens or PROMPT_TOKENS),
        new_tokens=list(new_tokens or NEW_TOKENS),
        model=name,
        ahead=1,
    )
    shutil.rmtree(home.mpc_client, ignore_errors=True)
    home.mpc_client.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    (home.parties / CLIENT).rename(home.mpc_client)
    side = Side.open(home.mpc_client)
    return fleet.start(home, roles.roles, lambda: _ready(side), out.note)


def _cut(home: Home, model: Path, setting: Setting, report: Progress) -> None:
    """Cut a model in place of the former one; sides keep their keys, by which receipts of theirs are checked."""
    before = {role: home.parties / role for role in setting.roles} | {CLIENT: home.mpc_client}
    keys = {role: folder / IDENTITY for role, folder in before.items()}
    kept = {role: path.read_bytes() for role, path in keys.items() if path.exists()}
    fresh = home.parties.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    home.platform.mkdir(parents=True, exist_ok=True, mode=0o700)
    split_model(model, fresh, setting.name, progress=report)
    for role, key in kept.items():
        write_private(fresh / role / IDENTITY, key)
    shutil.rmtree(home.parties, ignore_errors=True)
    fresh.rename(home.parties)


def _policy(sim: SimPlatform) -> str:
    """Return the text of what each side demands of the others: this simulated hardware, and the code installed here."""
    values = reference_values(installed_workload(WORKLOAD))
    return Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=(values,)).to_toml()


def _ready(side: Side) -> bool:
    try:
        greet(side, within_s=1.0)
    except MpcError:
        return False
    return True


def verify(out: Output, folder: Path, *, explain: bool) -> None:
    """Meet the parties, check who they are, and show what they will see; nothing is asked."""
    side = Side.open(folder)
    found = greet(side)
    for role, appraisal in found.items():
        out.say(f"[bold]{role}[/]  {data(side.peers[role].address or '')}, key {side.peers[role].key_id}")
        if appraisal is not None:
            tell_checks(out, appraisal.machine.tee, appraisal.checks, explain)
        else:
            out.say("  whoever has this key; no policy demands that its machine proves what it is")
        out.say()
    offered = _offered(side)
    others = [role for role in side.offer.setting.dealers if role in side.peers]
    rows = [
        ("setting", side.offer.setting.name),
        *[
            (role, f"key {side.peers[role].key_id}; it talks to the parties alone, who know this key")
            for role in others
        ],
        ("model", side.config.model),
        ("configuration", f"SHA-256 {side.offer.config_sha256}"),
        ("functions", side.offer.approximation),
        ("prompts", f"padded to {_or(offered['prompt_tokens'])} tokens"),
        ("answers", f"{_or(offered['new_tokens'])} tokens are computed, whatever is said"),
        ("tokens", f"chosen {_or(offered['sampling'])}, by temperature and top_p"),
        ("they see", "your key, when you ask, which of these lengths, temperature and top_p"),
    ]
    out.table(("", ""), [(marked(f"[bold]{name}[/]"), value) for name, value in rows])
    out.say(
        "\n[bold green]✔ verified[/] " + ("under your policies" if all(found.values()) else "by the keys that you know")
    )
    simulated = any(appraisal.simulated for appraisal in found.values() if appraisal)
    if simulated:
        out.say(TOGETHER)
    out.result(
        {
            "verdict": "verified",
            "trust": "mpc",
            "simulated": simulated,
            "setting": side.offer.setting.name,
            "parties": {role: _party(side, role, appraisal) for role, appraisal in found.items()},
            "dealers": {role: side.peers[role].key_id for role in others},
            "model": side.config.model,
            "config_sha256": side.offer.config_sha256,
            "approximation": side.offer.approximation,
            **offered,
        }
    )


class PartyTalk(Talk):
    """A conversation with parties that have proven who they are."""

    def __init__(self, out: Output, home: Home, folder: Path, options: dict[str, object]) -> None:
        side = Side.open(folder)
        self._known = _known(side)
        self._found = greet(side)
        super().__init__(out, home, http_client(folder), options)

    @property
    def verified(self) -> str:
        """See `Talk.verified`."""
        return "; ".join(
            f"{role}: {'the key that you know' if found is None else brief(found)}"
            for role, found in self._found.items()
        )

    @property
    def simulated(self) -> bool:
        """See `Talk.simulated`."""
        return any(found.simulated for found in self._found.values() if found)

    def ask(self, question: str, model: str) -> None:
        """See `Talk.ask`."""
        try:
            super().ask(question, model)
        except KeyboardInterrupt:
            self.out.note("\nStaying until the parties' run ends: who leaves before tells how much of it was wanted.")
            self.out.note("Ctrl-C again leaves at once.")
            try:
                stay()
            except KeyboardInterrupt:
                os._exit(130)  # at its usual end, Python would wait for the run
            raise

    def keep(self, answer: chats.Answer) -> dict[str, object]:
        """See `Talk.keep`."""
        if answer.exchange is None:
            raise ClientError("client.no-exchange", "the answer did not come from parties")
        told = self.http.get(f"/v1/receipts/{answer.exchange.id}")
        if told.status_code != 200:
            raise error_from(ClientError, told.status_code, told.content, code="client.no-receipt", who="the API")
        receipts = Kept.decode(told.content).check(self._known)
        name = next(iter(receipts.values())).exchange
        write_private(self.home.receipts / f"{name}.json", told.content)
        if answer.finish_reason == "length":
            self.out.note(f"cut after {answer.completion_tokens} tokens: no more were asked for, or are offered there")
        self.out.note(f"receipt {name}, signed by {', '.join(receipts)} (check it: mitai receipt)")
        return {"receipt": name, "parties": list(receipts)}


def receipt(out: Output, content: bytes, folder: Path) -> None:
    """Check the receipts of all parties for one answer, offline, by the keys in a client's folder."""
    receipts = Kept.decode(content).check(_known(Side.open(folder)))
    first = next(iter(receipts.values()))
    rows = [
        ("exchange", first.exchange),
        ("setting", f"{first.protocol}, mitai {first.version}"),
        ("task", f"{first.task}, temperature {first.temperature:g}, top_p {first.top_p:g}"),
        ("functions", first.approximation),
        ("configuration", f"SHA-256 {first.config_sha256}"),
        ("shares", f"of the cut {first.shares}"),
        *[(role, f"key {key_id}") for role, key_id in first.parties.items()],
    ]
    for role, each in receipts.items():
        rows += [
            (f"{role} says", f"{each.started} to {each.finished}"),
            ("  shares it got", each.request_sha256),
            ("  with its own", each.response_sha256),
            *[(f"  evidence of {name}", digest) for name, digest in each.evidence_sha256.items()],
        ]
    out.table(("", ""), rows)
    out.say(f"[green]✔[/] signed by {', '.join(receipts)}, with the keys that you know, and all say the same")
    out.result({"verdict": "holds", "trust": "mpc", "receipts": {role: _told(each) for role, each in receipts.items()}})


def _known(side: Side) -> dict[str, str]:
    return {role: peer.key_id for role, peer in side.peers.items()}


def _told(receipt: PartyReceipt) -> dict[str, object]:
    return dict(msgspec.structs.asdict(receipt))


def _party(side: Side, role: str, appraisal: Appraisal | None) -> dict[str, object]:
    peer = side.peers[role]
    machine = machine_of(appraisal) if appraisal else None
    return {"key": peer.key_id, "address": str(peer.address), "machine": machine}


def _offered(side: Side) -> dict[str, list[int] | list[Kind]]:
    tasks = [task for task in side.offer.tasks if isinstance(task, Generation)]
    return {
        "prompt_tokens": sorted({task.length for task in tasks}),
        "new_tokens": sorted({task.tokens for task in tasks}),
        "sampling": list(dict.fromkeys(task.kind for task in tasks)),
    }


def _or(numbers: Sequence[object]) -> str:
    return " or ".join(map(str, numbers))
