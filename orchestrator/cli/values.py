"""JSON that is typed on the command line."""

import json
from collections.abc import Sequence

from pydantic import JsonValue

from chargehand.orchestrator.cli.terminal import one_line
from chargehand.orchestrator.errors import UserError


def parse_json(typed: str, *, option: str) -> JsonValue:
    """The value that was typed; raises `UserError`."""
    try:
        value: JsonValue = json.loads(typed, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        shown = one_line(typed, 80)
        raise UserError(
            f"{option} {shown!r} is not JSON ({error}); quote it, for example {option} '\"text\"'."
        ) from error
    return value


def parse_pairs(typed: Sequence[str], *, option: str) -> dict[str, JsonValue]:
    """Each `KEY=JSON` by its key; raises `UserError`."""
    pairs: dict[str, JsonValue] = {}
    for one in typed:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise UserError(f"{option} {one_line(one, 80)!r} is no pair; write it as KEY=JSON.")
        pairs[key] = parse_json(value, option=f"{option} {key}=")
    return pairs


def _refuse(constant: str) -> JsonValue:
    # Python reads NaN and Infinity, Postgres does not keep them.
    raise ValueError(f"{constant} is not JSON")
