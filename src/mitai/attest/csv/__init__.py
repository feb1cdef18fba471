"""Hygon CSV (China Secure Virtualization): attestation reports in, what the secure processor measured out.

The checks, in order and with their codes, are in `docs/spec/evidence-csv.md`.
"""

from mitai.attest.csv.report import Report, parse_report
from mitai.attest.csv.rules import CsvRules
from mitai.attest.csv.verify import appraise

__all__ = ["CsvRules", "Report", "appraise", "parse_report"]
