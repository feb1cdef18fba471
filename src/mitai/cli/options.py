"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx2
from cyclopts import Parameter
from cyclopts.validators import Number

from mitai.attest import Policy
from mitai.errors import ClientError, FleetError, MitaiError, ParseError
from mitai.fleet.home import Home, Trust
from mitai.fleet.processes import alive

DEFAULT_URL = "http://127.0.0.1:8700"
_POLICY_HINT = "take it anew from whoever publishes the release, or see docs/configuration.md"

Natural = Annotated[int, Parameter(validator=Number(gte=0, lt=1 << 31))]
Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]
Positive = Annotated[int, Parameter(validator=Number(gte=1, lt=1 << 31))]
LEAST_BITS = 100  # soundness.LEAST_BITS, which takes longer to import
BitsOption = Annotated[
    int,
    Parameter(
        validator=Number(gte=1, lte=128),
        help="Of security, at least: with fewer it is refused. B bits: 2^H trials find a false proof that is accepted "
        "with a chance of 2^(H−B) at most.",
    ),
]
JsonFlag = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object instead of text.")]
UrlArgument = Annotated[str | None, Parameter(help="The gateway's address; by default that of the local platform.")]
PlatformArgument = Annotated[
    str | None,
    Parameter(
        help="The gateway's address, or a client's folder (parties', or with a service.json); else the local platform."
    ),
]
# Secrets may come from the environment: a command line is everybody's to read who is on the machine.
OperatorToken = Annotated[
    str | None,
    Parameter(
        env_var="MITAI_OPERATOR_TOKEN",
        help="The gateway's operator token; its operator finds it in `$MITAI_HOME/platform/platform.json`.",
    ),
]
UploadToken = Annotated[
    str | None,
    Parameter(
        env_var="MITAI_UPLOAD_TOKEN",
        help="The gateway's upload token; its operator finds it in `$MITAI_HOME/platform/platform.json`.",
    ),
]
PccsOption = Annotated[str | None, Parameter(help="A PCCS to ask instead of Intel, such as https://localhost:8081.")]
PolicyOption = Annotated[
    Path | None, Parameter(help="Appraisal policy (TOML); by default `$MITAI_HOME/user/policy.toml`.")
]


def client_folder(home: Home, target: str | None) -> Path | None:
    """Return the client's folder where parties of a secure computation answer; None where somebody else does."""
    return _folder(home, target, "mpc", "share.json", home.mpc_client)


def service_folder(home: Home, target: str | None) -> Path | None:
    """Return the client's folder where a service of answers with a proof answers; None where somebody else does."""
    return _folder(home, target, "proof", "service.json", home.proof_client)


def _folder(home: Home, target: str | None, trust: Trust, name: str, own: Path) -> Path | None:
    if target is not None:
        return Path(target) if "://" not in target and (Path(target) / name).is_file() else None
    if not (home.platform / "platform.json").exists() or (running := home.read_platform()).trust != trust:
        return None
    if not all(alive(pid) for pid in running.pids.values()):
        raise FleetError("fleet.process-down", "the platform is stopped", hint=f"start it: mitai up --trust {trust}")
    return own


def refuse_options(folder: Path, **options: object) -> None:
    """Raise `ClientError` for options that mean nothing where parties, or a service of proofs, answer."""
    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        raise ClientError(
            "client.option-malformed",
            f"what answers there takes no {' and no '.join(given)}",
            hint=f"whom to trust there is said in {folder}",
        )


def platform_url(home: Home, url: str | None) -> str:
    """Return the address that was given, or that of the local platform.

    Raises:
        ClientError: What was given is no web address.
    """
    if url is None:
        if not (home.platform / "platform.json").exists():
            return DEFAULT_URL
        running = home.read_platform()
        if running.trust != "tee":
            raise ClientError(
                "client.no-gateway",
                f"what is up here (--trust {running.trust}) has no gateway, broker, ledger or capsules",
                hint="mitai verify, mitai chat; for the rest give an address, or: mitai down, mitai up",
            )
        return running.gateway
    try:
        parsed = httpx2.URL(url)
        valid = parsed.scheme in {"http", "https"} and bool(parsed.host) and (parsed.port or 0) <= 65535
        valid = valid and not {"?", "#"}.intersection(url)  # paths and a policy's digest are put behind it
    except httpx2.InvalidURL:
        valid = False
    if not valid:
        raise ClientError(
            "client.url-malformed", f"{url[:200]!r} is no web address", hint=f"such as {DEFAULT_URL} or https://HOST"
        )
    return url.rstrip("/")


def token_for(home: Home, gateway: str, kind: str) -> str:
    """Return the local platform's `upload` or `operator` token, for its own gateway only."""
    running = home.read_platform()
    if running.gateway != gateway.rstrip("/"):
        raise ClientError(
            "client.no-upload-token" if kind == "upload" else "client.no-operator-token",
            f"no {kind} token was given for {gateway}, and that of the platform here is not sent elsewhere",
            hint=f"ask its operator, then: --{kind}-token TOKEN",
        )
    return running.upload_token if kind == "upload" else running.operator_token


def read_policy(home: Home, path: Path | None) -> Policy:
    """Return the appraisal policy at `path`, or the user's own."""
    path = path or home.policy
    try:
        return Policy.from_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClientError(
            "client.no-policy",
            f"there is no appraisal policy at {path}, so no machine can be trusted",
            hint="get one from whoever publishes the release, or start a simulated platform: mitai up",
        ) from None
    except UnicodeDecodeError as error:
        raise ParseError("attest.policy-malformed", f"{path} is not text", hint=_POLICY_HINT) from error
    except MitaiError as error:
        raise ParseError(error.code, f"{path}: {error.message}", hint=error.hint or _POLICY_HINT) from error
