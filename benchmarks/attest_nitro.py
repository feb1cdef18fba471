"""Verifying Nitro documents, CCA tokens and CSV reports, with all chains and with the chains already verified.

Rows: `attest-nitro-ms`, `attest-nitro-cached-ms`, `attest-nitro-new-leaf-ms` (the chain of CAs is known, the enclave is
not), and `attest-cca-…`, `attest-csv-…` of the first two kinds. The evidence is made by the tests' own hypervisor,
platform and secure processor: certificates and fields as those of the vendors. There is no peer in Python.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import interleave, milliseconds, progress, row
from mitai.attest.cache import VerifiedCache

sys.path.append(str(Path(__file__).parents[1] / "tests"))

RUNS = 30


def rows(measures: dict[str, Callable[[], object]]) -> None:
    """Measure in turn and print a row each."""
    progress(f"verifying: {', '.join(measures)}")
    samples = interleave(RUNS, *(milliseconds(work) for work in measures.values()))
    for name, collected in zip(measures, samples, strict=True):
        row(name, collected, "ms")


def bench_nitro() -> None:
    """Print the rows of Nitro."""
    from attest_nitro_lab import Lab

    lab = Lab.build()
    document, cache, small = lab.document(), VerifiedCache(), VerifiedCache(entries=2)
    others = [lab.document(certificate=lab.certificate("leaf")) for _ in range(2)]

    def new_leaf() -> None:
        """Appraise two enclaves in turn with a cache that remembers the CAs and one leaf only: the other one's."""
        others.reverse()
        lab.appraise(others[0], cache=small)

    rows(
        {
            "attest-nitro-ms": lambda: lab.appraise(document),
            "attest-nitro-cached-ms": lambda: lab.appraise(document, cache=cache),
            "attest-nitro-new-leaf-ms": new_leaf,
        }
    )


def bench_cca() -> None:
    """Print the rows of CCA."""
    import attest_cca_lab as lab

    token, rules, cache = lab.token(), lab.rules(), VerifiedCache()
    rows(
        {
            "attest-cca-ms": lambda: lab.check(token, rules),
            "attest-cca-cached-ms": lambda: lab.check(token, rules, cache=cache),
        }
    )


def bench_csv() -> None:
    """Print the rows of CSV."""
    import attest_csv_lab as lab

    report, cache = lab.report(), VerifiedCache()
    rows(
        {
            "attest-csv-ms": lambda: lab.check(report),
            "attest-csv-cached-ms": lambda: lab.check(report, cache=cache),
        }
    )


def main() -> None:
    """Print all rows."""
    for bench in (bench_nitro, bench_cca, bench_csv):
        bench()


if __name__ == "__main__":
    main()
