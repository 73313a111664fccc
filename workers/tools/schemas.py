"""JSON schemas of tool arguments as the Messages format takes them: closed, without titles, constraints in words."""

from collections.abc import Mapping

from pydantic import BaseModel, JsonValue

# Servers refuse or ignore these; pydantic checks them here, and the model reads them in the description.
_IN_WORDS: Mapping[str, str] = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matching {}",
}


def closed_schema(model: type[BaseModel], *, constraints_in_words: bool = True) -> dict[str, JsonValue]:
    """The schema of a model with every object closed, unless it is a free-form mapping.

    `constraints_in_words`: limits such as `minLength` go into descriptions, because a strict server refuses them.
    """
    schema = _cleaned(model.model_json_schema(), moved=_IN_WORDS if constraints_in_words else {})
    if not isinstance(schema, dict):
        raise TypeError(f"{model.__name__} has no object schema; give a tool named arguments.")
    schema.setdefault("additionalProperties", False)
    schema.setdefault("properties", {})
    return schema


def is_closed(schema: JsonValue) -> bool:
    """Whether no object of the schema takes unknown fields, so that a server may check it strictly."""
    if isinstance(schema, list):
        return all(is_closed(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return False
    # An empty schema means "any JSON": nothing that can be checked.
    nested = [value for key, value in schema.items() if key in ("properties", "$defs") and isinstance(value, dict)]
    if any(inner == {} for group in nested for inner in group.values()):
        return False
    return all(is_closed(value) for value in schema.values())


def _cleaned(schema: object, *, moved: Mapping[str, str], names: bool = False) -> JsonValue:
    """The schema without noise; `names`: the keys of this object are names of properties, not keywords."""
    if isinstance(schema, list):
        return [_cleaned(item, moved=moved) for item in schema]
    if not isinstance(schema, dict):
        if schema is None or isinstance(schema, str | int | float | bool):
            return schema
        raise TypeError(f"Not a JSON schema: {schema!r}.")
    if names:
        return {name: _cleaned(inner, moved=moved) for name, inner in schema.items()}
    words = [phrase.format(schema[key]) for key, phrase in moved.items() if key in schema]
    kept: dict[str, JsonValue] = {
        key: _cleaned(value, moved=moved, names=key in ("properties", "$defs"))
        for key, value in schema.items()
        if key != "title" and key not in moved
    }
    if words:
        said = str(schema.get("description", ""))
        kept["description"] = f"{said} ({', '.join(words)})".strip()
    if kept.get("type") == "object" and "properties" in kept:
        kept.setdefault("additionalProperties", False)
    return kept
