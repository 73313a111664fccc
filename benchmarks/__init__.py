"""Measurements against the floor of this machine, in the same run; see docs/benchmarks.md."""
