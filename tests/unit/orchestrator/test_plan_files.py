"""Plans in files: the same plan comes back, and what is wrong is named with its line, its field and the remedy."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from chargehand.orchestrator import plan_files
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.plan import ITEM, RESULT_OF, Branch, Map, Merge, Plan, Repeat, Step
from chargehand.orchestrator.plan_files import dump_plan, load_plan, parse_plan
from chargehand.orchestrator.plan_schema import plan_schema, schema_text

ROOT = Path(__file__).parents[3]


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


EVERY_KIND = Plan.of(
    [
        script("list", retries=2, deadline_seconds=1.5, pool="audit"),
        Step(
            key="each",
            kind="map",
            after=("list",),
            map=Map(
                items={RESULT_OF: "list"},
                body=(script("do", arguments={"file": {ITEM: None}, "label": "yes"}), script("check", "do")),
                max_parallel=3,
                tolerated_failures=1,
            ),
        ),
        Step(
            key="improve",
            kind="repeat",
            after=("each",),
            repeat=Repeat(body=(script("code"), script("test", "code")), until="test", max_rounds=2),
        ),
        Step(
            key="which",
            kind="branch",
            after=("improve",),
            branch=Branch(labels=("yes", "no"), role="chooser", threshold=0.8),
            instruction="Is it safe?\nLook twice.\n",
        ),
        Step(key="ask", kind="gate", after=("which",), when={"which": "no"}, instruction="Sure?", options=("a", "b")),
        Step(
            key="fix", kind="agent", role="coder", pool="coding", after=("which",), when={"which": "yes"}, max_turns=3
        ),
        Step(key="merge", kind="merge", after=("fix", "ask"), merge=Merge(role="coder"), join="any"),
    ]
)


def refusal(text: str, **options: Any) -> str:
    with pytest.raises(InvalidPlan) as refused:
        parse_plan(text, origin="plan.yaml", **options)
    return str(refused.value)


# --- round trip -------------------------------------------------------------------------------------------------------


def test_a_plan_of_every_kind_comes_back_from_yaml_and_from_json() -> None:
    assert parse_plan(dump_plan(EVERY_KIND)) == EVERY_KIND
    for indent in (None, 2, "\t"):
        assert parse_plan(json.dumps(EVERY_KIND.model_dump(mode="json"), indent=indent)) == EVERY_KIND


def test_what_goes_without_saying_is_not_written() -> None:
    assert dump_plan(Plan.of([script("a"), script("b", "a", title="Do\nit")])) == (
        "steps:\n- key: a\n  kind: script\n  script: work\n"
        "- key: b\n  kind: script\n  after:\n  - a\n  title: |-\n    Do\n    it\n  script: work\n"
    )


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
# A file is UTF-8, which has no surrogates; NUL is refused.
held = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
texts = st.text(held) | st.from_regex(r"[-+0-9eE._:~yno]{1,9}", fullmatch=True)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


@given(st.dictionaries(texts, values, max_size=4), texts, texts)
def test_every_argument_and_text_comes_back_from_yaml(
    arguments: dict[str, JsonValue], title: str, instruction: str
) -> None:
    plan = Plan(steps=(script("a", arguments={"value": arguments}, title=title, instruction=instruction),))
    if any(name.startswith("$") for name in arguments):
        return
    assert parse_plan(dump_plan(plan)) == plan


def test_words_that_mean_something_elsewhere_are_text() -> None:
    plan = parse_plan(
        "steps:\n- key: a\n  kind: script\n  script: work\n"
        "  arguments: {yes: no, day: 2026-01-01, at: 12:30, on: off, id: 007, number: 1e3, none: , quoted: '5'}\n"
    )
    assert plan.steps[0].arguments == {
        "yes": "no", "day": "2026-01-01", "at": "12:30", "on": "off", "id": "007", "number": 1000.0, "none": None,
        "quoted": "5",
    }  # fmt: skip


def test_a_file_of_two_thousand_steps_is_read_within_seconds(tmp_path: Path) -> None:
    plan = Plan.of([script(f"s{n}", *([f"s{n - 1}"] if n else []), instruction="Do it.\n" * 20) for n in range(2_000)])
    file = tmp_path / "plan.yaml"
    file.write_text(dump_plan(plan))
    assert load_plan(file) == plan


# --- what is wrong ----------------------------------------------------------------------------------------------------

HEAD = "# a plan\nsteps:\n- key: a\n  kind: script\n  script: work\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "  afer: [b]\n", "plan.yaml:6: step 'a', afer: there is no such field; did you mean 'after'?"),
        (HEAD + "  colour: red\n", "plan.yaml:6: step 'a', colour: there is no such field; there are: key, kind,"),
        (HEAD + "  after: b\n", "plan.yaml:6: step 'a', after: Input should be a valid tuple, not 'b'; give a list"),
        (HEAD + "  title: 5\n", "plan.yaml:6: step 'a', title: Input should be a valid string, not 5; give a text;"),
        (HEAD + "  pool: kitchen\n", "plan.yaml:6: step 'a', pool: Input should be 'research', 'coding' or 'audit'"),
        (HEAD + "  retries: 99\n", "plan.yaml:6: step 'a', retries: Input should be less than or equal to 10, not 99"),
        (HEAD + "- key: b\n", "plan.yaml:6: step 'b', kind: Field required; add it."),
        (HEAD + "- [b]\n", "plan.yaml:6: step number 2: Input should be a valid dictionary"),
        (HEAD + "- key: b\n  kind: agent\n", "plan.yaml:6: Agent step 'b' has no role; name one."),
        (HEAD + "- key: a\n  kind: gate\n", "plan.yaml:3: Step key 'a' is used 2 times"),
        (HEAD + "  after: [c]\n", "plan.yaml:3: Step 'a' depends on unknown step 'c'; add it to the plan."),
        (HEAD + "  key: b\n", "plan.yaml:6: the plan says 'key' twice; remove one of them."),
        (HEAD + "  arguments: &x {}\n", "plan.yaml:6: the plan has the anchor 'x'; write out what it stands for."),
        (HEAD + "  title: !!binary x\n", "plan.yaml:6: the plan has the tag 'tag:yaml.org,2002:binary'; remove it."),
        (HEAD + "  ? [a]\n  : b\n", "plan.yaml:6: the plan has a list or an object for a name; give a text."),
        (HEAD + "  title: 'open\n", "plan.yaml:7: not YAML: found unexpected end of stream"),
        (HEAD + "\ttitle: x\n", "plan.yaml:6: not YAML: found a tab character"),
        (HEAD + "---\nsteps: []\n", "plan.yaml:6: the plan stands beside another one; give each plan its own file."),
        ("", "plan.yaml: the plan is empty; write `steps:` and a list of them."),
        ("- a\n", "plan.yaml:1: the plan: Input should be a valid dictionary"),
        ("steps: []\n", "plan.yaml:1: The plan has no steps; add at least one."),
        ('{"steps": [{"key": "a"}]}', "plan.yaml:1: step 'a', kind: Field required; add it."),
        ('{\n\t"steps": [\n\t\t{"key": "a", "kind": "agent"}]}', "plan.yaml:3: Agent step 'a' has no role"),
        ('{"steps": NaN}', "plan.yaml: not JSON: NaN is no number; give a number."),
        ("- " * 100_000, "plan.yaml:1: the plan nests too deeply"),
        ("[" * 100_000, "plan.yaml:1: the plan nests too deeply"),
        ('{"a":' * 100_000, "the plan nests too deeply"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_its_field_and_the_remedy(text: str, said: str) -> None:
    assert said in refusal(text)


BODY = """steps:
- key: each
  kind: map
  map:
    items: [1]
    body:
    - key: again
      kind: repeat
      repeat:
        until: do
        body:
        - key: do
          kind: agent
          {field}
