r"""TrustFlow's data policies as Cedar: grantees, operators, columns and constraints of SecretFlow's capsule manager.

Follows TrustFlow's page on policies (github.com/secretflow/trustflow, docs/architecture/policy.md) and how its capsule
manager applies them. What maps and what does not is in `docs/spec/policies.md`.

Invariants:

- Unknown members, operators and constraints are refused: nothing that limits is left out of the translation.
- Each operator of a rule is one `permit`; it allows no more than TrustFlow does, where "a grantee starts the job" is
  read as "the job opens a grantee's capsule, and so needs that grantee's consent".

Example:
    >>> convert(b'{"data_uuid": "d", "rules": [...]}', parties={"bob": "5f1c…"}, owner="a0…", workload="train")
    '// From TrustFlow, data "d"\n@id("trustflow-rule")\npermit (...'
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.broker.policy.engine import CedarEngine
from mitai.broker.policy.facts import NUMBERS
from mitai.errors import ParseError

MAX_FILE_BYTES = 1 << 20
ANY = "*"
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9*][A-Za-z0-9 ._:/#-]{0,127}\Z")]
_CONSTRAINT = re.compile(
    r'\s*r\.([A-Za-z0-9_.]+)\s*(==|!=|<=|>=|<|>)\s*(?:"([A-Za-z0-9 ._:/-]{1,256})"|([0-9]{1,15}))\s*'
)
_TEES = {"sgx": "sgx", "tdx": "tdx", "csv": "csv"}
_REGISTERS = {
    "env.tee.sgx.mr_enclave": "mrenclave",
    "env.tee.sgx.mr_encalve": "mrenclave",  # so in TrustFlow's own page
    "env.tee.sgx.mr_signer": "mrsigner",
}


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON object without members that are not known here."""


class OpConstraint(_Strict, frozen=True):
    """An operator that may run, and under which constraints."""

    op_name: _Name
    constraints: tuple[str, ...] = ()


class Rule(_Strict, frozen=True):
    """Who may run what on which columns."""

    rule_id: Annotated[str, Meta(max_length=128)]
    grantee_party_ids: tuple[_Name, ...]
    columns: tuple[_Name, ...]
    op_constraints: tuple[OpConstraint, ...] = ()
    global_constraints: tuple[str, ...] = ()


class Policy(_Strict, frozen=True):
    """The rules for one data set; each of them allows on its own."""

    data_uuid: Annotated[str, Meta(max_length=256)]
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=256)]


