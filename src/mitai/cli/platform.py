"""`mitai up`, `down`, `status`, `doctor`: what an operator does. None of it needs anybody's trust."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mitai.cli import doctor as doctors
from mitai.cli import owner
from mitai.cli.deploy import deploy_capsule
from mitai.cli.models import model_folder
from mitai.cli.options import JsonFlag, Natural, Port, Positive
from mitai.cli.output import SIMULATED, Output, data, marked, plural
from mitai.cli.verify import served
from mitai.errors import FleetError
from mitai.fleet import platform as platforms
from mitai.fleet import proofs
from mitai.fleet.caretaker import Caretaker
from mitai.fleet.home import Home, Trust
from mitai.fleet.processes import alive, stop
from mitai.web.page import installed_page, page_link

Setting = Literal["2+1", "3pc", "twins"]
_DATABASE = "MITAI_DATABASE"
_PORT = 8700


def up(
    *,
    model: Annotated[str | None, Parameter(help="A model folder or a hub id; by default the built-in demo.")] = None,
    no_model: Annotated[bool, Parameter(negative="", help="Start empty; then seal, publish, deploy.")] = False,
    trust: Annotated[
        Trust,
        Parameter(help="Confidential machines; two parties and a dealer (`mitai mpc`); or answers with a proof."),
    ] = "tee",
    setting: Annotated[Setting | None, Parameter(help="With mpc: who computes (docs/mpc.md); by default 2+1.")] = None,
    prompt_tokens: Annotated[
        tuple[Positive, ...],
        Parameter(negative="", help="With mpc: to how many tokens prompts are padded. Repeatable."),
    ] = (),
    new_tokens: Annotated[
        tuple[Positive, ...], Parameter(negative="", help="With mpc: how many tokens an answer has. Repeatable.")
    ] = (),
    detach: Annotated[bool, Parameter(negative="", help="Return when all is up; stop with `mitai down`.")] = False,
    port: Annotated[Port, Parameter(help="The gateway's port; another free one when it is taken or 0.")] = _PORT,
    replicas: Annotated[Positive, Parameter(help="How many processes serve the model.")] = 1,
    brokers: Annotated[Positive, Parameter(help="How many key brokers; several share a database.")] = 1,
    database: Annotated[
        str, Parameter(env_var=_DATABASE, help="The brokers' database (postgresql://…); SQLite by default.")
    ] = "",
    train: Annotated[bool, Parameter(negative="", help="Start a training worker too: `mitai train`.")] = False,
    capture: Annotated[bool, Parameter(negative="", help="Record what the gateway sees (ciphertext).")] = False,
    threads: Annotated[Natural, Parameter(help="The engine's threads; 0: as many as cores.")] = 0,
    fingerprints: Annotated[
        bool, Parameter(negative="", help="Take fingerprints of each answer's activations: mitai check.")
    ] = False,
    unaudited: Annotated[
        bool, Parameter(negative="", help="With --trust proof: answers end sooner, and nobody can audit them.")
    ] = False,
    kem: Annotated[
        Literal["x25519", "x-wing"], Parameter(help="Key exchange; x-wing also resists quantum computers.")
    ] = "x25519",
    json: JsonFlag = False,
) -> None:
    """Start a platform on this machine, in simulation: broker, ledger, witness, replicas, gateway.

    Then plays the owner once: seals the model, gives the key to the verified broker, deploys. After that:
    `mitai verify`, `mitai chat`. Runs until Ctrl-C, or in the background with `--detach`.

    With `--trust mpc`: cuts the model into shares, and starts two parties and a dealer. Each of them knows nothing of
    model, questions and answers; on one machine that is for trying.

    With `--trust proof`: prepares the model, and starts a process that answers and one that proves the answers. Whoever
    runs them reads all, and can't pass off another model's answers as this one's.

    Example: `mitai up --model my-model --detach`
    """
    out, home = Output(json), Home.default()
    if trust != "tee":
        given_database = bool(database) and database != os.environ.get(_DATABASE)
        useless = {"--no-model": no_model, "--replicas": replicas > 1, "--train": train}
        useless |= {"--brokers": brokers > 1, "--database": given_database, "--capture": capture}
        _refuse(useless | {"--threads": threads, "--kem": kem != "x25519", "--fingerprints": fingerprints}, "tee")
    if trust != "proof":
        _refuse({"--unaudited": unaudited}, "proof")
    if trust == "mpc":
        _refuse({"--port": port != _PORT}, "tee and proof")
        lengths = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
        _up_together(out, home, model, setting or "2+1", lengths, detach=detach)
        return
    _refuse({"--setting": setting, "--prompt-tokens": prompt_tokens, "--new-tokens": new_tokens}, "mpc")
    if trust == "proof":
        _up_proven(out, home, model, port, detach=detach, unaudited=unaudited)
        return
    found = None if no_model else model_folder(model)
    _refuse_shown_password(database)
    settings = platforms.Settings(
        port=port,
        replicas=replicas,
        brokers=brokers,
        database=database,
        capture=capture,
        threads=threads,
        fingerprints=fingerprints,
        kem=kem,
        train=train,
    )
    out.say(SIMULATED)
    _end_on_sigterm()
    platform = platforms.start(home, settings, out.note)
    if port and not platform.gateway.endswith(f":{port}"):
        out.note(f"port {port} is taken by another program: the gateway has another one")
    try:
        capsule = None
        if found is not None:
            capsule, _ = owner.seal_publish(out, home, found, platform.gateway, platform.upload_token)
            deploy_capsule(out, home, capsule)
        out.say(f"[green]✔[/] up at {platform.gateway}; the policy for your clients is {data(home.policy)}")
        link = page_link(platform.gateway, home.policy.read_bytes()) if installed_page() else None
        if link:
            out.say(f"  in the browser, with that policy pinned: {link}")
        out.say("  next: mitai verify, mitai chat" if capsule else "  next: mitai seal, mitai publish, mitai deploy")
        told = {"gateway": platform.gateway, "page": link, "policy": str(home.policy), "capsule": capsule}
        out.result(told | {"simulated": True})
    except BaseException:
        platform.stop()
        raise
    if not detach:
        _stay(platform, out)


def _up_together(
    out: Output, home: Home, model: str | None, setting: Setting, lengths: Mapping[str, Sequence[int]], *, detach: bool
) -> None:
    """Start parties that compute together; see `up`."""
    from mitai.cli import parties

    found = model_folder(model)
    out.say(parties.TOGETHER)
    _end_on_sigterm()
    platform = parties.start(out, home, found, setting, **lengths)
    try:
        out.say(f"[green]✔[/] up: {', '.join(platform.processes)}; your client's folder is {data(home.mpc_client)}")
        out.say("  next: mitai verify, mitai chat")
        told = {"trust": "mpc", "setting": setting, "client": str(home.mpc_client), "model": found[1]}
        out.result(told | {"simulated": True})
    except BaseException:
        platform.stop()
        raise
    if not detach:
        _stay(platform, out)


def _up_proven(out: Output, home: Home, model: str | None, port: int, *, detach: bool, unaudited: bool) -> None:
    """Start a service of answers with a proof; see `up`."""
    from mitai.cli import proven

    found = model_folder(model)
    out.say(proven.READABLE)
    _end_on_sigterm()
    platform, offer = proven.start(out, home, found, port, unaudited=unaudited)
    try:
        out.say(f"[green]✔[/] up at {platform.gateway}; what your clients have to know is in {data(home.proof_client)}")
        out.say(f"  model {data(offer.model)}, identity {offer.identity}\n  next: mitai verify, mitai chat")
        if link := proven.page_link(out, home, offer):
            out.say(f"  in the browser, with model and key pinned: {link}")
        told = {"trust": "proof", "gateway": platform.gateway, "client": str(home.proof_client), "model": offer.model}
        out.result(told | {"identity": offer.identity, "key": offer.key, "page": link, "simulated": False})
    except BaseException:
        platform.stop()
        raise
    if not detach:
        _stay(platform, out)


def _refuse(given: Mapping[str, object], trust: str) -> None:
    """Raise `FleetError` for options of another kind of platform."""
    if names := [name for name, value in given.items() if value]:
        raise FleetError("fleet.option-useless", f"{', '.join(names)} mean something with --trust {trust} only")


def _stay(platform: platforms.Platform, out: Output) -> None:
    """Look after a platform until this process is ended, and stop it."""
    try:
        _watch(platform, out)
    finally:
        out.note("stopping …")
        platform.stop()


def _refuse_shown_password(database: str) -> None:
    if database != os.environ.get(_DATABASE) and re.search(r"://[^:/]*:[^@]*@|[?&]\w*password=", database):
        raise FleetError(
            "fleet.password-shown",
            "a password on the command line is everybody's to read who is on this machine",
            hint=f"give the database in the variable {_DATABASE}, or its password in a file that PGPASSFILE names",
        )


def down(*, json: JsonFlag = False) -> None:
    """Stop the platform that `mitai up --detach` started. Nothing that was acknowledged is lost."""
    out, home = Output(json), Home.default()
    running = home.read_platform()
    pids = [pid for pid in running.pids.values() if alive(pid)]
    stop(pids)
    out.say(f"[green]✔[/] stopped {plural(len(pids), 'process', 'processes')}")
    out.result({"stopped": len(pids)})


def status(*, json: JsonFlag = False) -> None:
    """Show the processes of the platform and what the replicas serve."""
    out, home = Output(json), Home.default()
    running = home.read_platform()
    processes = {name: alive(pid) for name, pid in running.pids.items()}
    out.table(
        ("process", "pid", ""),
        [
            (name, str(running.pids[name]), "up" if there else marked("[red]down[/]"))
            for name, there in processes.items()
        ],
    )
    replicas = platforms.status(running.gateway, running.operator_token) if processes.get("gateway") else {}
    queue = proofs.counts(running.gateway) if processes.get(proofs.SERVER) else {}
    if queue:
        out.say(f"proofs that wait: {queue.get('waiting', 0)}; answers kept: {queue.get('answers', 0)}")
    for name, answer in replicas.items():
        out.say(data(f"{name}: {_replica_line(answer)}"))
        for _, line in served(_about(answer)):
            out.say(data(f"  {line}"))
    if running.trust == "tee":
        out.simulated(running.simulated)
    error = None
    if not all(processes.values()):
        some = any(processes.values())
        error = FleetError(
            "fleet.process-down",
            "not every process is up" if some else "the platform is stopped",
            hint=f"start all anew: mitai down, mitai up; logs are in {home.logs}" if some else "start it: mitai up",
        )
    if error is not None and not json:
        raise error
    fields = {
        "trust": running.trust,
        "gateway": running.gateway,
        "simulated": running.simulated,
        "processes": processes,
        "replicas": replicas,
        "queue": queue,
    }
    out.result(fields if error is None else fields | {"error": error.to_dict()})
    if error is not None:
        sys.exit(1)


def _about(answer: object) -> dict[str, str]:
    """Return what a replica says of what it serves; nobody vouches for it here, so it is cut."""
    body = answer.get("body") if isinstance(answer, dict) else None
    told = body.get("about") if isinstance(body, dict) else None
    return {str(name)[:200]: str(value)[:10_000] for name, value in told.items()} if isinstance(told, dict) else {}


def _replica_line(answer: object) -> str:
    """Return what a replica says of itself on one line: its state, its model, and why it failed."""
    body = answer.get("body") if isinstance(answer, dict) else None
    told = body if isinstance(body, dict) else {}
    line = f"{told.get('state', 'does not answer')} {told.get('model', '')}".rstrip()
    error = told.get("error")
    if isinstance(error, dict):
        line += f": {error.get('message', 'it gives no reason')} [{error.get('code', '')}]"
    if told.get("state") != "ready" and told.get("serving"):
        line += f"; serves {told['serving']} meanwhile"
    return " ".join(line[:1000].split())


def doctor(*, json: JsonFlag = False) -> None:
    """Say what this machine can do: TEE devices, CPU features, GPU, engines, and what is missing."""
    out = Output(json)
    findings = doctors.examine(Path("/"))
    marks = {"yes": "[green]✔[/]", "no": "[dim]–[/]", "note": " "}
    out.table(("", "what", "detail"), [(marked(marks[one.verdict]), one.what, one.detail) for one in findings])
    out.result(
        {"findings": [{"area": f.area, "what": f.what, "verdict": f.verdict, "detail": f.detail} for f in findings]}
    )


def _watch(platform: platforms.Platform, out: Output) -> None:
    """Look after the processes until Ctrl-C; raise when one has died that the platform can't be without."""
    caretaker = Caretaker(platform, out.note)
    while True:
        time.sleep(0.5)
        caretaker.look()


def _end_on_sigterm() -> None:
    """Make SIGTERM an exit like any other, so that no process is left behind."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what it began to stop is stopped
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
