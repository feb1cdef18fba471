"""Answers whose trace is committed to, and audited on demand without the weights (docs/spec/audit.md)."""
