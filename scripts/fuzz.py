"""Run every fuzz target for some seconds: `python scripts/fuzz.py SECONDS [NAME…]`, as many at once as there are cores.

Each target runs in its own process with a corpus under `tests/fuzz/corpus/` (not committed), begun with the target's
`SEEDS`; a crash fails the command.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FUZZ = Path(__file__).parent.parent / "tests" / "fuzz"


def sow(target: Path) -> None:
    """Write a target's seeds into its corpus; one at a time, as imports of several threads can lock each other."""
    corpus = FUZZ / "corpus" / target.stem
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(runpy.run_path(str(target)).get("SEEDS", ())):
        (corpus / f"seed-{number}").write_bytes(seed)


def run(target: Path, seconds: int) -> bool:
    """Run one target; say how it went, and return whether it held."""
    corpus = FUZZ / "corpus" / target.stem
    crashes = f"-artifact_prefix={FUZZ / 'corpus'}/{target.stem}-"
    options = [f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10", crashes]
    done = subprocess.run(
        [sys.executable, target, corpus, *options], capture_output=True, text=True, errors="replace", check=False
    )
    runs = next((line for line in done.stderr.splitlines() if line.startswith("Done ")), "no run")
    print(f"{target.stem}: {runs}, {len(list(corpus.iterdir()))} inputs kept", flush=True)
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr, flush=True)
    return done.returncode == 0


def main() -> int:
    seconds, names = int(sys.argv[1]) if len(sys.argv) > 1 else 60, sys.argv[2:]
    targets = [path for path in sorted(FUZZ.glob("fuzz_*.py")) if not names or path.stem in names]
    for target in targets:
        sow(target)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        held = list(pool.map(lambda target: run(target, seconds), targets))
    print(f"{sum(held)} passed, {len(held) - sum(held)} failed")
    return 0 if targets and all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
