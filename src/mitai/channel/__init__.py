"""channel (see docs/architecture.md)."""
