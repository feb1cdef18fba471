"""`mitai deploy`: have the replicas of a platform serve a published capsule."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from mitai.cli.options import JsonFlag, OperatorToken, platform_url, token_for
from mitai.cli.output import Output, data
from mitai.errors import ClientError, FleetError, MitaiError
from mitai.fleet import platform as platforms
from mitai.fleet.home import Home, write_private

_POLL_S = 0.1
_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")  # likewise
_API_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")  # as a replica demands it

_NEXT = {  # as this command line says it
    "serve.deployed": "a replica serves one model; to put this one in its place: mitai deploy CAPSULE --replace",
    "broker.budget-exhausted": "its owner can allow more: mitai publish CAPSULE_FOLDER --uses N",
    "broker.policy-expired": "its owner can prolong it: mitai publish CAPSULE_FOLDER --days N",
}


def deploy(
    capsule: Annotated[str, Parameter(help="A published capsule's id, as `mitai publish` says it.")],
    *,
    adapter: Annotated[
        tuple[str, ...],
        Parameter(
            negative="", help="A published adapter's capsule to serve beside it, or NAME=CAPSULE. May be repeated."
        ),
    ] = (),
    name: Annotated[
        str | None,
        Parameter(help="The model's name in the API: ASCII, no spaces; by default one made from the capsule's."),
    ] = None,
    replace: Annotated[
        bool, Parameter(negative="", help="Unload first what is served now: one replica serves one model.")
    ] = False,
    url: Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")] = None,
    operator_token: OperatorToken = None,
    json: JsonFlag = False,
) -> None:
    """Have the replicas serve a published capsule, and adapters of it.

    Each replica proves itself to the broker, gets the key if the owner's policy allows it, and streams the capsule
    from the store straight into memory. A release counts as a use, also when the replica then fails. The keys of a
    model and its adapters are released together or not at all; in the API an adapter is called MODEL:ADAPTER.

    Examples: `mitai deploy CAPSULE_ID --replace`, `mitai deploy CAPSULE_ID --adapter support=ADAPTER_ID`
    """
    out, home = Output(json), Home.default()
    gateway = platform_url(home, url)
    token = operator_token or token_for(home, gateway, "operator")
    adapters = adapter_names(gateway, adapter)
    keep = home.deployment if is_local(home, gateway) else None
    model = serve_capsule(out, gateway, token, capsule, name, adapters=adapters, replace=replace, keep=keep)
    simulated = is_simulated(platforms.status(gateway, token))
    out.say(f"[green]✔[/] capsule {data(capsule)} is served as {data(model)}")
    named = {f"{model}:{own}": each for own, each in adapters.items()}
    for each, one in named.items():
        out.say(f"[green]✔[/] with adapter {data(one)} it is {data(each)}")
    out.simulated(simulated)
    out.result({"capsule": capsule, "deployed": True, "model": model, "adapters": named, "simulated": simulated})


def deploy_capsule(out: Output, home: Home, capsule: str, name: str | None = None, *, replace: bool = False) -> str:
    """Deploy on the local platform; return the model's name in the API."""
    running = home.read_platform()
    token, keep = running.operator_token, home.deployment
    return serve_capsule(out, running.gateway, token, capsule, name, replace=replace, keep=keep)


def serve_capsule(
    out: Output,
    gateway: str,
    token: str,
    capsule: str,
    name: str | None,
    *,
    adapters: Mapping[str, str] = {},
    replace: bool = False,
    keep: Path | None = None,
) -> str:
    """Tell the replicas to serve a capsule and wait until they do, with a progress bar; return the model's name.

    What was told is kept in `keep`, for a replica that is started again.
    """
    if name is not None and not _API_NAME.fullmatch(name):
        raise ClientError(
            "client.model-name",
            f"{name[:200]!r} can't be a model's name in the API",
            hint="letters and digits, then also . _ : / @ + -, at most 128; or leave --name out",
        )
    if name is None:
        stored = platforms.stored_name(gateway, capsule)
        name = api_name(stored, capsule)
        if name != stored:
            out.note(f"{stored} is called {name} in the API, where a name is ASCII without spaces")
    body = {
        "capsules": [capsule, *adapters.values()],
        "adapters": list(adapters),
        "model": name,
        "replace": replace,
        "broker": f"{gateway}/broker",
        "objects": f"{gateway}/objects",
    }
    try:
        platforms.deploy(gateway, token, body)
        with out.bar("streaming the model into the replica") as report:
            while waiting := platforms.deployments(gateway, token):
                report(sum(one.done_bytes for one in waiting), sum(one.total_bytes for one in waiting))
                time.sleep(_POLL_S)
    except MitaiError as error:
        error.hint = _NEXT.get(error.code, error.hint)
        raise
    if keep is not None:
        write_private(keep, msgspec.json.encode(body | {"replace": False}))
    return name


def is_local(home: Home, gateway: str) -> bool:
    """Tell whether a gateway is that of this home's platform."""
    try:
        return home.read_platform().gateway == gateway.rstrip("/")
    except FleetError:
        return False


def adapter_names(gateway: str, wanted: tuple[str, ...]) -> dict[str, str]:
    """Return each adapter's capsule by its name in the API: as told, or made from the capsule's own."""
    named: dict[str, str] = {}
    for each in wanted:
        own, told, capsule = each.rpartition("=")
        name = own if told else adapter_name(platforms.stored_name(gateway, capsule), capsule)
        if name in named and not told:
            name = capsule[:12]
        if name in named or not _ADAPTER_NAME.fullmatch(name):
            raise ClientError(
                "client.adapter-name",
                f"{name[:200]!r} can't be this adapter's name in the API, or another one has it",
                hint="--adapter NAME=CAPSULE; letters and digits, then also . _ @ + -, at most 64",
            )
        named[name] = capsule
    return named


def adapter_name(name: str, capsule: str) -> str:
    """Return a name for the API, made from an adapter's own; from its id when nothing of that is left."""
    kept = re.sub(r"[^A-Za-z0-9._@+-]+", "-", name)
    return kept.lstrip("._@+-")[:64].rstrip("-") or capsule[:12]


def api_name(name: str, capsule: str) -> str:
    """Return a name for the API, made from a capsule's own; from its id when nothing of that is left."""
    kept = re.sub(r"[^A-Za-z0-9._:/@+-]+", "-", name)
    return kept.lstrip("._:/@+-")[:128].rstrip("-") or capsule[:12]


def is_simulated(replicas: dict[str, object]) -> bool:
    """Tell whether a replica says of itself that its hardware is simulated; a verifier finds out by itself."""
    bodies = [answer.get("body") for answer in replicas.values() if isinstance(answer, dict)]
    return any(isinstance(body, dict) and body.get("simulated") is True for body in bodies)
