"""`mitai up`, `down`, `status`, `deploy`, `doctor`: what an operator does. None of it needs anybody's trust."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mitai.cli import doctor as doctors
from mitai.cli.output import SIMULATED, JsonFlag, Output, data, marked
from mitai.errors import FleetError
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home
from mitai.fleet.processes import alive, stop

_DEPLOY_POLL_S = 0.1


def up(
    *,
    model: Annotated[str | None, Parameter(help="A model folder or a hub id; by default the built-in demo.")] = None,
    no_model: Annotated[bool, Parameter(negative="", help="Start empty; then seal, publish, deploy.")] = False,
    detach: Annotated[bool, Parameter(negative="", help="Return when all is up; stop with `mitai down`.")] = False,
    port: Annotated[int, Parameter(help="The gateway's port; another free one when it is taken.")] = 8700,
    replicas: Annotated[int, Parameter(help="How many processes serve the model.")] = 1,
    capture: Annotated[bool, Parameter(negative="", help="Record what the gateway sees (ciphertext).")] = False,
    threads: Annotated[int, Parameter(help="The engine's threads; 0: as many as cores.")] = 0,
    kem: Annotated[
        Literal["x25519", "x-wing"], Parameter(help="Key exchange; x-wing also resists quantum computers.")
    ] = "x25519",
    json: JsonFlag = False,
) -> None:
    """Start a platform on this machine, in simulation: broker, ledger, witness, replicas, gateway.

    Then plays the owner once: seals the model, gives the key to the verified broker, deploys. After that:
    `mitai verify`, `mitai chat`. Runs until Ctrl-C, or in the background with `--detach`.
    """
    from mitai.cli import owner

    out, home = Output(json), Home.default()
    settings = platforms.Settings(port=port, replicas=replicas, capture=capture, threads=threads, kem=kem)
    out.say(SIMULATED)
    platform = platforms.start(home, settings, out.note)
    try:
        capsule = None
        if not no_model:
            found = owner.model_folder(model)
            capsule, name = owner.seal_publish(out, home, found, platform.gateway, platform.upload_token)
            deploy_capsule(out, home, capsule, name)
        out.say(f"[green]✔[/] up at {platform.gateway}; the policy for your clients is {data(home.policy)}")
        out.say("  next: mitai verify, mitai chat" if capsule else "  next: mitai seal, mitai publish, mitai deploy")
        out.result({"gateway": platform.gateway, "policy": str(home.policy), "capsule": capsule, "simulated": True})
    except BaseException:
        platform.stop()
        raise
    if detach:
        return
    try:
        _watch(platform)
    finally:
        out.note("stopping …")
        platform.stop()


def down(*, json: JsonFlag = False) -> None:
    """Stop the platform that `mitai up --detach` started. Nothing that was acknowledged is lost."""
    out, home = Output(json), Home.default()
    running = home.read_platform()
    pids = [pid for pid in running.pids.values() if alive(pid)]
    stop(pids)
    out.say(f"[green]✔[/] stopped {len(pids)} processes")
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
    for name, answer in replicas.items():
        told = answer.get("body") if isinstance(answer, dict) else None
        told = told if isinstance(told, dict) else {}
        out.say(data(f"{name}: {told.get('state', 'does not answer')} {told.get('model', '')}"))
    out.result({"gateway": running.gateway, "processes": processes, "replicas": replicas})
    if not any(processes.values()):
        raise FleetError("fleet.process-down", "the platform is stopped", hint="start it: mitai up")
    if not all(processes.values()):
        raise FleetError(
            "fleet.process-down",
            "not every process is up",
            hint=f"start all anew: mitai down, mitai up; logs are in {home.logs}",
        )


def deploy(
    capsule: Annotated[str, Parameter(help="A published capsule's id, as `mitai publish` says it.")],
    *,
    name: Annotated[
        str | None, Parameter(help="The model's name in the API: ASCII, no spaces; by default the capsule's.")
    ] = None,
    replace: Annotated[
        bool, Parameter(negative="", help="Unload first what is served now: one replica serves one model.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Have the replicas serve a published capsule.

    Each replica proves itself to the broker, gets the key if the owner's policy allows it, and streams the capsule
    from the store straight into memory.
    """
    out, home = Output(json), Home.default()
    deploy_capsule(out, home, capsule, name, replace=replace)
    out.say(f"[green]✔[/] capsule {data(capsule)} is served")
    out.result({"capsule": capsule, "deployed": True})


def deploy_capsule(out: Output, home: Home, capsule: str, name: str | None, *, replace: bool = False) -> None:
    """Tell the replicas to serve a capsule and wait until they do, with a progress bar."""
    running = home.read_platform()
    body = {
        "capsules": [capsule],
        "model": name or platforms.stored_name(running.gateway, capsule),
        "replace": replace,
        "broker": f"{running.gateway}/broker",
        "objects": f"{running.gateway}/objects",
    }
    platforms.deploy(running.gateway, running.operator_token, body)
    with out.bar("streaming the model into the replica") as report:
        while waiting := platforms.deployments(running.gateway, running.operator_token):
            report(sum(one.done_bytes for one in waiting), sum(one.total_bytes for one in waiting))
            time.sleep(_DEPLOY_POLL_S)


def doctor(*, json: JsonFlag = False) -> None:
    """Say what this machine can do: TEE devices, CPU features, GPU, engines, and what is missing."""
    out = Output(json)
    findings = doctors.examine(Path("/"))
    marks = {"yes": "[green]✔[/]", "no": "[dim]–[/]", "note": " "}
    out.table(("", "what", "detail"), [(marked(marks[one.verdict]), one.what, one.detail) for one in findings])
    out.result(
        {"findings": [{"area": f.area, "what": f.what, "verdict": f.verdict, "detail": f.detail} for f in findings]}
    )


def _watch(platform: platforms.Platform) -> None:
    """Wait for Ctrl-C; raise when a process has died."""
    while True:
        time.sleep(0.5)
        for process in platform.dead():
            raise FleetError(
                "fleet.process-died",
                f"the {process.name} has stopped: {process.last_words()}",
                hint=f"see {process.log}",
            )