"""


def test_a_mistake_deep_in_a_body_has_its_own_line() -> None:
    assert refusal(BODY.format(field="rolle: coder")).startswith(
        "plan.yaml:14: step 'each', body step 'again', body step 'do', rolle: there is no such field; "
        "did you mean 'role'?"
    )
    assert refusal(BODY.format(field="title: no role")) == (
        "plan.yaml:12: In the body of 'each': In the body of 'again': Agent step 'do' has no role; name one."
    )


def test_more_mistakes_than_the_first_are_counted() -> None:
    assert refusal(HEAD + "  x: 1\n  y: 2\n  z: 3\n").endswith("(2 more)")


def test_roles_are_known_or_refused() -> None:
    text = HEAD.replace("kind: script\n  script: work", "kind: agent\n  role: wizard")
    assert "plan.yaml:3: Step 'a' has unknown role 'wizard'; known: coder." in refusal(text, roles={"coder"})
    assert parse_plan(text).steps[0].role == "wizard"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidPlan, match=r"absent\.yaml cannot be read \(No such file or directory\)"):
        load_plan(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"steps: \xe4\n")
    with pytest.raises(InvalidPlan, match=r"latin\.yaml is not UTF-8 at byte 7"):
        load_plan(tmp_path / "latin.yaml")
    (tmp_path / "broken.json").write_text('{"steps": [\n{"key": "a",}]}')
    with pytest.raises(InvalidPlan, match=r"broken\.json:2: not JSON"):
        load_plan(tmp_path / "broken.json")
    monkeypatch.setattr(plan_files, "MAX_PLAN_BYTES", 10)
    with pytest.raises(InvalidPlan, match="larger than"):
        load_plan(tmp_path / "broken.json")


# --- schema -----------------------------------------------------------------------------------------------------------


def test_the_published_schema_is_that_of_the_code() -> None:
    published = (ROOT / "docs" / "plan.schema.json").read_text()
    assert published == schema_text(), "python -m chargehand.orchestrator.plan_schema > docs/plan.schema.json"


def test_the_schema_takes_what_the_code_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    written = EVERY_KIND.model_dump(mode="json", exclude_defaults=True)
    assert list(validator.iter_errors(written)) == []
    assert list(validator.iter_errors(EVERY_KIND.model_dump(mode="json"))) == []
    written["steps"][1]["map"]["body"][0]["colour"] = "red"
    assert ["steps", 1, "map"] in [list(error.absolute_path) for error in validator.iter_errors(written)]


WRONG: tuple[JsonValue, ...] = (None, True, -1, 0, 1.5, "", "x", "1", [], ["x"], {}, {"x": 1})
EXAMPLES = sorted((ROOT / "examples" / "plans").glob("*.yaml"))


def places(value: JsonValue, *at: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in a document, all of it."""
    if at:
        yield at
    within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in within:
        yield from places(inner, *at, name)


