"""Checks a job's output against its transcript, and proves that a document was among its data: for who may read both.

`docs/spec/transcript.md`, "Checking" and "Membership". The output is the folder that the run gave out, opened; the
inputs are the job's capsules, opened. All of it is a stranger's: the forger may have made it.

Invariants:

- Nothing is taken from the output but what is compared with the transcript, the data or a re-execution.
- What is re-executed is built from the job by this installation's code.
- An audit opens no more than it declared: the job that is checked states the same inputs, epochs and limits.

Example:
    >>> check_output(output, sources, manifests, worker_key).words  # doctest: +SKIP
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import msgspec

from mitai.capsule.sources import FileSource
from mitai.identity import PublicKey
from mitai.train.job import Job
from mitai.train.methods import METHODS
from mitai.train.quiet import calm
from mitai.train.transcript.commitment import SECRET_BYTES, Commitment, MembershipProof, Record, find
from mitai.train.transcript.document import MAX_TRANSCRIPT_BYTES, Transcript
from mitai.train.transcript.observer import JOB, OPENING, TRANSCRIPT, assets
from mitai.train.transcript.verify import Claim, Verdict, refused, verify

if TYPE_CHECKING:
    from transformers import Trainer

    from mitai.train.tables import Audit

VERDICT = "verdict.json"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
_ABOUT = frozenset((TRANSCRIPT, OPENING, JOB, "metrics.json"))


class _Files(Mapping[str, bytes]):
    """A source as a table of files."""

    def __init__(self, source: FileSource) -> None:
        self._source, self._names = source, frozenset(source.names())

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return self._source.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_output(
    output: FileSource,
    sources: Mapping[str, FileSource],
    manifests: Mapping[str, str],
    signer: PublicKey,
    *,
    share: float = 0.1,
    tolerance: float = 0.0,
    rng: random.Random | None = None,
) -> Verdict:
    """Return the verdict about an output: whether its weights follow from the job's data.

    Args:
        output: What the run gave out, opened.
        sources: The job's inputs by capsule id, opened.
        manifests: The digests of their manifests.
        signer: The workload's key, from verified evidence or a verified statement.
        share: Of the segments, to re-execute.
        tolerance: The distance that counts as equal.
        rng: The verifier's randomness; the system's, if not given.

    Raises:
        MitaiError: The transcript does not hold, or the files are not those of a run.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from mitai.train.run import prepared, training_rows
    from mitai.train.weights import files as weights_files

    files = _Files(output)
    job = Job.decode(_small(output, JOB))
    if METHODS[job.job.method].purpose != "training":
        raise refused("job", "the output's job trains nothing")
    if missing := [
        each.capsule for each in job.inputs() if each.capsule not in sources or each.capsule not in manifests
    ]:
        raise refused("inputs", f"the job's input {missing[0]} is not at hand")
    weights = [name for name in WEIGHTS if name in files]
    if len(weights) != 1:
        raise refused("published", "the output has no weights, or several")
    try:
        published = load(files[weights[0]])
    except (SafetensorError, ValueError, KeyError) as error:
        raise refused("published", "the output's weights are malformed") from error
    built: list[Any] = []

    def build() -> Trainer:
        built[:] = [_held(prepared(job, sources), job)]
        return cast("Trainer", built[0])

    with calm():
        claim = Claim(
            job_sha256=job.sha256(),
            inputs=assets(job, manifests),
            records=training_rows(job, sources).plain(),
            secret=_secret(output),
            states=files,
            published=published,
        )
        envelope = _small(output, TRANSCRIPT)
        verdict = verify(envelope, signer, claim, build, share=share, tolerance=tolerance, rng=rng)
        _, made = weights_files(built[0].model, sources[job.inputs()[0].capsule])
    if others := [name for name in files if name not in made and name not in _ABOUT and not name.startswith("states/")]:
        raise refused("files", f"the output holds {len(others)} files that are none of the job's")
    for name in made.keys() - set(WEIGHTS):
        if name not in files or _said(files[name]) != _said(made[name]):
            raise refused("files", f"the output's {name} is not what the job writes")
    return verdict


