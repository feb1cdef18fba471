"""`python -m benchmarks [GROUP…]`: all groups, or the named ones; JSON lines on standard output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.harness import progress

HERE = Path(__file__).parent
ALIASES = {"channel": ["channel", "throughput"]}  # a group whose rows are measured by several modules


def main() -> int:
    modules = sorted({p.stem for p in HERE.glob("[a-z]*.py")} - {"harness"})
    wanted = [module for name in sys.argv[1:] for module in ALIASES.get(name, [name])] or modules
    failed = 0
    for module in wanted:
        if module not in modules:
            progress(f"there is no group {module!r}; the groups are: {', '.join(modules)}")
            return 2
        progress(f"== {module}")
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], cwd=HERE.parent, check=False)
        failed += done.returncode != 0
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
