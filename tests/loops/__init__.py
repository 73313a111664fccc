"""Labelled traces of agents that loop and of agents that work: made from seeds, kept in `tests/data/loops/`."""