def convert(data: bytes, *, parties: Mapping[str, str], owner: str, workload: str, purpose: str = "training") -> str:
    """Return the Cedar policy for a data policy in TrustFlow's JSON.

    Args:
        data: The file.
        parties: The key id for each of TrustFlow's party ids.
        owner: The key id of the data's owner, who can't be a grantee: the owner's capsule is opened in any case.
        workload: Which workload runs TrustFlow's operators here; it declares which one as the parameter `op`.
        purpose: What for.

    Raises:
        ParseError: The file holds something that can't be said here, `broker.trustflow-unsupported`, or is malformed.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _refused(f"a file of {len(data)} bytes is above the limit")
    try:
        policy = msgspec.json.decode(data, type=Policy)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError("broker.trustflow-malformed", f"this is not TrustFlow's data policy: {error}") from None
    if owner in parties.values():
        raise _refused("a grant to the data's owner alone can't be kept: who starts a job is not known here")
    permits = [
        _permit(rule, operator, _principal(workload, purpose), parties)
        for rule in policy.rules
        for operator in _operators(rule)
    ]
    if not permits:
        raise _refused("no rule names an operator, so nothing is allowed: such a policy is not needed here")
    text = "\n".join([f"// From TrustFlow, data {json.dumps(policy.data_uuid)}", *permits])
    CedarEngine().compile(text)
    return text


def _principal(workload: str, purpose: str) -> str:
    return f"  principal == Workload::{_string(workload)},\n  action == Action::{_string(purpose)},\n  resource\n"


def _operators(rule: Rule) -> list[OpConstraint]:
    """Return each operator once, with all that is asked of it."""
    asked: dict[str, tuple[str, ...]] = {}
    for each in rule.op_constraints:
        asked[each.op_name] = (*asked.get(each.op_name, ()), *each.constraints)
    if ANY in asked and len(asked) > 1:
        raise _refused(f"the rule {rule.rule_id!r} allows any operator, and limits some: name each of them")
    return [OpConstraint(name, constraints) for name, constraints in asked.items()]


def _permit(rule: Rule, operator: OpConstraint, scope: str, parties: Mapping[str, str]) -> str:
    unknown = [party for party in rule.grantee_party_ids if party not in parties]
    if unknown:
        raise _refused(f"which key is the party {unknown[0]!r}? Say it: --party {unknown[0]}=KEY_ID")
    owners = [parties[party] for party in rule.grantee_party_ids]
    if not owners:
        raise _refused(f"the rule {rule.rule_id!r} grants nobody anything")
    if not rule.columns:
        raise _refused(f'the rule {rule.rule_id!r} allows no column; "*" allows all')
    conditions = ["(" + " || ".join(f"context.owners.contains({_string(owner)})" for owner in owners) + ")"]
    if operator.op_name != ANY:
        conditions.append(f"context.parameters.contains({_string('op=' + operator.op_name)})")
    if ANY not in rule.columns:
        conditions.append(f"{_set(rule.columns)}.containsAll(context.job.columns)")
    conditions += [_constraint(text, op=True) for text in operator.constraints if text.strip()]
    conditions += [_constraint(text, op=False) for text in rule.global_constraints]
    joined = " &&\n  ".join(conditions)
    return f"@id({_string(rule.rule_id or 'trustflow')})\npermit (\n{scope})\nwhen {{\n  {joined}\n}};\n"


def _constraint(text: str, *, op: bool) -> str:
    """Translate one comparison."""
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        raise _refused(f"the constraint {text[:80]!r} is not one comparison of a known form")
    element, operator, word, number = found.groups()
    if element.startswith("op.params.") and op:
        return _parameter(element.removeprefix("op.params."), operator, word, number)
    if element == "env.tee.platform" and operator in {"==", "!="} and word:
        if word == "sim":
            return "context.simulated" if operator == "==" else "!context.simulated"
        if word in _TEES:
            same = f"context.tee {operator} {_string(_TEES[word])}"
            return f"!context.simulated && {same}" if operator == "==" else same
    if element in _REGISTERS and operator == "==" and word and re.fullmatch("[0-9A-Fa-f]{64}", word):
        return f"context.measurements.contains({_string(f'{_REGISTERS[element]}={word.lower()}')})"
    if element == "execution_time" and operator in {"<", "<=", ">", ">="} and word:
        return f"context.time {operator} datetime({_string(_moment(word))})"
    raise _refused(f"the constraint {text[:80]!r} has no counterpart here")


def _parameter(name: str, operator: str, word: str | None, number: str | None) -> str:
    if number is not None and name in NUMBERS:
        return f"context.job.{name} {operator} {int(number)}"
    if operator == "==":
        return f"context.parameters.contains({_string(f'{name}={word if word is not None else number}')})"
    raise _refused(f"the operator's parameter {name!r} can only be compared by ==; by size: {', '.join(NUMBERS)}")


def _moment(text: str) -> str:
    try:
        return f"{datetime.strptime(text, '%Y-%m-%d %H:%M:%S'):%Y-%m-%dT%H:%M:%SZ}"  # noqa: DTZ007 - read as UTC
    except ValueError:
        raise _refused(f"the time {text!r} is not written as 2023-10-01 23:59:59") from None


def _string(text: str) -> str:
    if not text.isprintable() or '"' in text or "\\" in text:
        raise _refused("a name holds quotes, backslashes, or what can't be printed")
    return f'"{text}"'


def _set(words: Sequence[str]) -> str:
    return "[" + ", ".join(map(_string, words)) + "]"


def _refused(why: str) -> ParseError:
    return ParseError("broker.trustflow-unsupported", why)
