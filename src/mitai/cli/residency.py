"""`mitai residency`: an auditor's signed word on where machines stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mitai.broker.residency import Residency, read_residency, sign_residency
from mitai.cli.evidence import read_file, write_file
from mitai.cli.options import JsonFlag, Positive
from mitai.cli.output import Output, data
from mitai.fleet.home import Home
from mitai.identity import Identity

app = App(
    name="residency",
    help="""Where machines stand, on the word of somebody who saw them.

An auditor signs that machines stand in a country (`sign`); the operator puts the file into the broker's folder of
statements; owners whose policies name that auditor let only such machines have their keys
(`mitai policy new residency …`). What counts as which machine: docs/spec/residency.md.""",
    help_format="markdown",
    help_epilogue="",
)


@app.command
def sign(
    machines: Annotated[
        tuple[str, ...], Parameter(negative="", help="The machines, each as `mitai verify` shows it: its `platform`.")
    ],
    /,
    *,
    country: Annotated[str, Parameter(help="ISO 3166: two letters, such as DE.")],
    zone: Annotated[str, Parameter(help="More precisely, in words of your own.")] = "",
    days: Annotated[Positive, Parameter(help="For how long from now on others may rely on it.")] = 90,
    sign: Annotated[Path | None, Parameter(help="Who signs it (PEM); by default the owner in `$MITAI_HOME`.")] = None,
    out: Annotated[Path, Parameter(help="Where to write the statement.")] = Path("residency.json"),
    json: JsonFlag = False,
) -> None:
    """Sign that these machines stand in a country. There is no way to take it back: keep the time short.

    Example: `mitai residency sign amd-chip:4f… --country DE --zone "Frankfurt hall 3" --out hall-3.json`
    """
    identity = Identity.load(sign) if sign else Home.default().owner()
    now = datetime.now(UTC).replace(microsecond=0)
    said = Residency(country, now, now + timedelta(days=days), zone)
    write_file(out, sign_residency(said, machines, identity))
    _show(Output(json), out)


@app.command
def show(statement: Annotated[Path, Parameter(help="A statement.")], /, *, json: JsonFlag = False) -> None:
    """Check a statement's signature, and show who says what of which machines."""
    _show(Output(json), statement)


def _show(output: Output, path: Path) -> None:
    found = read_residency(read_file(path))
    said, now = found.said, datetime.now(UTC)
    place = f"{said.country}, {said.zone}" if said.zone else said.country
    current = said.not_before <= now < said.not_after
    mark = "[green]✔[/]" if current else "[yellow]![/] not valid now:"
    output.say(f"{mark} {data(path)}: {data(place)}, {said.not_before:%F %R} to {said.not_after:%F %R} UTC")
    output.say(f"  auditor {found.auditor}")
    for machine in found.machines:
        output.say(f"  {data(machine)}")
    output.result(
        {
            "auditor": found.auditor,
            "country": said.country,
            "zone": said.zone,
            "not_before": said.not_before.isoformat(),
            "not_after": said.not_after.isoformat(),
            "machines": found.machines,
            "valid": current,
        }
    )
