"""attest (see docs/architecture.md)."""
