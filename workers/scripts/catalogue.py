"""The scripts that plans may name; importing this module registers them."""

from collections.abc import Mapping
from typing import Any

from chargehand.workers.scripts import answers, consolidate, index, inventory, merging, render, scan, tests, verify
from chargehand.workers.scripts.registry import SCRIPTS, Script

BUILT_IN = (answers, consolidate, index, inventory, merging, render, scan, tests, verify)


def registered_scripts() -> Mapping[str, Script[..., Any]]:
    """Every script by name: ours, and those that the user's modules have registered until now or will."""
    return SCRIPTS
