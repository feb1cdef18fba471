"""capsule (see docs/architecture.md)."""