def changed(document: JsonValue, at: tuple[str | int, ...], *values: JsonValue) -> Any:
    """The document with another value there, or without any."""
    copy: Any = deepcopy(document)
    within = copy
    for name in at[:-1]:
        within = within[name]
    if values:
        within[at[-1]] = values[0]
    else:
        del within[at[-1]]
    return copy


def is_accepted(document: JsonValue) -> bool:
    try:
        parse_plan(json.dumps(document))
    except InvalidPlan:
        return False
    return True


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_whatever_is_accepted_is_within_the_published_schema(file: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "plan.schema.json").read_text()))
    document = yaml.safe_load(file.read_text())
    assert is_accepted(document)
    for at in places(document):
        for one in (changed(document, at), *(changed(document, at, wrong) for wrong in WRONG)):
            # What a schema cannot say, as what steps there are, it may take all the same.
            if is_accepted(one):
                assert list(validator.iter_errors(one)) == [], (at, one)


def test_every_field_of_the_schema_says_what_it_is_for() -> None:
    schema = plan_schema()
    assert schema["$defs"]["Step"]["properties"]["after"]["description"] == "Keys of the steps it waits for."
    fields = [
        (name, field, described.get("description"))
        for name, model in {**schema["$defs"], "Plan": schema}.items()
        for field, described in model.get("properties", {}).items()
    ]
    assert [(name, field) for name, field, text in fields if not text] == []
