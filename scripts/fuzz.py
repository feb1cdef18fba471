"""Run every fuzz target for some seconds: `python scripts/fuzz.py SECONDS [NAME…]`.

Each target runs in its own process with a corpus under `tests/fuzz/corpus/` (not committed); a crash fails the command.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUZZ = ROOT / "tests" / "fuzz"


def main() -> int:
    seconds, names = int(sys.argv[1]) if len(sys.argv) > 1 else 60, sys.argv[2:]
    failed = 0
    for target in sorted(FUZZ.glob("fuzz_*.py")):
        if names and target.stem not in names:
            continue
        corpus = FUZZ / "corpus" / target.stem
        corpus.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, target, str(corpus), f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT / "build" if (ROOT / "build").is_dir() else None,
        )
        runs = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
        print(f"{target.stem}: {runs[-1] if runs else 'no run'}, {len(list(corpus.iterdir()))} inputs kept")
        if done.returncode:
            failed += 1
            print(done.stderr[-4000:], file=sys.stderr)
    print(f"{failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
