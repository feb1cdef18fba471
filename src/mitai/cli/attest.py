"""`mitai attest`: a verifier for others: an attestation service, and the keys that sign its results."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import uvicorn
from cyclopts import App, Parameter

from mitai.attest.collateral import complete
from mitai.attest.collect import Kind, collector, detect
from mitai.attest.collect.guest import REPORT_DATA_BYTES
from mitai.attest.results import ear, tokens
from mitai.attest.service import Service, create_app
from mitai.cli.evidence import from_hex, network, write_file
from mitai.cli.options import JsonFlag, PolicyOption, Port, Positive, read_policy
from mitai.cli.output import Output, data
from mitai.errors import AttestError, ClientError, ParseError
from mitai.fleet.home import Home
from mitai.process import forbid_core_dumps, log_to_stderr

app = App(
    name="attest",
    help="""Verify evidence for others: a service that answers with signed results (EAR).

`mitai attest serve` runs it; `mitai attest key` shows what relying parties pin.""",
    help_format="markdown",
    help_epilogue="",
)
KeyOption = Annotated[
    Path | None, Parameter(help="The signing key (private JWK), made when absent; by default in `$MITAI_HOME/attest`.")
]


@app.command
def serve(
    *,
    policy: PolicyOption = None,
    key: KeyOption = None,
    profile: Annotated[
        Literal["ietf", "veraison", "trustee"], Parameter(help="How results are written: the draft's names or older.")
    ] = "ietf",
    lifetime_s: Annotated[Positive, Parameter(help="How long a result may be used, in seconds.")] = 300,
    host: Annotated[str, Parameter(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[Port, Parameter(help="The port to listen on.")] = 8790,
    workers: Annotated[Positive, Parameter(help="How many appraisals run at once.")] = 4,
) -> None:
    """Run the attestation service: challenge and response over HTTP, for relying parties in any language.

    `/openapi.json` describes it. Run it where its own machine can be verified, or where you trust it.
    """
    home = Home.default()
    service = Service(
        read_policy(home, policy),
        signing_key(key or home.root / "attest" / "key.jwk"),
        profile=ear.PROFILE_NAMES[profile],
        lifetime=timedelta(seconds=lifetime_s),
    )
    log_to_stderr()
    logging.getLogger("uvicorn.error").addFilter(lambda record: not record.exc_info)  # tracebacks may quote evidence
    forbid_core_dumps()
    out = Output(as_json=False)
    out.note(f"appraises under policy {service.policy_id}")
    out.note(f"results are signed by key {service.public_key['kid']} (mitai attest key)")
    out.note(f"listening on http://{host}:{port}")
    uvicorn.run(
        create_app(service, workers=workers),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        http="h11",  # it bounds a request's head (64 KiB)
        timeout_keep_alive=15,
        limit_concurrency=1024,
    )


@app.command
def key(*, key: KeyOption = None, json: JsonFlag = False) -> None:
    """Print the public key that signs results, as a JWK; made when there is none yet."""
    out = Output(json)
    public = tokens.public_key(signing_key(key or Home.default().root / "attest" / "key.jwk"))
    out.say(data(msgspec.json.encode(public).decode()))
    out.result(public)


@app.command
def collect(
    *,
    report_data: Annotated[str, Parameter(help="Hex, up to 64 bytes: what the hardware signs, such as a challenge.")],
    out: Annotated[Path | None, Parameter(help="Where the evidence is written; by default standard output.")] = None,
    kind: Annotated[Kind | None, Parameter(help="Which interface; by default the best that there is.")] = None,
    fetch: Annotated[bool, Parameter(negative="", help="Ask the vendor's service for what verifiers need.")] = False,
    json: JsonFlag = False,
) -> None:
    """Ask this machine's own hardware for evidence; `mitai verify FILE` reads it. Not yet run on hardware.

    Example: `mitai attest collect --report-data 00112233 --out evidence.json`
    """
    wanted = from_hex("--report-data", report_data)
    if len(wanted) > REPORT_DATA_BYTES:
        raise ClientError("client.option-malformed", f"--report-data has at most {REPORT_DATA_BYTES} bytes")
    found = (kind,) if kind else detect()
    if not found:
        raise AttestError(
            "attest.collect-none", "this machine has no interface that attests anything", hint="mitai doctor"
        )
    hardware = collector(found[0])(wanted.ljust(REPORT_DATA_BYTES, b"\0"))
    if fetch:
        hardware = complete(hardware, network(Home.default()))
    told = Output(json)
    if out is None:
        told.say(data(hardware.encode().decode()))
    else:
        write_file(out, hardware.encode())
        told.say(f"{data(str(out))}: evidence of {hardware.tee}")
    told.result({"tee": hardware.tee, "evidence": str(out) if out else msgspec.json.decode(hardware.encode())})


def signing_key(path: Path) -> dict[str, str]:
    """Return the private JWK at `path`; make one, readable by its owner only, when there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = tokens.new_key()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(made))
        return made
    except FileExistsError:
        pass
    except OSError as error:
        raise ClientError("client.file-unwritable", f"no key can be made at {path}: {error.strerror}") from error
    try:
        jwk = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        raise ParseError("attest.token-key-malformed", f"{path} holds no private JWK") from error
    if "d" not in jwk:
        raise ParseError("attest.token-key-malformed", f"{path} holds a public key, not the private one")
    return jwk
