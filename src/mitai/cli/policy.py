"""`mitai policy`: write an owner's policy, look for mistakes in it, and see what it decides, on one's own machine."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number

from mitai.broker.policy.check import Finding
from mitai.broker.policy.check import check as find
from mitai.broker.policy.compare import Change, compare, shown
from mitai.broker.policy.explain import Explanation, describe, why
from mitai.broker.policy.request import Case, Request, convert, read, read_cases
from mitai.broker.policy.templates import LISTS, TEMPLATES, compose, explanation, places, template
from mitai.broker.policy.trustflow import convert as from_trustflow
from mitai.broker.protocol import Amounts
from mitai.cli.evidence import read_file
from mitai.cli.options import JsonFlag, Natural, PolicyOption, Positive, platform_url, read_policy
from mitai.cli.output import Output, data, plural
from mitai.cli.owner import DEFAULT_TERM, micros, verified_broker
from mitai.errors import BrokerError, ClientError, ParseError
from mitai.fleet.home import Home

SHOWN_CHANGES = 10

app = App(
    name="policy",
    help="""Your policies: who may do what with your capsules. Nothing here but `set` talks to a broker.

Begin with a template: `mitai policy templates`, `mitai policy new NAME --set VALUE=…`; then `check` finds mistakes,
`explain` says in plain words what it allows, `test` tries it on your cases, `diff` shows what a change changes.
`mitai publish CAPSULE --cedar FILE` puts it in force, `set` replaces it.
Every fact that a policy can ask for: docs/spec/policies.md.""",
    help_format="markdown",
    help_epilogue="",
)

PolicyFile = Annotated[Path, Parameter(help="A policy in Cedar.")]
Pairs = tuple[str, ...]


@app.command
def templates(
    name: Annotated[str | None, Parameter(help="Show this one in full.")] = None, *, json: JsonFlag = False
) -> None:
    """List the ready-made policies, or show one.

    Example: `mitai policy templates sft-parties`
    """
    output = Output(json)
    if name is not None and name not in TEMPLATES:
        raise BrokerError("broker.template-unknown", f"there is no policy template {name!r}", hint=_names(name))
    if name is not None:
        output.say(data(TEMPLATES[name]))
        output.result({"name": name, "values": places(name), "explanation": explanation(name), "text": TEMPLATES[name]})
        return
    for each in TEMPLATES:
        output.say(f"[bold]{each}[/] ({', '.join(places(each))})\n  {data(explanation(each))}\n")
    output.say("next: mitai policy new NAME --set VALUE=… --out policy.cedar")
    output.result({"templates": [{"name": n, "values": places(n), "explanation": explanation(n)} for n in TEMPLATES]})


@app.command
def new(
    names: Annotated[tuple[str, ...], Parameter(negative="", help="One or more templates, put together.")],
    /,
    *,
    set_: Annotated[
        Pairs,
        Parameter(name="--set", negative="", help="A value, such as `workload=serve`; of a list, commas between."),
    ] = (),
    out: Annotated[Path | None, Parameter(help="Where to write it; by default it is printed.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make a policy of templates. Several together: what any permits, as far as none forbids it.

    Example: `mitai policy new inference-until expiring --set workload=serve --set mrtd=00ff --set until=2027-01-01`
    """
    output, values = Output(json), _pairs(set_)
    unknown = [name for name in names if name not in TEMPLATES]
    if unknown or not names:
        wrong = unknown[0] if unknown else ""
        raise BrokerError("broker.template-unknown", f"there is no policy template {wrong!r}", hint=_names(wrong))
    unused = values.keys() - {place for name in names for place in places(name)}
    if unused:
        raise BrokerError("broker.template-value", f"no template here has a value {min(unused)!r}")
    lists = {key: [word.strip() for word in value.split(",")] for key, value in values.items() if key in LISTS}
    filled = values | lists
    text = compose(
        *(template(name, **{place: filled[place] for place in places(name) if place in filled}) for name in names)
    )
    _refuse_errors(find(text), "the policy")
    if out is not None:
        out.write_text(text, encoding="utf-8")
        output.say(f"[green]✔[/] {data(out)}\n  next: mitai policy explain {data(out)}")
    else:
        output.say(data(text))
    output.result({"templates": names, "text": text, "file": str(out) if out else None})


@app.command
def check(policy: PolicyFile, *, json: JsonFlag = False) -> None:
    """Look for mistakes: what the broker would refuse, where, and what was probably meant. Exit status 1 if any.

    Example: `mitai policy check policy.cedar`
    """
    output = Output(json)
    findings = find(_text(policy))
    errors = [finding for finding in findings if finding.level == "error"]
    for finding in findings:
        mark = "[red]✘[/]" if finding.level == "error" else "[yellow]![/]"
        output.say(f"{mark} {data(policy)}, {data(finding.words)}")
    if not errors:
        output.say(f"[green]✔[/] {data(policy)} is a policy that the broker accepts")
    output.result({"valid": not errors, "findings": [_finding(finding) for finding in findings]})
    if errors:
        raise SystemExit(1)


