"""Benchmarks: one module a group, one JSON line a row; see README.md."""
