"""Settings for every test: property tests must not fail because a machine is busy."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("mitai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mitai")
