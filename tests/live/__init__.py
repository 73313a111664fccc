"""Smoke tests against a real server, for whoever has a key: `make live`."""
