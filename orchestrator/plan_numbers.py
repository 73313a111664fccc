"""Numbers of a plan, as JSON has them: true is not 1, and text that looks like a number is text; pure."""

from pydantic import BeforeValidator


def _is_number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError(f"{value!r} is no number")
    return value


# In front of what a number may be. The last one in an `Annotated`, or the schema loses the bounds before it.
NUMBER = BeforeValidator(_is_number)
