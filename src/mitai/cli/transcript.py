"""`mitai train verify-transcript`, `prove-membership`, `check-membership`: what a model was trained on, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mitai.broker.lineage import Statement
from mitai.cli.evidence import MAX_FILE_BYTES, read_file
from mitai.cli.options import JsonFlag
from mitai.cli.output import Output, data
from mitai.errors import ClientError, ParseError
from mitai.identity import Envelope, PublicKey
from mitai.train.transcript.commitment import MembershipProof, Record
from mitai.train.transcript.document import Transcript, check_membership
from mitai.wire import parse_json

Folder = Annotated[Path, Parameter(help="The job's output, opened: a folder with `transcript.json` and the states.")]
Inputs = Annotated[
    tuple[str, ...],
    Parameter(name="--input", negative="", help="An input of the job, opened: `CAPSULE=FOLDER`. May be repeated."),
]
Key = Annotated[str, Parameter(help="The workload's key in hex, out of verified evidence or `mitai lineage`.")]
Document = Annotated[Path, Parameter(help="A JSON object: columns of the record and what they hold.")]


def verify_transcript(
    output: Folder,
    *,
    inputs: Inputs,
    key: Key,
    statement: Annotated[
        Path | None, Parameter(help="The output's signed statement: names the inputs' manifests and the transcript.")
    ] = None,
    share: Annotated[float, Parameter(help="How much of the run is re-executed, 0 to 1.")] = 0.1,
    tolerance: Annotated[float, Parameter(help="The distance that counts as equal; 0: bit for bit.")] = 0.0,
    json: JsonFlag = False,
) -> None:
    """Say whether a model's weights follow from the data that its transcript claims, and how sure that is.

    Checks every batch's place, re-executes a part of the run that is drawn at random now, and tests whether the model
    has just learnt what it is said to have been shown. Needs the data in the clear.

    Example: `mitai train verify-transcript output --input base=model --input records=data --key HEX`
    """
    from mitai.capsule import FolderSource
    from mitai.train.transcript.audit import check_output

    out, signer = Output(json), _key(key)
    if not 0 < share <= 1 or not 0 <= tolerance < 1:
        raise ClientError(
            "client.transcript-options", "--share is above 0 and at most 1, --tolerance at least 0, below 1"
        )
    envelope = read_file(output / "transcript.json")
    transcript = Transcript.open(envelope, signer)
    manifests = {each.capsule: each.manifest_sha256 for each in transcript.inputs}
    if statement is not None:
        manifests = _stated(statement, signer, envelope)
    sources = {name: FolderSource(folder) for name, folder in _inputs(inputs).items()}
    verdict = check_output(FolderSource(output), sources, manifests, signer, share=share, tolerance=tolerance)
    out.say(f"[bold green]✔[/] {data(verdict.words)}")
    if statement is None:
        out.say("Which revisions of the inputs the job opened was taken from the transcript: no --statement was given.")
    out.say(f"The job is the one with digest {transcript.job_sha256}: compare it with `mitai train check JOB.toml`.")
    facts = {name: getattr(verdict, name) for name in verdict.__dataclass_fields__}
    out.result(
        {
            "verdict": "follows",
            "words": verdict.words,
            "job": transcript.job,
            "job_sha256": transcript.job_sha256,
            **facts,
        }
    )


def prove_membership(
    output: Folder,
    proof: Annotated[Path, Parameter(help="The file to write the proof into.")],
    *,
    inputs: Inputs,
    key: Key,
    document: Document,
    json: JsonFlag = False,
) -> None:
    """Prove that a record with these values was among the data of a job; for who may read the data.

    The proof opens the columns of the document and no other, and says nothing about other records.

    Example: `mitai train prove-membership output proof.json --input records=data --document mine.json --key HEX`
    """
    from mitai.capsule import FolderSource
    from mitai.train.transcript.audit import prove_membership as prove

    out = Output(json)
    sources = {name: FolderSource(folder) for name, folder in _inputs(inputs).items()}
    found = prove(FolderSource(output), sources, _key(key), _document(document))
    proof.write_bytes(found.encode())
    out.say(f"[green]✔[/] record {found.row} has these values; the proof is in {data(proof)}")
    out.result({"row": found.row, "proof": str(proof)})


def check_membership_proof(
    proof: Annotated[Path, Parameter(help="The proof.")],
    transcript: Annotated[Path, Parameter(help="The job's signed transcript, `transcript.json`.")],
    *,
    key: Key,
    document: Document,
    json: JsonFlag = False,
) -> None:
    """Check that a document was among the data of a job: with the document, the proof and the signed transcript.

    Example: `mitai train check-membership proof.json transcript.json --document mine.json --key HEX`
    """
    out = Output(json)
    parsed = MembershipProof.decode(read_file(proof))
    envelope = read_file(transcript)
    found = check_membership(parsed, envelope, _key(key), _document(document))
    read = f"all of them at least {found.passes} times" if found.passes else "not all of them: this one perhaps not"
    out.say(
        f"[bold green]✔[/] it is record {parsed.row} of the {found.data.records} that job {data(found.job)} was given; "
        f"the job read {read}"
    )
    out.result({"row": parsed.row, "records": found.data.records, "job": found.job, "passes": found.passes})


def add_to(app: App) -> None:
    """Add the commands to `mitai train`."""
    app.command(verify_transcript)
    app.command(prove_membership)
    app.command(check_membership_proof, name="check-membership")


def _key(text: str) -> PublicKey:
    try:
        return PublicKey(bytes.fromhex(text))
    except ValueError:
        raise ParseError("identity.key-malformed", "a workload's key is 64 hexadecimal digits") from None


def _inputs(pairs: tuple[str, ...]) -> dict[str, Path]:
    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(found) != len(pairs):
        raise ClientError("client.transcript-options", "--input is CAPSULE=FOLDER, each capsule once")
    return {name: Path(folder) for name, folder in found.items()}


def _document(path: Path) -> Record:
    return parse_json(
        read_file(path),
        dict[str, object],
        MAX_FILE_BYTES,
        "client.document-malformed",
        f"{path} is no JSON object",
    )


def _stated(path: Path, signer: PublicKey, transcript: bytes) -> dict[str, str]:
    """Return the inputs' manifests out of the output's statement; it must be about this transcript."""
    from hashlib import sha256

    found = Statement.open(Envelope.decode(read_file(path)), signer)
    if found.byproducts.get("transcript.json") != sha256(transcript).hexdigest():
        raise ClientError("client.transcript-other", "the statement is about another transcript than the output's")
    return found.inputs
