"""Fills the typed answer of a role that nobody wrote rules for: valid, cautious, and plainly empty."""

from collections.abc import Mapping
from typing import Any

from chargehand.workers.offline import NOTICE
from chargehand.workers.offline.conversation import Conversation
from chargehand.workers.offline.policies.moves import Move

# Deep enough for any sane answer; a schema that refers to itself ends here.
MAX_DEPTH = 8
# Of several allowed words, one that decides nothing.
UNDECIDED = ("unsure", "unknown", "needs_person", "undecided", "none", "other", "not_found")


def fill(conversation: Conversation) -> Move:
    """The smallest value that the finish tool's schema accepts."""
    schema = conversation.tools["submit_result"]
    value = smallest(schema, schema, MAX_DEPTH)
    return Move(
        says="No rules exist for this role: the answer is the smallest valid one and decides nothing.",
        calls=(("submit_result", value if isinstance(value, dict) else {}),),
    )


def smallest(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    """A minimal value of a JSON schema."""
    if depth <= 0:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return smallest(_resolve(reference, root), root, depth - 1)
    if "default" in schema:
        return schema["default"]
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        options = list(schema["enum"])
        return next((word for word in UNDECIDED if word in options), options[0])
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            options = list(schema[union])
            if any(option.get("type") == "null" for option in options):
                return None
            return smallest(options[0], root, depth - 1)
    if schema.get("allOf"):
        return smallest(schema["allOf"][0], root, depth - 1)
    return _of_type(schema, root, depth)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        return {name: smallest(properties.get(name) or {}, root, depth - 1) for name in required}
    if kind == "array":
        return [smallest(schema.get("items") or {}, root, depth - 1) for _ in range(int(schema.get("minItems") or 0))]
    if kind == "boolean":
        return False
    if kind in ("integer", "number"):
        lowest = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        lifted = lowest + 1 if "exclusiveMinimum" in schema and "minimum" not in schema else lowest
        return max(lifted, 0) if "maximum" not in schema or schema["maximum"] >= 0 else schema["maximum"]
    return NOTICE


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    node: Any = root
    for part in reference.removeprefix("#/").split("/"):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return node if isinstance(node, dict) else {}
