"""The JSON Schema of plans, for editors: `python -m chargehand.orchestrator.plan_schema` prints it."""

import ast
import inspect
import json
import sys
from typing import Any

from chargehand.orchestrator import plan
from chargehand.orchestrator.plan import Plan

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "A plan of Chargehand"


def plan_schema() -> dict[str, Any]:
    """The schema of a plan file, made from the models, with what the code says about each field."""
    schema = Plan.model_json_schema()
    said = _docstrings()
    models = {**schema["$defs"], "Plan": schema}
    for name, model in models.items():
        for field, described in model.get("properties", {}).items():
            # Titles that repeat the name are noise in an editor.
            described.pop("title", None)
            text = said.get((name, field)) or models.get(field.capitalize(), {}).get("description")
            if text:
                described["description"] = text
        model.pop("title", None)
    return {"$schema": DIALECT, "title": TITLE, **schema}


def schema_text() -> str:
    """The schema as the file that is published."""
    return json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n"


def _docstrings() -> dict[tuple[str, str], str]:
    """The text below each field of the models, by class and field."""
    said: dict[tuple[str, str], str] = {}
    for model in ast.parse(inspect.getsource(plan)).body:
        if not isinstance(model, ast.ClassDef):
            continue
        for field, after in zip(model.body, model.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                said[(model.name, field.target.id)] = inspect.cleandoc(str(after.value.value))
    return said


if __name__ == "__main__":
    sys.stdout.write(schema_text())
