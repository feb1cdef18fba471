"""The job file: which sealed inputs, which method, with which settings; `docs/spec/training.md` lists every key.

The file comes from the host, who is not trusted. It chooses among what measured code can do and can bring no code.
What it states under `[limits]` and as hyperparameters is declared to the broker (`declared`), where the owners'
policies judge it, and `mitai.train.run` holds itself to exactly that.

A further method adds its options here, as a struct and a field of `Job` with the method's name, and a line to
`mitai.train.methods`. Options that name capsules of their own (a teacher, a judge) have a method `inputs()` that
returns `Input`s; options that declare more to the broker have a method `declared()` that returns text by name.

Invariants:

- Unknown keys, wrong types and values outside their range are refused; so is a table of another method.
- Two files that say the same have the same `sha256()`; defaults that are written out count as the same.

Example:
    >>> job = Job.parse(Path("job.toml").read_text())
    >>> job.job.method, job.training.epochs
    ('sft', 3)
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta

from mitai.errors import TrainError
from mitai.train.evaluate.board import Compare
from mitai.train.evaluate.tasks import Evaluate
from mitai.train.tables import (
    Approximate,
    Audit,
    CapsuleId,
    Column,
    Count,
    Distill,
    Distributed,
    Dpo,
    Grpo,
    Input,
    Name,
    Natural,
    Private,
    Rate,
    Reward,
    Sft,
    Share,
    Small,
    Table,
)

MAX_JOB_BYTES = 64 << 10
_DIGEST_LABEL = b"mitai train job v1\0"


class About(Table, frozen=True):
    """`[job]`: what is made out of what. A leaderboard has neither model nor data, all else has both."""

    name: Name
    method: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
    model: CapsuleId | None = None
    data: Annotated[tuple[CapsuleId, ...], Meta(max_length=8)] = ()
    evaluation: Annotated[tuple[CapsuleId, ...], Meta(max_length=4)] = ()
    adapter: CapsuleId | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0


class Limits(Table, frozen=True):
    """`[limits]`: bounds that owners' policies may ask about; the run fails rather than exceed one."""

    steps: Count | None = None
    tokens: Count | None = None
    rows: Count | None = None
    columns: Annotated[tuple[Column, ...], Meta(min_length=1, max_length=64)] | None = None


class Training(Table, frozen=True):
    """`[training]`: hyperparameters that all methods share."""

    epochs: Annotated[int, Meta(ge=1, le=1000)] = 1
    batch: Small = 8
    accumulation: Small = 1
    learning_rate: Rate = 1e-4
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: Natural = 0
    weight_decay: Share = 0.0
    max_grad_norm: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0
    max_length: Annotated[int, Meta(ge=8, le=1 << 20)] = 1024
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False


class Lora(Table, frozen=True):
    """`[lora]`: train an adapter instead of all weights."""

    rank: Annotated[int, Meta(ge=1, le=1024)] = 16
    alpha: Annotated[int, Meta(ge=1, le=4096)] = 32
    dropout: Share = 0.0
    targets: Annotated[tuple[Column, ...], Meta(max_length=32)] = ()
    quantised: bool = False


class EarlyStopping(Table, frozen=True):
    """`[early_stopping]`: end when the evaluation loss has not improved so often, with the best weights."""

    patience: Annotated[int, Meta(ge=1, le=1000)] = 3
    min_delta: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0


class Evaluation(Table, frozen=True):
    """`[evaluation]`: the loss on held-out rows while training."""

    every_steps: Count
    rows: Count | None = None


class Checkpoints(Table, frozen=True):
    """`[checkpoints]`: sealed states to resume from; 0: none."""

    every_steps: Natural = 50


class Transcribed(Table, frozen=True):
    """`[transcript]`: keep a transcript of the run, and the states that its verification starts from."""

    segment_steps: Natural = 0


class Proven(Table, frozen=True):
    """`[proof]`: the manifest of the output, and its lineage, name the identity that proofs of its answers have."""


METHOD_TABLES: dict[str, type[Table]] = {
    "sft": Sft,
    "dpo": Dpo,
    "grpo": Grpo,
    "reward": Reward,
    "distill": Distill,
    "approximate": Approximate,
    "private": Private,
    "evaluate": Evaluate,
    "leaderboard": Compare,
    "audit": Audit,
}
PROVEN = {"sft", "dpo", "grpo", "distill", "private"}  # methods whose output may be a whole model that generates


