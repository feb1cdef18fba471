"""What `mitai up --trust proof` starts, and what `verify`, `chat` and `receipt` do where answers come with a proof."""

from __future__ import annotations

import hashlib
import shutil
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec

from mitai.cli.chat import Talk
from mitai.cli.evidence import read_file
from mitai.cli.output import Output, data, marked, plural, security
from mitai.client import chat as chats
from mitai.errors import MitaiError, ProofError
from mitai.fleet import platform as platforms
from mitai.fleet import proofs as fleet
from mitai.fleet.home import Home, write_private
from mitai.fleet.processes import free_port
from mitai.identity import Identity, PublicKey
from mitai.ledger.assurance import Proof
from mitai.ledger.receipt import verify_assured
from mitai.proof.answer import MAX_ANSWER_BYTES
from mitai.proof.service.client import OFFER, Given, Offer, Progress, Service, Wanted
from mitai.proof.service.receipts import Kept, exchange_of, proven, traced
from mitai.proof.service.sessions import Audited, Sampled, SessionFile, audit
from mitai.web.page import installed_page

READABLE = (
    "[black on yellow] NOT PRIVATE [/] No hardware is trusted, and none hides anything: whoever runs the service reads "
    "prompts and answers. What is proven is which model gave an answer."
)
_SESSION_ANSWERS = 256
_PROOF_S = 3600.0  # how long a proof is waited for


# ---------------------------------------------------------------------- up


def start(
    out: Output, home: Home, found: tuple[Path, str], port: int, *, unaudited: bool
) -> tuple[platforms.Platform, Offer]:
    """Prepare a model if it is not yet, start both processes, and return them with what clients have to know.

    Args:
        out: Where progress is told.
        home: Gets the prepared model, the service's key, and the client's folder.
        found: A model's folder, and its name.
        port: Of the API; another free one when it is taken.
        unaudited: Whether receipts go without roots of traces.

    Raises:
        MitaiError: The model is not supported, or a process did not come up.
    """
    from mitai.proof.card import ModelCard
    from mitai.proof.prepared import CARD, TOKENIZER

    platforms.refuse_second(home)
    folder, name = found
    prepared = _prepared(out, home, folder)
    identity = ModelCard.parse((prepared / CARD).read_bytes()).identity
    key_file, port = home.proof / "key.pem", free_port(port)
    if not key_file.exists():
        Identity.generate().save(key_file)
    fields = {
        "port": port,
        "prepared": str(prepared),
        "name": name,
        "key": str(key_file),
        "state": str(home.proof / "state"),
        "unaudited": unaudited,
    }
    config = platforms.config(home.proof / "service.toml", fields)
    key_id = Identity.load(key_file).key_id
    address = f"http://127.0.0.1:{port}"
    offer = Offer(address=address, model=name, identity=identity, key=key_id, unaudited=unaudited)
    shutil.rmtree(home.proof_client, ignore_errors=True)
    write_private(home.proof_client / OFFER, msgspec.json.format(msgspec.json.encode(offer)))
    for file in (prepared / name for name in (*TOKENIZER, "config.json")):
        if file.exists():
            shutil.copyfile(file, home.proof_client / file.name)
    return fleet.start(home, config, port, out.note), offer


def page_link(out: Output, home: Home, offer: Offer) -> str | None:
    """Return the link to the service's page that names model and key; nothing, and say why, where there can be none."""
    from mitai.proof.service.page import PageOffer

    if installed_page() is None:
        return None
    try:
        page = PageOffer.of(home.proof_client, offer.model, offer.identity, offer.key, unaudited=offer.unaudited)
    except MitaiError as error:
        out.note(f"no chat in the browser: {error}")
        return None
    return f"{offer.address}/#{page.fragment}"


def _prepared(out: Output, home: Home, model: Path) -> Path:
    """Return the folder of a prepared model; prepare it where that was not done, or not to its end."""
    from mitai.mpc.text import Text
    from mitai.proof.prepared import prepare
    from mitai.proof.texts import calibration

    digest = hashlib.sha256()
    for file in sorted(path for path in model.iterdir() if path.suffix in {".json", ".jinja", ".safetensors"}):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    folder = home.proof / "models" / digest.hexdigest()[:32]
    if not folder.exists():
        fresh = folder.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        prepare(model, calibration(Text.load(model)), fresh, out.note)
        fresh.rename(folder)
    return folder


# ---------------------------------------------------------------------- verify


