"""The scripts and tools of users: modules that settings name, and entry points of installed packages.

A module of `CHARGEHAND_MODULES` that cannot be imported ends the process: somebody has named it for this one. A package
may be there for whatever reason: what is wrong with it is told, and takes down nothing else.
"""

import importlib
import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from chargehand.orchestrator.offers import ENTRY_POINT_GROUPS
from chargehand.orchestrator.settings import Settings
from chargehand.workers.scripts.registry import Script
from chargehand.workers.tools.registry import Tool

log = logging.getLogger(__name__)

# What an entry point of each group is; a module stands for whatever it registers when it is imported.
GROUPS: dict[str, tuple[type[Any], str]] = dict(
    zip(ENTRY_POINT_GROUPS, ((Script, "a function under @script"), (Tool, "a function under @tool")), strict=True)
)


def load_user_code(settings: Settings) -> tuple[str, ...]:
    """Import the user's modules and load the packages' entry points; gives what is wrong with those, one line each."""
    for module in settings.modules:
        importlib.import_module(module)
    return load_entry_points(found for group in GROUPS for found in entry_points(group=group))


def load_entry_points(found: Iterable[EntryPoint]) -> tuple[str, ...]:
    """Load each, and tell what is wrong with those that cannot be."""
    wrong = []
    # In an order that does not depend on the disk: of two packages with one name, always the same is refused.
    for one in sorted(found, key=lambda point: (point.group, _package(point), point.name)):
        problem = _problem(one)
        if problem is not None:
            what = f"{_package(one)} has a broken entry point: {one.name} = {one.value!r} of {one.group}: {problem}"
            log.error("broken entry point", extra={"package": _package(one), "entry_point": one.name, "why": problem})
            wrong.append(what)
    return tuple(wrong)


def _problem(one: EntryPoint) -> str | None:
    kind, written = GROUPS[one.group]
    try:
        loaded = one.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's module may raise anything
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(loaded, kind | ModuleType):
        return None
    return f"that is a {type(loaded).__name__}, not {written} or a module"


def _package(one: EntryPoint) -> str:
    return f"package {one.dist.name} {one.dist.version}" if one.dist is not None else "a package without a name"
