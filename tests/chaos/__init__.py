"""A machine that is broken on purpose, a counter outside it, and a checker that compares the two.

`make chaos SEED=1 STEPS=200` runs it long; the system tests use the same parts.
"""
