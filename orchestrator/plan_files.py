"""Plans as data: read from YAML or JSON with the place of what is wrong, and written so that the same plan is read.

Scalars are those of JSON, in YAML too: `true`, `false`, `null` and numbers; everything else is text. So `yes` and `no`
are labels like any other, and `2026-01-01` is no date.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import Branch, CeleryTask, Expiry, Map, Merge, Plan, Repeat, Step, validate

# A plan of 2,000 steps with instructions is a few megabytes; more is another file.
MAX_PLAN_BYTES = 32_000_000
# A body in a body in a body, with arguments of objects in lists, is some thirty deep.
MAX_DEPTH = 100
# A wrong value that is longer is found by its line.
MAX_SHOWN = 60
LINE_WIDTH = 110

Place = tuple[str | int, ...]
"""Names of fields and numbers of list items that lead to a value."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)\Z")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_TEXT = "tag:yaml.org,2002:str"
_ODD_ENDS = re.compile("[\r\x85\u2028\u2029\ufeff]")
# libyaml reads ten times as fast, where it is there.
_Loader: type[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_MODELS: dict[str, type[BaseModel]] = {
    "steps": Step, "body": Step, "branch": Branch, "map": Map, "repeat": Repeat, "merge": Merge,
    "celery_task": CeleryTask,
    "expires": Expiry,
}  # fmt: skip
_REMEDIES = {
    "missing": "add it",
    "string_type": "give a text; quotes make one of a number",
    "tuple_type": "give a list, as in [a, b]",
    "model_type": "give its fields",
    "dict_type": "give names and values",
}


def load_plan(file: str | Path, *, roles: Set[str] | None = None) -> Plan:
    """The plan in a YAML or JSON file; raises `InvalidPlan` with file, line, field and remedy of the first mistake.

    `roles`: the names that agents may have; None skips that check.
    """
    path = Path(file)
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise InvalidPlan(f"Plan {path} is larger than {MAX_PLAN_BYTES // 1_000_000} MB; split the work.")
        text = path.read_bytes().decode()
    except OSError as error:
        raise InvalidPlan(f"Plan {path} cannot be read ({error.strerror}); name a YAML or JSON file.") from error
    except UnicodeDecodeError as error:
        raise InvalidPlan(f"Plan {path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from error
    return parse_plan(text, roles=roles, origin=str(path))


def parse_plan(text: str, *, roles: Set[str] | None = None, origin: str = "plan") -> Plan:
    """The plan that the text spells; `origin` names it in errors. Raises `InvalidPlan`."""
    document = _read(text, origin)
    try:
        plan = Plan.model_validate(document.value)
    except ValidationError as error:
        raise InvalidPlan(_first_mistake(document, error)) from error
    try:
        validate(plan, roles=roles)
    except InvalidPlan as error:
        place = _place_of(plan.steps, error.steps)
        raise InvalidPlan(f"{document.at(place)}: {error}", steps=error.steps) from error
    return plan


def dump_plan(plan: Plan) -> str:
    """The plan as YAML, without what goes without saying; `parse_plan` gives the same plan."""
    steps = [step.model_dump(mode="json", exclude_defaults=True) for step in plan.steps]
    return yaml.dump({"steps": steps}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=LINE_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_scalar` would take for a number, and shows texts of several lines as they are."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-0123456789"))
_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(_TEXT, text, style=_style(text)))


def _style(text: str) -> str | None:
    """Block for several lines, quotes where YAML sees ends of lines that others do not."""
    return '"' if _ODD_ENDS.search(text) else "|" if "\n" in text else None


# --- reading ----------------------------------------------------------------------------------------------------------


class _Document:
    """What a text spells, and in which line."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.value: JsonValue = None
        self.lines: dict[Place, int] = {}

    def at(self, place: Place) -> str:
        """`plan.yaml:12`, of the nearest thing around the place that has a line."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.origin}:{self.lines[place]}" if place in self.lines else self.origin


def _read(text: str, origin: str) -> _Document:
    document = _Document(origin)
    is_json = text.lstrip()[:1] == "{"
    if is_json:
        try:
            document.value = json.loads(text, parse_constant=_no_constant)
        except RecursionError as error:
            raise InvalidPlan(f"{origin}: the plan nests too deeply; a plan is a list of steps.") from error
        except json.JSONDecodeError as error:
            if origin.endswith(".json"):
                raise InvalidPlan(f"{origin}:{error.lineno}: not JSON: {error.msg}; correct it there.") from error
            is_json = False
        except ValueError as error:
            raise InvalidPlan(f"{origin}: not JSON: {error}; give a number.") from error
    try:
        # JSON has tabs between values only, and YAML has none there.
        value = _take(document, yaml.parse(text.replace("\t", " ") if is_json else text, Loader=_Loader))
    except yaml.YAMLError as error:
        if not is_json:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark is not None else ""
            problem = " ".join(str(getattr(error, "problem", None) or error).split())
            raise InvalidPlan(f"{origin}{line}: not YAML: {problem}; correct it there.") from error
    else:
        if not is_json:
            document.value = value
    if document.value is None:
        raise InvalidPlan(f"{origin}: the plan is empty; write `steps:` and a list of them.")
    return document


class _Open(NamedTuple):
    """A list or an object whose end has not come yet."""

    place: Place
    value: list[JsonValue] | dict[str, JsonValue]
    names: list[str]
    """An object's name that waits for its value."""


def _take(document: _Document, events: Iterable[Any]) -> JsonValue:
    """The value of a stream of YAML events; remembers its lines.

    Event by event: libyaml's own tree of nodes recurses, and a hundred thousand brackets would end the process.
    """
    trail: list[_Open] = []
    found: JsonValue = None
    count = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            count += 1
            if count > 1:
                _refuse(document, event, "stands beside another one", "give each plan its own file")
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            _refuse(document, event, f"has the anchor {event.anchor!r}", "write out what it stands for")
        elif isinstance(event, yaml.CollectionEndEvent):
            trail.pop()
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag not in (None, "!"):
                _refuse(document, event, f"has the tag {event.tag!r}", "remove it")
            if trail and isinstance(trail[-1].value, dict) and not trail[-1].names:
                _name(document, event, trail[-1])
                continue
            value: JsonValue
            if isinstance(event, yaml.ScalarEvent):
                value = _scalar(event.value) if event.implicit[0] else str(event.value)
            else:
                value = {} if isinstance(event, yaml.MappingStartEvent) else []
            place = _put(value, trail)
            document.lines.setdefault(place, _line(event))
            if not trail:
                found = value
            if isinstance(value, list | dict):
                if len(place) > MAX_DEPTH:
                    _refuse(document, event, "nests too deeply", "a plan is a list of steps")
                trail.append(_Open(place, value, []))
    return found


def _name(document: _Document, event: Any, within: _Open) -> None:
    """Take the name of an object's next value."""
    if not isinstance(event, yaml.ScalarEvent):
        _refuse(document, event, "has a list or an object for a name", "give a text")
    if event.value in within.value:
        _refuse(document, event, f"says {event.value!r} twice", "remove one of them")
    within.names.append(str(event.value))
    document.lines[(*within.place, event.value)] = _line(event)


def _put(value: JsonValue, trail: Sequence[_Open]) -> Place:
    """Put the value where it belongs; gives the place."""
    if not trail:
        return ()
    within = trail[-1]
    if isinstance(within.value, dict):
        name = within.names.pop()
        within.value[name] = value
        return (*within.place, name)
    within.value.append(value)
    return (*within.place, len(within.value) - 1)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _refuse(document: _Document, event: Any, problem: str, remedy: str) -> NoReturn:
    raise InvalidPlan(f"{document.origin}:{_line(event)}: the plan {problem}; {remedy}.")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _scalar(text: str) -> JsonValue:
    """What a text without quotes stands for."""
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.match(text) and len(text) < 40:
        return int(text)
    return float(text) if _NUMBER.match(text) else text


# --- what is wrong, and where -----------------------------------------------------------------------------------------


def _first_mistake(document: _Document, error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    problem = problems[0]
    place: Place = problem["loc"]
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    what, remedy = problem["msg"], _REMEDIES.get(problem["type"], "correct it")
    if problem["type"] == "extra_forbidden":
        what, remedy = "there is no such field", _nearest_field(place)
    elif isinstance(given := problem["input"], str | int | float) and len(repr(given)) <= MAX_SHOWN:
        what = f"{what}, not {given!r}"
    end = "" if remedy.endswith("?") else "."
    return f"{document.at(place)}: {_name_of(document.value, place)}: {what}; {remedy}{end}{more}"


def _nearest_field(place: Place) -> str:
    around = next((_MODELS[part] for part in reversed(place[:-1]) if part in _MODELS), Plan)
    near = get_close_matches(str(place[-1]), around.model_fields, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(around.model_fields)}"


def _name_of(value: JsonValue, place: Place) -> str:
    """`step 'each', body step 'do', kind`: with the keys of the steps that the place leads through."""
    named: list[str] = []
    field: list[str] = []
    for part, within in zip(place, ("", *place), strict=False):
        value = _inside(value, part)
        if isinstance(part, int) and within in ("steps", "body"):
            key = value.get("key") if isinstance(value, Mapping) else None
            word = "step" if within == "steps" else "body step"
            named.append(f"{word} {key!r}" if isinstance(key, str) else f"{word} number {part + 1}")
            field = []
        elif part not in ("steps", "body"):
            field.append(str(part))
    return ", ".join([*named, *([".".join(field)] if field else [])]) or ("steps" if place else "the plan")


def _inside(value: JsonValue, part: str | int) -> JsonValue:
    if isinstance(value, Mapping) and isinstance(part, str):
        return value.get(part)
    return value[part] if isinstance(value, Sequence) and isinstance(part, int) and part < len(value) else None


def _place_of(steps: Sequence[Step], keys: Sequence[str]) -> Place:
    """Where the step is to which the keys lead."""
    place: Place = ("steps",)
    for key in keys:
        number, step = next(((number, step) for number, step in enumerate(steps) if step.key == key), (0, None))
        if step is None:
            break
        place = (*place, number)
        if key != keys[-1]:
            place = (*place, step.kind, "body")
        steps = step.body
    return place
