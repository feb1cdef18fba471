"""`python -m benchmarks [GROUP…]`: all groups, or the named ones; JSON lines on standard output.

Rows are also kept in `benchmarks/out/rows.jsonl`, and drawn against their bars in `benchmarks/out/bars.png`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.bars import BARS, draw, margin
from benchmarks.harness import OUT, progress

HERE = Path(__file__).parent
SEVERAL = {
    "attest": ["attest", "attest_snp", "attest_nitro", "attest_gpu", "attest_tpm"],
    "broker": ["broker", "broker_failover", "broker_rotation"],
    "channel": ["channel", "throughput"],
    "mpc": ["mpc_kernels", "mpc", "mpc_distill"],
    "proof": ["proof", "proof_models", "proof_audit", "proof_zk", "proof_growth", "proof_bits"],
    "train": ["train", "transcript"],
    "serve": ["serve", "serve_adapter", "serve_fingerprints"],
}  # groups whose rows come from several modules


def main() -> int:
    modules = sorted({path.stem for path in HERE.glob("[a-z]*.py")} - {"harness", "bars"})
    wanted = [module for name in sys.argv[1:] for module in SEVERAL.get(name, [name])] or modules
    unknown = sorted(set(wanted) - set(modules))
    if unknown:
        progress(f"there is no group {unknown[0]!r}; the groups are: {', '.join(modules)}")
        return 2
    rows: list[dict[str, object]] = []
    failed = 0
    for module in wanted:
        progress(f"== {module}")
        command = [sys.executable, "-m", f"benchmarks.{module}"]
        with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                print(line, end="", flush=True)
                rows.append(json.loads(line))
        failed += child.returncode != 0
    OUT.mkdir(exist_ok=True)
    (OUT / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        if row["name"] in BARS:
            progress(f"{row['name']:<24} {margin(row):6.2f} × its bar ({BARS[str(row['name'])].text})")
    draw(rows, OUT / "bars.png")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
