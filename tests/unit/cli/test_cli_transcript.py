"""`mitai train verify-transcript`, `prove-membership`, `check-membership`, on folders."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "train"))

from train_rig import MemorySource, conversations, job, tiny_llama

from mitai.broker.lineage import Declared, Origin, Statement
from mitai.cli.commands import app
from mitai.errors import MitaiError
from mitai.identity import Identity
from mitai.train.run import run
from mitai.train.transcript.observer import observers

KEY = Identity.from_seed(b"w" * 32)
HEX = KEY.public.raw.hex()
MANIFESTS = {"base": "1" * 64, "records": "2" * 64}
MINE = {"messages": [{"role": "user", "content": "What is 3?"}, {"role": "assistant", "content": "Number 3."}]}


def written(source: MemorySource, folder: Path) -> Path:
    for name in source.names():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source.read(name))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    sources = {"base": tiny_llama(), "records": conversations(12)}
    wanted = job("[training]\nbatch = 4\nmax_length = 64\n[lora]\nrank = 2\n[transcript]\n")
    (folder / "spill").mkdir()
    made = run(wanted, sources, observers=observers(wanted, sources, MANIFESTS, KEY, folder / "spill")).files
    written(MemorySource(made), folder / "output")
    for name, source in sources.items():
        written(source, folder / name)
    (folder / "mine.json").write_text(json.dumps(MINE))
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    app([*map(str, arguments), "--json"], exit_on_error=False, print_error=False, result_action="return_value")
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def statement(place: Path, transcript: bytes) -> Path:
    origin = Origin("train", {"mrtd": "00"}, "e" * 64)
    made = Statement.build(
        ("out", "3" * 64),
        MANIFESTS,
        Declared("training", {}),
        origin,
        broker="b" * 64,
        kind="adapter",
        byproducts={"transcript.json": sha256(transcript).hexdigest()},
    )
    path = place / "statement.json"
    path.write_bytes(made.sign(KEY).encode())
    return path


def test_a_run_is_verified(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ("--input", f"base={place / 'base'}", "--input", f"records={place / 'records'}")
    verify = ("train", "verify-transcript", place / "output", *inputs, "--key")
    found = said(capsys, *verify, HEX, "--share", "1")
    assert (found["verdict"], found["distance"], found["re_executed"]) == ("follows", 0.0, 3)
    transcript = (place / "output" / "transcript.json").read_bytes()
    said(capsys, *verify, HEX, "--statement", statement(place, transcript))
    for wrong in (
        (*verify, "00"),
        (*verify, Identity.generate().public.raw.hex()),
        (*verify, HEX, "--share", "0"),
        (*verify, HEX, "--tolerance", "2"),
        (*verify[:3], "--input", "base", "--key", HEX),
        (*verify, HEX, "--statement", statement(place, b"another")),
    ):
        with pytest.raises(MitaiError):
            said(capsys, *wrong)


def test_a_document_is_proven(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof, document = place / "proof.json", ("--document", place / "mine.json", "--key", HEX)
    made = said(
        capsys,
        "train",
        "prove-membership",
        place / "output",
        proof,
        "--input",
        f"records={place / 'records'}",
        *document,
    )
    assert made["row"] == 3
    check = ("train", "check-membership", proof, place / "output" / "transcript.json", "--key", HEX, "--document")
    found = said(capsys, *check, place / "mine.json")
    assert (found["row"], found["records"], found["passes"]) == (3, 12, 1)
    (place / "other.json").write_text('{"messages": []}')
    (place / "broken.json").write_text("[]")
    for name in ("other.json", "broken.json"):
        with pytest.raises(MitaiError):
            said(capsys, *check, place / name)
