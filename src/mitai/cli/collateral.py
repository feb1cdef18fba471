"""`mitai collateral`: what vendors publish of machines, packed into one signed file for verifiers without a network."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mitai.attest import Evidence, Hardware
from mitai.attest.collateral import Bundle, Recorder, Services, complete, device_endorsements
from mitai.attest.collateral.resource import window
from mitai.attest.evidence import NO_DEVICES
from mitai.cli.evidence import network, open_bundle, read_file, read_message, services, write_file
from mitai.cli.options import JsonFlag, PccsOption
from mitai.cli.output import Output, data
from mitai.errors import ClientError
from mitai.fleet.home import Home
from mitai.identity import Identity

app = App(
    name="collateral",
    help="""What Intel, AMD, NVIDIA and Hygon publish of machines: certificates, revocations, TCB levels, manifests.

`mitai collateral pack` asks for what some evidence needs and signs it; `show` lists a bundle.
`mitai verify FILE --bundle BUNDLE --bundle-key KEY` uses it, with no network.""",
    help_format="markdown",
    help_epilogue="",
)


@app.command
def pack(
    evidence: Annotated[tuple[Path, ...], Parameter(negative="", help="Evidence of the machines, one file each.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Where the bundle is written.")],
    sign: Annotated[Path | None, Parameter(help="Who signs it (PEM); by default the owner in `$MITAI_HOME`.")] = None,
    pccs: PccsOption = None,
    json: JsonFlag = False,
) -> None:
    """Fetch what the evidence needs, and write it as one signed bundle.

    Example: `mitai collateral pack quote.bin report.bin --out collateral.bundle`
    """
    told, home = Output(json), Home.default()
    signer = Identity.load(sign) if sign else home.owner()
    recorder = Recorder(network(home))
    for path in evidence:
        told.note(f"asking for what {path} needs")
        _fetch(read_message(read_file(path)), recorder, services(pccs))
    if not recorder.items:
        raise ClientError("client.nothing-to-pack", "this evidence needs nothing from any vendor's service")
    packed = Bundle.pack(recorder.items, signer, datetime.now(UTC).replace(microsecond=0))
    write_file(out, packed)
    _show(told, Bundle.open(packed, signer.public))
    told.say(f"\n{data(out)}: {len(packed)} bytes, to be opened with --bundle-key {signer.public.raw.hex()}")


@app.command
def show(
    bundle: Path,
    /,
    *,
    bundle_key: Annotated[str, Parameter(help="Hex: the Ed25519 public key of whoever packed it.")],
    json: JsonFlag = False,
) -> None:
    """List what is in a bundle, and until when each part may be used."""
    _show(Output(json), open_bundle(bundle, bundle_key))


def _fetch(message: Evidence | Hardware, store: Recorder, where: Services) -> None:
    """Have `store` asked for everything that evidence needs."""
    complete(message.hardware() if isinstance(message, Evidence) else message, store, where)
    if isinstance(message, Evidence) and message.devices != NO_DEVICES:
        device_endorsements(message.devices, store, where)


def _show(out: Output, bundle: Bundle) -> None:
    now = datetime.now(UTC)
    rows = []
    for item in sorted(bundle.items.values(), key=lambda item: (item.kind, item.url)):
        issued, ends = window(item)
        rows.append((item.kind, f"{issued:%F}", f"{ends:%F}" + ("" if ends > now else " ENDED"), item.url))
    out.table(("what", "issued", "until", "from"), rows)
    first = min(window(item)[1] for item in bundle.items.values())
    out.result(
        {
            "created": bundle.created.isoformat(),
            "usable_until": first.isoformat(),
            "items": [
                {"kind": item.kind, "url": item.url, "until": window(item)[1].isoformat(), "bytes": len(item.body)}
                for item in bundle.items.values()
            ],
        }
    )
