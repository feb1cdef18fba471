"""The broker's small parts: nonces, meter, vault, policies, configuration, entry point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from mitai.broker.__main__ import main
from mitai.broker.config import Config
from mitai.broker.nonces import NONCE_LIFE_S, Nonces
from mitai.broker.policy import PURPOSES, SCHEMA, CedarEngine, Facts, engine, template
from mitai.broker.receipts import Known
from mitai.broker.records import Capsule, LedgerKey, Party, Root, unpack
from mitai.broker.service import Meter
from mitai.broker.vault import Vault
from mitai.errors import BrokerError, MitaiError, ParseError


def test_clients_load_no_database_and_no_policy_engine() -> None:
    code = (
        "import sys, mitai.client.owner, mitai.broker.release_client; "
        "print([name for name in ('torch', 'cedarpy', 'sqlalchemy', 'alembic') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


# --- nonces ---------------------------------------------------------------------------------------------------------


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def code_of(call: object, *arguments: object) -> str:
    with pytest.raises(MitaiError) as caught:
        call(*arguments)
    return caught.value.code


def test_nonces_end() -> None:
    clock = Seconds()
    nonces = Nonces(clock)
    early, late = nonces.issue(), nonces.issue()
    clock.now += NONCE_LIFE_S - 1
    nonces.claim(early, "a")
    clock.now += 2
    assert code_of(nonces.claim, late, "b") == "broker.nonce-unknown"
    assert code_of(nonces.claim, early, "a") == "broker.nonce-unknown"
    assert not nonces._used


def test_nonces_of_another_process_or_changed_are_refused() -> None:
    clock = Seconds()
    nonce = Nonces(clock).issue()
    mine = Nonces(clock)
    assert code_of(mine.claim, nonce, "a") == "broker.nonce-unknown"
    own = mine.issue()
    for position in range(32):
        changed = bytearray(own)
        changed[position] ^= 1
        assert code_of(mine.claim, bytes(changed), "a") == "broker.nonce-unknown"


def test_used_nonces_are_bounded() -> None:
    nonces = Nonces(Seconds(), max_used=2)
    for _ in range(2):
        nonces.claim(nonces.issue(), "a")
    assert code_of(nonces.claim, nonces.issue(), "a") == "broker.busy"


def test_kept_answers_are_bounded() -> None:
    clock = Seconds()
    nonces = Nonces(clock, max_kept_bytes=100)
    issued = [nonces.issue() for _ in range(4)]
    failed, ours = nonces.claim(issued[0], "0")
    assert ours
    failed.set_exception(BrokerError("x", "x"))
    for number, nonce in enumerate(issued[1:], 1):
        answer, _ = nonces.claim(nonce, str(number))
        nonces.keep(nonce, answer, bytes(50))
    assert code_of(nonces.claim, issued[1], "1") == "broker.nonce-used"  # the oldest was let go, its nonce stays used
    for number in (2, 3):
        kept, ours = nonces.claim(issued[number], str(number))
        assert (kept.result(), ours) == (bytes(50), False)
    clock.now += NONCE_LIFE_S + 1
    nonces.claim(nonces.issue(), "z")
    assert nonces._kept_bytes == 0


def test_an_answer_larger_than_the_room_is_kept_alone() -> None:
    nonces = Nonces(Seconds(), max_kept_bytes=10)
    nonce = nonces.issue()
    answer: Future[bytes] = nonces.claim(nonce, "a")[0]
    nonces.keep(nonce, answer, bytes(50))
    assert nonces.claim(nonce, "a")[0].result() == bytes(50)


def test_the_meter() -> None:
    clock = Seconds()
    meter = Meter(2, 3, clock)
    assert [meter.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [meter.take() for _ in range(2)] == [True, False]


def test_known_receipts_are_bounded() -> None:
    known = Known(size=2)
    for number in range(3):
        known.add(str(number), number)
    assert (known.get("0"), known.get("2")) == (None, 2)


# --- vault ----------------------------------------------------------------------------------------------------------


def test_the_vault_refuses_everything_but_what_it_sealed() -> None:
    vault = Vault(bytes(32))
    tag = vault.tag("capsule", "a")
    row = vault.seal("capsule", tag, b"state")
    assert vault.open("capsule", tag, row.stamp, row.sealed) == b"state"
    other = vault.seal("capsule", tag, b"state")
    assert other.stamp != row.stamp
    assert other.sealed != row.sealed
    for arguments in (
        ("party", tag, row.stamp, row.sealed),
        ("capsule", vault.tag("capsule", "b"), row.stamp, row.sealed),
        ("capsule", tag, other.stamp, row.sealed),
        ("capsule", tag, row.stamp, row.sealed[:-1]),
        ("capsule", tag, row.stamp, b""),
    ):
        assert code_of(vault.open, *arguments) == "broker.state-damaged"
    assert code_of(Vault(b"\x01" * 32).open, "capsule", tag, row.stamp, row.sealed) == "broker.state-damaged"
    assert code_of(vault.open_blob, tag, b"") == "broker.state-damaged"
    assert code_of(Vault, b"short") == "broker.root-key"
    assert vault.tag("a", "b") != vault.tag("b", "a")


def test_records_of_another_version_are_told() -> None:
    assert code_of(unpack, b"\x90", Party) == "broker.state-version"


def test_records_show_no_keys() -> None:
    capsule = Capsule("c", "p", "m", "e", 1, b"topsecretkey", 1, ())
    assert "topsecret" not in repr(capsule)
    assert "topsecret" not in repr(LedgerKey(b"topsecretseed", "origin"))
    assert "topsecret" not in repr(Root(1, b"topsecretroot"))


# --- policies -------------------------------------------------------------------------------------------------------

FACTS = Facts(
    workload="serve",
    purpose="inference",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    tee="tdx",
    simulated=False,
    measurements=(("mrtd", "00ff"),),
    tcb_status="UpToDate",
    advisory_ids=("INTEL-SA-1",),
    tcb_evaluation_number=17,
    parameters={"region": "eu"},
)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('context.tee == "tdx"', True),
        ("context.simulated", False),
        ('context.measurements.contains("mrtd=00ff")', True),
        ('context.measurements.contains("mrtd=00fe")', False),
        ('context.tcb_status == "UpToDate"', True),
        ('context.advisory_ids.contains("INTEL-SA-1")', True),
        ("context.tcb_evaluation_number >= 17", True),
        ("context.uses < 5", True),
        ("context.uses < 4", False),
        ('context.time < datetime("2026-01-02")', True),
        ('context.time < datetime("2026-01-01")', False),
        ('context.parameters.contains("region=eu")', True),
        ('principal == Workload::"serve"', True),
        ('resource == Capsule::"c"', True),
        ('resource == Capsule::"d"', False),
    ],
)
def test_conditions(condition: str, expected: bool) -> None:
    compiled = CedarEngine().compile(f"permit(principal, action, resource) when {{ {condition} }};")
    assert compiled.allows(FACTS, "c", 4) is expected


def test_the_schema_knows_the_purposes() -> None:
    assert all(f'"{purpose}"' in SCHEMA for purpose in PURPOSES)


def test_hostile_names_are_names_only() -> None:
    """Ids travel as data: quotes and newlines in them do not become policy."""
    import dataclasses

    compiled = CedarEngine().compile('permit(principal == Workload::"serve", action, resource);')
    for name in ('serve"', 'x" || true || "', "serve\n", "", "sérve\x00"):
        assert not compiled.allows(dataclasses.replace(FACTS, workload=name), 'c"}\n', 0)


def test_an_unknown_template() -> None:
    assert code_of(lambda: template("nothing")) == "broker.template-unknown"


@pytest.mark.parametrize("opening", ["(", "[", "{a:", "!(", "if true then ", "(true && ", '")))))"(', "//\r("])
def test_deep_policies_do_not_reach_the_parser(opening: str) -> None:
    """Some thousand levels would overflow its stack, and end the process."""
    text = f"permit(principal, action, resource) when {{ {opening * 4000} true }};"
    assert code_of(CedarEngine().compile, text) == "broker.policy-invalid"


def test_policies_are_bounded() -> None:
    assert code_of(CedarEngine().compile, "x" * 100_000) == "broker.policy-invalid"


def test_a_policy_set_that_the_parser_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should validation pass what the parser does not."""

    class Refuses:
        @staticmethod
        def from_str(text: str) -> None:
            raise ValueError("no")

    monkeypatch.setattr(engine.cedarpy, "PolicySet", Refuses)
    assert code_of(CedarEngine().compile, "permit(principal, action, resource);") == "broker.policy-invalid"