@app.command
def explain(
    policy: PolicyFile,
    request: Annotated[Path | None, Parameter(help="A request (TOML) to decide.")] = None,
    *,
    workload: Annotated[str | None, Parameter(help="The workload that asks.")] = None,
    purpose: Annotated[str | None, Parameter(help="inference, training, evaluation or export.")] = None,
    capsule: Annotated[str | None, Parameter(help="The capsule's id.")] = None,
    parameter: Annotated[Pairs, Parameter(negative="", help="`NAME=VALUE`, such as `epochs=3`; may be repeated.")] = (),
    measurement: Annotated[Pairs, Parameter(negative="", help="`NAME=HEX`, such as `mrtd=00ff`.")] = (),
    owner: Annotated[
        Pairs, Parameter(negative="", help="The key id of an owner whose capsule the request opens.")
    ] = (),
    time: Annotated[datetime | None, Parameter(help="When; by default now.")] = None,
    uses: Annotated[int | None, Parameter(help="How often the key was released before.")] = None,
    simulated: Annotated[bool, Parameter(negative="", help="On a simulated machine.")] = False,
    json: JsonFlag = False,
) -> None:
    """Say in plain words what a policy allows; or whether a request is allowed, by which statement, and why not.

    A request is a file, or options, or both: an option replaces what the file says.

    Example: `mitai policy explain policy.cedar --workload serve --purpose inference --measurement mrtd=00ff`
    """
    output, text = Output(json), _valid(policy)
    options: dict[str, object] = {
        "workload": workload,
        "purpose": purpose,
        "capsule": capsule,
        "parameters": _pairs(parameter) or None,
        "measurements": _pairs(measurement) or None,
        "owners": owner or None,
        "time": time,
        "uses": uses,
        "simulated": simulated or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if request is None and not given:
        paragraphs = describe(text)
        output.say(data("\n\n".join(paragraphs)))
        output.result({"statements": paragraphs})
        return
    asked = msgspec.to_builtins(read(_text(request)) if request else Request(), builtin_types=(datetime,))
    explained = why(text, convert({**asked, **given}, Request), datetime.now(UTC))
    _say_decision(output, explained)
    output.result({"allowed": explained.allowed, "why": explained.lines})


@app.command
def diff(before: PolicyFile, after: PolicyFile, *, json: JsonFlag = False) -> None:
    """Compare two policies: the lines that changed, and requests that they decide differently.

    The requests are made from the values that either policy mentions: a sample, not a proof.

    Example: `mitai policy diff old.cedar new.cedar`
    """
    output, old, new_text = Output(json), _valid(before), _valid(after)
    lines = list(
        difflib.unified_diff(old.splitlines(), new_text.splitlines(), str(before), str(after), lineterm="", n=1)
    )
    found = compare(old, new_text, datetime.now(UTC))
    output.say(data("\n".join(lines) or "the texts are the same"))
    output.say(
        f"\nof {plural(found.tried, 'request', 'requests')}, {found.allowed_before} were allowed and "
        f"{found.allowed_after} are; {len(found.changes)} changed"
    )
    for change in found.changes[:SHOWN_CHANGES]:
        output.say(f"  {_arrow(change)}: {data(_facts(change))}")
    if len(found.changes) > SHOWN_CHANGES:
        output.say(f"  … and {len(found.changes) - SHOWN_CHANGES} more: --json shows all")
    output.result(
        {
            "lines": lines,
            "tried": found.tried,
            "allowed_before": found.allowed_before,
            "allowed_after": found.allowed_after,
            "changes": [
                {"before": each.before, "after": each.after, "request": shown(each.request)} for each in found.changes
            ],
        }
    )


@app.command(name="test")
def try_cases(
    policy: PolicyFile,
    cases: Annotated[Path, Parameter(help="Cases (TOML): `[[case]]` with name, allow, reason and request.")],
    *,
    json: JsonFlag = False,
) -> None:
    """Try a policy on cases: each a request, whether it should be allowed, and why. Exit status 1 if one fails.

    Example: `mitai policy test policy.cedar cases.toml`
    """
    output, text, now = Output(json), _valid(policy), datetime.now(UTC)
    results = []
    for case, request in read_cases(_text(cases)).all():
        explained = why(text, request, now)
        problem = _problem(case, explained)
        results.append({"name": case.name, "passed": not problem, "problem": problem, "why": explained.lines})
        output.say(
            f"{'[red]✘[/]' if problem else '[green]✔[/]'} {data(case.name)}" + (f": {data(problem)}" if problem else "")
        )
        if problem:
            output.say("".join(f"    {data(line)}\n" for line in explained.lines).rstrip())
    failed = sum(not result["passed"] for result in results)
    output.say(f"{plural(len(results), 'case', 'cases')}, {failed} failed")
    output.result({"passed": not failed, "cases": results})
    if failed:
        raise SystemExit(1)


@app.command(name="set")
def set_policy(
    capsule: Annotated[str, Parameter(help="The id of a capsule that you own, alone or with others.")],
    file: PolicyFile,
    *,
    replaces: Annotated[
        Natural | None, Parameter(help="Only if this version of yours is in force; 0: only if you have set none yet.")
    ] = None,
    uses: Annotated[
        Positive | None, Parameter(help="How many releases of the key to allow, from its first on.")
    ] = None,
    days: Annotated[
        int, Parameter(validator=Number(gte=1, lte=36500), help="For how many days the key may be released.")
    ] = DEFAULT_TERM.days,
    tokens: Annotated[Natural | None, Parameter(help="How many tokens all releases together may declare.")] = None,
    steps: Annotated[Natural | None, Parameter(help="How many training steps, likewise.")] = None,
    epsilon: Annotated[Decimal | None, Parameter(help="How much privacy loss (epsilon), likewise.")] = None,
    url: Annotated[str | None, Parameter(help="The gateway; by default that of the local platform.")] = None,
    policy: PolicyOption = None,
    json: JsonFlag = False,
) -> None:
    """Verify the key broker and put your policy over a capsule in force, in place of the one before.

    Every limit is set anew: one that is not named is none. It takes effect on the next release; workloads that run keep
    what they have, and stop at the new end of `--days`. With `--replaces` nobody's change in between is overwritten.

    Example: `mitai policy set CAPSULE_ID policy.cedar --replaces 3 --days 90`
    """
    output, home, text = Output(json), Home.default(), _valid(file)
    until, amounts = datetime.now(UTC) + timedelta(days=days), Amounts(tokens, steps, micros(epsilon))
    with closing(verified_broker(home, platform_url(home, url), read_policy(home, policy))) as owner:
        index = owner.set_policy(
            capsule,
            text,
            uses=uses,
            not_after=until,
            amounts=amounts if amounts != Amounts() else None,
            replaces=replaces,
        )
        simulated = owner.session.appraisal.simulated
    output.say(f"[green]✔[/] your policy over {data(capsule)} is in force: ledger entry {index}")
    output.simulated(simulated)
    output.result({"capsule": capsule, "ledger_index": index, "until": until.isoformat(), "simulated": simulated})


@app.command(name="import-trustflow")
def import_trustflow(
    file: Annotated[Path, Parameter(help="A data policy of TrustFlow's capsule manager (JSON).")],
    *,
    party: Annotated[
        Pairs, Parameter(negative="", help="`ID=KEY_ID`: whose key stands for a party of TrustFlow's.")
    ] = (),
    workload: Annotated[str, Parameter(help="The workload that runs TrustFlow's operators here.")],
    purpose: Annotated[str, Parameter(help="inference, training, evaluation or export.")] = "training",
    owner: Annotated[str | None, Parameter(help="The data owner's key id; by default yours.")] = None,
    out: Annotated[Path | None, Parameter(help="Where to write it; by default it is printed.")] = None,
    json: JsonFlag = False,
) -> None:
    """Translate a TrustFlow data policy to Cedar. What can't be said here is refused, never left out.

    Example: `mitai policy import-trustflow policy.json --party bob=KEY_ID --workload train --out policy.cedar`
    """
    output = Output(json)
    owner = owner or Home.default().owner().key_id
    text = from_trustflow(read_file(file), parties=_pairs(party), owner=owner, workload=workload, purpose=purpose)
    if out is not None:
        out.write_text(text, encoding="utf-8")
        output.say(f"[green]✔[/] {data(out)}\n  next: mitai policy explain {data(out)}")
    else:
        output.say(data(text))
    output.result({"text": text, "file": str(out) if out else None})


# --- Helpers --------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError:
        raise ClientError("client.not-text", f"{path} is not UTF-8 text") from None


def _valid(path: Path) -> str:
    text = _text(path)
    _refuse_errors(find(text), str(path))
    return text


def _refuse_errors(findings: Sequence[Finding], where: str) -> None:
    errors = [finding.words for finding in findings if finding.level == "error"]
    if errors:
        raise BrokerError("broker.policy-invalid", f"{where}, {errors[0]}", hint="see all: mitai policy check FILE")


def _names(wrong: str) -> str:
    near = difflib.get_close_matches(wrong, TEMPLATES, 1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(TEMPLATES)}"


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or name in pairs:
            raise ParseError("cli.usage", f"{text!r} is not NAME=VALUE, or the name is there twice")
        pairs[name] = value
    return pairs


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "level": finding.level,
        "line": finding.line,
        "message": finding.message,
        "suggestion": finding.suggestion or None,
    }


def _say_decision(output: Output, explained: Explanation) -> None:
    output.say("[green]allowed[/]" if explained.allowed else "[red]denied[/]")
    for line in explained.lines:
        output.say(f"  - {data(line)}")


def _problem(case: Case, explained: Explanation) -> str:
    words = {True: "allowed", False: "denied"}
    if explained.allowed != case.allow:
        return f"it is {words[explained.allowed]}, and should be {words[case.allow]}"
    if case.reason and not any(case.reason in line for line in explained.lines):
        return f"the reason {case.reason!r} is not among those given"
    return ""


def _arrow(change: Change) -> str:
    return "[red]allowed → denied[/]" if change.before else "[green]denied → allowed[/]"


def _facts(change: Change) -> str:
    return ", ".join(f"{name} {value}" for name, value in shown(change.request).items())
