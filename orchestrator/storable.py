"""Text and JSON as Postgres can hold them: no NUL, no half of a surrogate pair, no NaN and no infinity; pure.

What a script, a tool or a model gave is made storable: it has happened, and must not be lost for a character. What
somebody asks for is refused instead: they can still mend it.
"""

import json
import math

from pydantic import JsonValue

from chargehand.orchestrator.errors import UserError


def storable(text: str) -> str:
    """The text as UTF-8 and Postgres can hold it: lone surrogates become escapes, NUL its picture."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\u2400")


def storable_json(value: JsonValue) -> JsonValue:
    """The same value, each of its texts storable."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(name): storable_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [storable_json(inner) for inner in value]
    return value


def unstorable(value: object) -> str | None:
    """What in the value cannot be stored, in words that end a sentence with a remedy; None: nothing."""
    if isinstance(value, str):
        if storable(value) == value:
            return None
        kind = "a NUL character" if "\x00" in value else "half of a surrogate pair"
        return f"{kind} in {value[:80]!a}; leave it out"
    if isinstance(value, float) and not math.isfinite(value):
        return f"the number {value}, which JSON does not have; give a finite one"
    if isinstance(value, dict):
        return next((found for pair in value.items() for one in pair if (found := unstorable(one))), None)
    if isinstance(value, list | tuple):
        return next((found for one in value if (found := unstorable(one))), None)
    return None


def as_answer(body: object) -> JsonValue:
    """What somebody answered, as plain JSON; raises `UserError` for what cannot be that."""
    try:
        wrong = unstorable(body)
        plain: JsonValue = json.loads(json.dumps(body))
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(body).__name__
        raise UserError(f"The answer is a {kind} that is not JSON ({error}); give JSON values.") from error
    if wrong is not None:
        raise UserError(f"The answer has {wrong}.")
    return plain