# --- configuration --------------------------------------------------------------------------------------------------


def test_the_documented_configuration_is_one(tmp_path: Path) -> None:
    from mitai.broker import config

    text = (config.__doc__ or "").split("```toml\n")[1].split("```")[0]
    path = tmp_path / "broker.toml"
    path.write_text(text)
    read = Config.read(path)
    settings = read.settings()
    assert (settings.origin, settings.limits.capsules) == ("example.org/ledger", 1_000_000)
    assert settings.witnesses[0].url == "https://witness.example"


@pytest.mark.parametrize(
    "text", ["state = 1", "nonsense", 'state="a"\npublish="b"\npolicy="c"\nport=70000', 'state="a"\nsurprise=1', "\xff"]
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ParseError) as caught:
        Config.read(path)
    assert caught.value.code == "broker.config-malformed"


@pytest.fixture
def own_logging() -> Iterator[None]:
    """`main` configures logging for its process; here it is put back."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("own_logging")
def test_main_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broker.toml"
    assert main(["--config", str(path)]) == 1
    assert "broker.config-missing" in capsys.readouterr().err
    path.write_text(f'state = "sqlite://"\npublish = "{tmp_path}"\npolicy = "{tmp_path}/nothing.toml"\n')
    assert main(["--config", str(path)]) == 1
    assert "can't start" in capsys.readouterr().err
    (tmp_path / "nothing.toml").write_text("version = 1\n")
    assert main(["--config", str(path)]) == 1
    assert "attest.collect-none" in capsys.readouterr().err
