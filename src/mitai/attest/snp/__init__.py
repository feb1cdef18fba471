"""AMD SEV-SNP: reports of Milan, Genoa and Turin, signed by a chip's VCEK or a cloud's VLEK."""

from mitai.attest.snp.report import Report, parse_report
from mitai.attest.snp.roots import Trust
from mitai.attest.snp.rules import SnpRules, SnpTcb
from mitai.attest.snp.vek import Vek, verify_endorsements
from mitai.attest.snp.verify import appraise

__all__ = ["Report", "SnpRules", "SnpTcb", "Trust", "Vek", "appraise", "parse_report", "verify_endorsements"]
