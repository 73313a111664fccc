"""The typed results that a program's own roles may hand in, by the name under which front matter calls them."""

import re
import sys

from pydantic import BaseModel

# Names of the finish tools that come with Chargehand begin like this.
RESERVED_PREFIX = "submit_"
OUTPUTS: dict[str, type[BaseModel]] = {}

_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def register_output(model: type[BaseModel]) -> str:
    """Let roles end with this model, and give its name: `RefundVerdict` is `refund_verdict`.

    Whoever submits and every worker register it by importing the module that does; raises `TypeError` when another
    model has the name.
    """
    name = _WORD_BEGINS.sub("_", model.__name__.strip("_")).lower()
    if name.startswith(RESERVED_PREFIX):
        raise TypeError(f"Output {model.__name__!r} begins like a tool of Chargehand; rename the class.")
    refuse_namesake("output", name, OUTPUTS.get(name), model, remedy="rename one of the classes")
    OUTPUTS[name] = model
    return name


def refuse_namesake(noun: str, name: str, known: object, new: object, *, remedy: str) -> None:
    """Raise `TypeError` when `name` is taken by something else than an earlier import of the same definition."""
    if known is None or _definition(known) == _definition(new):
        return
    places = " and ".join(str(getattr(one, "__module__", "?")) for one in (known, new))
    raise TypeError(f"There are two definitions of {noun} {name!r}, in {places}; {remedy}.")


def _definition(definition: object) -> tuple[object, object]:
    """Its file and its place in it: the same for a module that is also run as `__main__`, or imported again."""
    module = sys.modules.get(str(getattr(definition, "__module__", "")))
    return getattr(module, "__file__", None), getattr(definition, "__qualname__", None)
