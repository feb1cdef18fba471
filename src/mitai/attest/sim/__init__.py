"""Simulated hardware: for development, demonstrations and tests, never for secrets.

It issues quotes that the ordinary verifier checks against a root of its own; what it can't do is prove anything about
hardware.
"""

from mitai.attest.sim.measure import Workload, event_log, installed_workload, reference_values, registers
from mitai.attest.sim.platform import SimAttester, SimPlatform

__all__ = ["SimAttester", "SimPlatform", "Workload", "event_log", "installed_workload", "reference_values", "registers"]
