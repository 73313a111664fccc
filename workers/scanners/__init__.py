"""Analysers of source code, each run as a process of its own: they read the repository and run none of it."""