class Job(Table, frozen=True):
    """A whole job file."""

    job: About
    v: Literal[1] = 1
    limits: Limits = Limits()
    training: Training = Training()
    lora: Lora | None = None
    evaluation: Evaluation | None = None
    early_stopping: EarlyStopping | None = None
    checkpoints: Checkpoints = Checkpoints()
    transcript: Transcribed | None = None
    distributed: Distributed | None = None
    sft: Sft | None = None
    dpo: Dpo | None = None
    grpo: Grpo | None = None
    reward: Reward | None = None
    distill: Distill | None = None
    approximate: Approximate | None = None
    private: Private | None = None
    evaluate: Evaluate | None = None
    leaderboard: Compare | None = None
    audit: Audit | None = None
    proof: Proven | msgspec.UnsetType = msgspec.UNSET  # not written out: digests of jobs without it stay

    @staticmethod
    def parse(text: str) -> Job:
        """Parse a job file.

        Raises:
            TrainError: It is not valid TOML, says something unknown, or contradicts itself.
        """
        if len(text) > MAX_JOB_BYTES:
            raise TrainError("train.job-too-large", f"a job file has at most {MAX_JOB_BYTES} characters")
        try:
            job = msgspec.toml.decode(text, type=Job)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _malformed(str(error)[:300]) from None
        job._check()
        return job

    @staticmethod
    def decode(data: bytes) -> Job:
        """Parse what `encode` gave; raise `TrainError` on anything else."""
        if len(data) > 2 * MAX_JOB_BYTES:
            raise TrainError("train.job-too-large", f"a job has at most {2 * MAX_JOB_BYTES} bytes")
        try:
            job = msgspec.json.decode(data, type=Job)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _malformed(str(error)[:300]) from None
        job._check()
        return job

    def _check(self) -> None:
        """Refuse what each table may say, but not together."""
        method = self.job.method
        if method not in METHOD_TABLES:
            known = ", ".join(METHOD_TABLES)
            raise TrainError("train.method-unknown", f"there is no method {method!r}", hint=f"one of: {known}")
        needed = [field.name for field in msgspec.structs.fields(METHOD_TABLES[method]) if field.required]
        if needed and getattr(self, method) is None:
            raise _malformed(f"the method {method} needs a table [{method}] with {', '.join(needed)}")
        if method != "leaderboard" and not (self.job.model and self.job.data):
            raise _malformed(f"the method {method} needs job.model and job.data")
        names = [each.capsule for each in self.inputs()]
        if others := [name for name in METHOD_TABLES if name != method and getattr(self, name, None) is not None]:
            raise _malformed(f"[{others[0]}] is for another method than {method}")
        if len(set(names)) != len(names):
            raise _malformed("a capsule is named twice")
        if self.job.adapter and self.lora:
            raise _malformed("a job continues an adapter (job.adapter) or starts one ([lora]), not both")
        if self.job.evaluation and not self.evaluation:
            raise _malformed("job.evaluation needs [evaluation]")
        if self.evaluation and not self.job.evaluation and self.evaluation.rows is None:
            raise _malformed("[evaluation] needs rows to hold out, or capsules (job.evaluation)")
        if self.early_stopping and not self.evaluation:
            raise _malformed("[early_stopping] needs [evaluation]")
        self._check_kept()
        if self.distributed and (undivided := self._undivided(self.distributed.workers)):
            raise _malformed(f"[distributed] {undivided}")
        own = getattr(self.options, "unfit", None)
        if why := own(self) if own else None:
            raise _malformed(f"[{method}] {why}")

    def _check_kept(self) -> None:
        """Refuse what a job of this kind can't leave behind."""
        method = self.job.method
        if self.transcript and method in ("private", "evaluate", "audit"):
            raise _malformed(f"[transcript] is not for the method {method}")
        if self.proof is not msgspec.UNSET and (self.lora or self.job.adapter or method not in PROVEN):
            raise _malformed("[proof] is for jobs that make a whole model that generates")

    def _undivided(self, workers: int) -> str:
        """Return why several workers would not give what one gives, or nothing."""
        if self.job.method != "sft":
            return "is for the method sft"
        if self.transcript or self.early_stopping:
            return "goes with neither [transcript] nor [early_stopping]"
        if self.lora and self.lora.dropout:
            return "needs a lora.dropout of 0: each worker would drop something else"
        return "" if workers <= self.training.batch else "needs a training.batch of at least as many rows as workers"

    @property
    def options(self) -> Table:
        """The method's own table."""
        method = self.job.method
        return cast("Table", getattr(self, method) or METHOD_TABLES[method]())

    def inputs(self) -> tuple[Input, ...]:
        """Return every capsule that the job opens, the model first, if it has one."""
        about = self.job
        found = [Input("model", about.model, "model")] if about.model else []
        found += [Input("adapter", about.adapter, "adapter")] if about.adapter else []
        found += [Input("data", capsule, "data") for capsule in about.data]
        found += [Input("evaluation", capsule, "data") for capsule in about.evaluation]
        own = getattr(self.options, "inputs", None)
        return (*found, *(own() if own else ()))

    def declared(self) -> dict[str, str]:
        """Return what the broker is told: the parameters of `docs/spec/policies.md`."""
        told = {"method": self.job.method, "epochs": str(self.training.epochs)}
        for name in ("steps", "tokens", "rows"):
            if (value := getattr(self.limits, name)) is not None:
                told[name] = str(value)
        if self.limits.columns:
            told["columns"] = ",".join(sorted(self.limits.columns))
        if self.transcript:
            told["transcript"] = "kept"  # the output then holds states of the optimizer, and what opens commitments
        if self.proof is not msgspec.UNSET:
            told["proof"] = "named"
        if self.distributed:
            told["workers"] = str(self.distributed.workers)  # sums over the rows leave this machine, sealed
        own = getattr(self.options, "declared", None)
        return told | (own() if own else {})

    def sha256(self) -> str:
        """Return the digest by which transcripts, checkpoints and lineage name this job."""
        return hashlib.sha256(_DIGEST_LABEL + self.encode()).hexdigest()

    def encode(self) -> bytes:
        """Return the job as canonical JSON, every default written out."""
        whole = msgspec.structs.replace(self, **{self.job.method: self.options})
        return msgspec.json.encode(whole, order="deterministic")


def _malformed(why: str) -> TrainError:
    return TrainError("train.job-malformed", f"the job file is not valid: {why}", hint="see docs/spec/training.md")