def verify(out: Output, folder: Path) -> None:
    """Compare what a service says of itself with what is known, and say what is trusted and what not."""
    with closing(Service(folder)) as service:
        offer = service.offer
        service.key  # noqa: B018 - raises when it is another service
    rows = [
        ("service", offer.address),
        ("key", f"{offer.key}; it signs a receipt of each answer"),
        ("model", offer.model),
        ("identity", offer.identity),
        ("proven", "that this model gives this answer to this prompt: by mathematics, whatever the service does"),
        (
            "audited",
            "nothing" if offer.unaudited else "all steps of an answer, by whoever has an auditor's key and asks",
        ),
        ("signed only", "answers whose proof nobody asked for"),
        ("not known", "whether the model behind this identity is a good one: its publisher says so"),
        ("they see", "your prompts and the answers, which are kept for a day"),
    ]
    out.table(("", ""), [(marked(f"[bold]{name}[/]"), value) for name, value in rows])
    out.say("\n[bold green]✔ verified[/] the service says that it has the key and the model that you know")
    out.say(READABLE)
    out.result(
        {
            "verdict": "verified",
            "trust": "proof",
            "address": offer.address,
            "key": offer.key,
            "model": offer.model,
            "identity": offer.identity,
            "private": False,
        }
    )


# ---------------------------------------------------------------------- chat


class ProvenTalk(Talk):
    """A conversation with a service whose answers are proven: each of them, or a sample."""

    def __init__(self, out: Output, home: Home, folder: Path, options: dict[str, object], sample: int | None) -> None:
        self._service = Service(folder)
        self._service.key  # noqa: B018 - raises when it is another service
        super().__init__(out, home, self._service.http, options)
        self._temperature = float(str(options["temperature"]))
        self._sampled: Sampled | None = None
        self._wanted = Wanted("follows")
        if sample is not None:
            home.receipts.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sampled = Sampled.begin(self._service, sample, _SESSION_ANSWERS, home.receipts)
            self._wanted = self._sampled.wanted
            out.note(f"one answer in {sample} will be proven; which ones, a seed in {self._sampled.path} says")

    @property
    def verified(self) -> str:
        """See `Talk.verified`."""
        return f"the service that you know; model identity {self._service.offer.identity[:16]}…"

    @property
    def simulated(self) -> bool:
        """See `Talk.simulated`."""
        return False

    def ask(self, question: str, model: str) -> None:
        """See `Talk.ask`."""
        if self._temperature:
            self._wanted = replace(self._wanted, agreed=self._service.draw(self._temperature))
        self.http.headers.update(self._wanted.headers(self._sampled.file.session if self._sampled else ""))
        super().ask(question, model)

    def keep(self, answer: chats.Answer) -> dict[str, object]:
        """See `Talk.keep`."""
        prompt = self._service.tokens(self.messages[:-1])
        given = self._service.receipt(answer.id, self._wanted, prompt=prompt, text=answer.text)
        name = given.said.exchange
        kept = Kept(key=self._service.key.raw, envelope=given.envelope, id=given.said.id)
        write_private(self.home.receipts / f"{name}.json", kept.encode())
        if self._sampled is not None:
            self._sampled.add(given)
            return {"receipt": name, "proven": None}
        bits = self._fetch(given.said.id, given)
        self.out.note(
            f"✔ proven: this model gives this answer ({security(bits)}); receipt {name} (check it: mitai receipt)"
        )
        return {"receipt": name, "proven": True, "bits": round(bits, 1)}

    def end(self) -> None:
        """Show the seed of a sample, fetch the proofs that it draws, and check them."""
        if self._sampled is not None and self._sampled.file.receipts:
            audited = _reveal(self.out, self._sampled, self.home.receipts)
            _tell_audit(self.out, self._sampled.path, audited)

    def _fetch(self, answer_id: str, given: Given) -> float:
        content = _awaited(self.out, self._service, answer_id)
        bits = proven(answer_id, given.receipt, self._service.offer.identity, content)
        write_private(self.home.receipts / f"{given.said.exchange}.proof", content)
        return bits


def _awaited(out: Output, service: Service, answer_id: str) -> bytes:
    """Wait for a proof, with a line that tells how far it is."""
    at = Progress("waiting")

    def tell(progress: Progress) -> None:
        nonlocal at
        at = progress

    def line() -> str:
        about = f" of about {at.expected_s:g} s" if at.expected_s else " s"
        return f"proving … {at.seconds:g}{about}" if at.state == "proving" else f"the proof waits, {at.ahead} before it"

    with out.live(line):
        return service.proof(answer_id, _PROOF_S, tell)