def audit(
    job: Job, sources: Mapping[str, FileSource], manifests: Mapping[str, str], signers: Mapping[str, PublicKey]
) -> dict[str, bytes]:
    """Do a job of method `audit`; return the verdict, in words and numbers, as the one file `VERDICT`.

    Args:
        job: What to do.
        sources: The opened inputs by capsule id.
        manifests: The digests of their manifests.
        signers: The workloads' keys of those inputs that a workload made.

    Raises:
        MitaiError: The output does not follow from the inputs, or asked for no transcript; or its job is not one about
            what this one declared.
    """
    options = cast("Audit", job.options)
    output = sources[options.output]
    if options.output not in signers:
        raise refused(
            "signature", "no workload made this output, as the broker knows it: its transcript may be anybody's"
        )
    checked = Job.decode(_small(output, JOB))
    if _opened(checked) != _opened(job):
        raise refused("inputs", "the audit names other inputs than the job that it checks")
    if _stated(checked) != _stated(job):
        raise refused("limits", "the audit states other limits or epochs than the job that it checks")
    verdict = check_output(output, sources, manifests, signers[options.output], share=options.share)
    told = {
        "output": {"capsule": options.output, "manifest_sha256": manifests[options.output]},
        "job_sha256": checked.sha256(),
        "transcript_sha256": sha256(_small(output, TRANSCRIPT)).hexdigest(),
        "verdict": verdict.words,
        **asdict(verdict),
    }
    return {VERDICT: msgspec.json.format(msgspec.json.encode(told))}


def prove_membership(
    output: FileSource, sources: Mapping[str, FileSource], signer: PublicKey, document: Record
) -> MembershipProof:
    """Return the proof that a record with the document's values is in the data that the transcript commits to.

    Raises:
        MitaiError: There is no such record, or the data are not those of the transcript.
    """
    from mitai.train.run import training_rows

    envelope = _small(output, TRANSCRIPT)
    transcript = Transcript.open(envelope, signer)
    records = training_rows(Job.decode(_small(output, JOB)), sources).plain()
    data = Commitment.of(_secret(output), transcript.data.columns, records)
    if data.root.hex() != transcript.data.root:
        raise refused("data", "the transcript is about other records")
    return data.proof(find(records, document), tuple(document), sha256(envelope).hexdigest())


def _held(trainer: Trainer, job: Job) -> Trainer:
    """Return a trainer that stops above the job's limit of tokens, as in its own run."""
    from mitai.train.loop import Watch

    live: Any = trainer
    watch, draw = Watch(job), live.get_batch_samples

    def drawn(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - transformers' types are loose
        batches, items = draw(*args, **kwargs)
        watch.took(batches)
        return batches, items

    live.get_batch_samples = drawn
    live.mitai = watch  # for a trainer that counts tokens which it makes itself
    return trainer


def _opened(job: Job) -> set[tuple[str, str]]:
    """Return the capsules that a job opens, each as what it is to it; an audited output aside."""
    return {(each.role, each.capsule) for each in job.inputs() if each.role != "output"}


def _stated(job: Job) -> dict[str, str]:
    told = job.declared()
    return {name: told[name] for name in ("epochs", "steps", "tokens", "rows", "columns") if name in told}


def _said(file: bytes) -> object:
    """Return what a configuration says, whichever version of the libraries wrote it; other files as they are."""
    try:
        found = msgspec.json.decode(file, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return file
    return {name: value for name, value in found.items() if name != "transformers_version"}


def _small(output: FileSource, name: str) -> bytes:
    if name not in output.names() or output.size(name) > 2 * MAX_TRANSCRIPT_BYTES:
        raise refused("files", f"the output has no {name}: its job asked for no transcript")
    return output.read(name)


def _secret(output: FileSource) -> bytes:
    secret = _small(output, OPENING)
    if len(secret) != SECRET_BYTES:
        raise refused("files", f"{OPENING} is malformed")
    return secret
