"""Fuzz what training reads from strangers: job files, and a model's answers where rewards judge them."""

from __future__ import annotations

import contextlib
import sys

from mitai.errors import MitaiError
from mitai.train.job import Job
from mitai.train.rewards import Code, Exact, Format, Json, Length, Numeric

HEAD = b'[job]\nname = "t"\nmethod = "%s"\nmodel = "m"\ndata = ["d"]\n'
SEEDS = [
    HEAD % b"sft" + b"[sft]\npacking = true\n[lora]\nrank = 4\n",
    HEAD % b"dpo" + b'[dpo]\nloss = "ipo"\nbeta = 0.2\n',
    HEAD % b"grpo" + b'[grpo]\ngenerations = 4\n[[grpo.rewards]]\nname = "exact"\nafter = "A:"\n',
    HEAD % b"reward" + b"[reward]\ncentre = 0.01\n",
    HEAD % b"distill" + b'[distill]\nteacher = "big"\ndivergence = "reverse"\n',
    HEAD % b"approximate" + b"[approximate]\nlayers = 0.5\n",
    HEAD % b"private" + b"[limits]\nrows = 8\nsteps = 1\n[private]\nepsilon = 1.0\ndelta = 1e-5\n",
    b'<a>1,234.5</a> {"a": 1}',
]
REWARDS = (
    Exact(),
    Exact(after=":", before=".", ignore_case=True),
    Numeric(tolerance=0.1),
    Numeric(after="{"),
    Format(template="<a>{}</a>"),
    Format(template="{}a{}{}"),
    Length(target=3),
    Json(keys=("a",)),
)


def one_input(data: bytes) -> None:
    text = data.decode(errors="replace")
    with contextlib.suppress(MitaiError):
        job = Job.parse(text)
        told = job.declared()
        assert all(isinstance(value, str) for value in told.values())
        assert len(job.sha256()) == 64
        assert len(job.inputs()) >= 2
        programs = [reward for reward in getattr(job.options, "rewards", ()) if isinstance(reward, Code)]
        assert ("reward_code" in told) == bool(programs)
        assert ("epsilon_micros" in told) == (job.job.method == "private")
    for reward in REWARDS:
        assert 0.0 <= reward.score(text, {"answer": text[::-1]}) <= 1.0


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