# ---------------------------------------------------------------------- receipt


def receipt(out: Output, path: Path, folder: Path) -> None:
    """Check the receipt of an answer, and its proof if it lies beside it, offline, by a client's folder."""
    offer, kept = Offer.read(folder), Kept.parse(path.read_bytes())
    key = PublicKey(kept.key)
    if key.key_id != offer.key:
        raise ProofError("proof.service-differs", "the receipt is of another service than the one that is known")
    found, assurance = verify_assured(kept.envelope, Proof, receipt_key=key)
    if assurance.identity != offer.identity:
        raise ProofError("proof.service-differs", "the receipt is about another model than the one that is known")
    trace = traced(found, offer.identity)
    proof = path.with_suffix(".proof")
    bits = proven(kept.id, found, offer.identity, read_file(proof, MAX_ANSWER_BYTES)) if proof.exists() else None
    sample = f", one in {assurance.sample.one_in}, by {assurance.sample.commitment}" if assurance.sample else ""
    rows = [
        ("exchange", found.exchange),
        ("model", found.model),
        ("identity", assurance.identity),
        ("tokens", f"{found.usage.prompt_tokens} in, {found.usage.completion_tokens} out"),
        ("time", f"{found.started} to {found.finished}"),
        ("promised proof", f"{assurance.promise}{sample}"),
        ("proof", f"{proof}, {security(bits)}" if bits else "none is kept here"),
        ("trace", f"root {trace.trace}; see: mitai proof audit-answer" if trace else "none was committed to"),
    ]
    out.table(("", ""), rows)
    out.say(f"[green]✔[/] signed by the service, with the key that you know{'; and proven' if bits else ''}")
    out.result(
        {
            "verdict": "holds",
            "trust": "proof",
            "exchange": found.exchange,
            "model": found.model,
            "identity": assurance.identity,
            "promise": assurance.promise,
            "proven": bits is not None,
            "trace": trace.trace if trace else None,
            "started": found.started,
            "finished": found.finished,
        }
    )


# ---------------------------------------------------------------------- sessions


def audit_session(out: Output, path: Path, identity: str, key_id: str, proofs: Path, *, fetch: bool) -> None:
    """Check a session's file; see `mitai proof audit-session`."""
    file = SessionFile.parse(read_file(path))
    if fetch:
        with closing(Service(Home.default().proof_client)) as service:
            _reveal(out, Sampled(service, path, file), proofs)
        file = SessionFile.parse(path.read_bytes())
    audited = _audited(file, identity, key_id, proofs)
    _tell_audit(out, path, audited)


def _reveal(out: Output, sampled: Sampled, proofs: Path) -> Audited:
    """Show a session's seed, and fetch what proofs are missing."""
    service, file = sampled.service, sampled.file
    for entry in sampled.reveal():
        target = proofs / f"{exchange_of(entry.id)}.proof"
        if target.exists():
            continue
        try:
            write_private(target, _awaited(out, service, entry.id))
        except MitaiError as error:  # the audit tells what is missing
            out.note(f"{exchange_of(entry.id)}: {error}")
    return _audited(sampled.file, file.identity, service.offer.key, proofs)


def _audited(file: SessionFile, identity: str, key_id: str, proofs: Path) -> Audited:
    def read(exchange: str) -> bytes | None:
        path = proofs / f"{exchange}.proof"
        return read_file(path, MAX_ANSWER_BYTES) if path.exists() else None

    return audit(file, identity, key_id, read)


def _tell_audit(out: Output, path: Path, audited: Audited) -> None:
    """Tell what an audit found; end with status 1 where something is missing."""
    drawn = plural(audited.drawn, "was drawn", "were drawn")
    out.say(f"{plural(audited.answers, 'answer', 'answers')}, signed; of them {drawn}: {data(path)}")
    for exchange, code in audited.missing.items():
        out.say(f"[red]✘[/] {data(exchange)} [dim]{data(code)}[/]")
    if not audited.missing:
        out.say("[green]✔[/] all that were drawn are proven" if audited.drawn else "none was drawn: nothing is proven")
    out.result(
        {
            "verdict": "refused" if audited.missing else "holds",
            "answers": audited.answers,
            "drawn": audited.drawn,
            "missing": audited.missing,
        }
    )
    if audited.missing:
        sys.exit(1)
