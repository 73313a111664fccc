"""How a step is placed elsewhere: other keys in its arguments and its bodies, and items in place of `$item`; pure.

A body is a room of its own: a key that one of its steps has means that step, and only what is not there is looked for
around it. `$item` is the item of the innermost map around it.
"""

from collections.abc import Callable

from pydantic import JsonValue

from chargehand.orchestrator.plan import ITEM, RESULT_OF, Step

# No item is put in.
_NO_ITEM = object()


def referring(step: Step, placed: Callable[[str], str], *, item: object = _NO_ITEM) -> Step:
    """The step with each result it takes, in its bodies too, taken of the step that `placed` names.

    `item`: a JSON value that takes the place of `$item`; left out, `$item` stays.
    """
    changes: dict[str, object] = {
        "arguments": {name: _filled(value, placed, item) for name, value in step.arguments.items()}
    }
    if step.body:
        own = {inner.key for inner in step.body}

        def around(key: str) -> str:
            return key if key in own else placed(key)

        # The body of a map has an item of its own.
        inner_item = _NO_ITEM if step.map is not None else item
        body = tuple(referring(inner, around, item=inner_item) for inner in step.body)
        if step.map is not None:
            items = _filled(step.map.items, placed, item)
            changes["map"] = step.map.model_copy(update={"items": items, "body": body})
        if step.repeat is not None:
            changes["repeat"] = step.repeat.model_copy(update={"body": body})
    return step.model_copy(update=changes)


def _filled(value: JsonValue, placed: Callable[[str], str], item: object) -> JsonValue:
    if isinstance(value, dict):
        if value.keys() == {ITEM}:
            return value if item is _NO_ITEM else item  # type: ignore[return-value]
        if value.keys() == {RESULT_OF} and isinstance(source := value[RESULT_OF], str):
            return {RESULT_OF: placed(source)}
        return {name: _filled(inner, placed, item) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, placed, item) for inner in value]
    return value
