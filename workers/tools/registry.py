"""Tools: typed functions that a model may call, and the rules under which one call is run.

Not covered here: a tool that runs in this process is not killed at its time-out (threads cannot be). A tool that does
CPU-bound work, or takes a pattern from a model, has to use a subprocess and pass on `ToolContext.timeout_seconds`.
"""

import inspect
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Literal, get_type_hints
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError, create_model

from chargehand.memory.git import StorageFull
from chargehand.orchestrator.errors import Fenced, NewerVersion, Unavailable
from chargehand.orchestrator.facts import ToolFinished
from chargehand.orchestrator.outputs import refuse_namesake
from chargehand.orchestrator.plan import Plan, PlanPatch, Pool, Step
from chargehand.orchestrator.storable import storable
from chargehand.workers.models.interface import Block, tool_definition
from chargehand.workers.scripts.registry import Effect, Workspace
from chargehand.workers.tools.outside import is_outside
from chargehand.workers.tools.schemas import closed_schema, is_closed

if TYPE_CHECKING:
    from chargehand.workers.blackboard import Blackboard

log = logging.getLogger(__name__)

# About 16k tokens: more drowns the conversation, and the model can ask for the next part.
DEFAULT_OUTPUT_CAP_BYTES = 48_000
DEFAULT_TIMEOUT_SECONDS = 30.0
# The parameter that a tool names to get its key; it never appears in the schema.
KEY_PARAMETER = "idempotency_key"


class ToolRetry(Exception):
    """Raised by a tool to tell the model what to do differently; the message is shown to it as it is."""


class Suspended(Exception):
    """Raised by a tool that leaves its answer to a colleague: the step waits for the child, and holds no worker."""

    def __init__(self, *, child: Step, choice: Literal["answer", "override"]) -> None:
        """`choice`: whether what the child gives answers the call, or is the step's own result."""
        super().__init__(f"waits for {child.key}")
        self.child, self.choice = child, choice


class Question(Exception):
    """Raised by a tool that leaves its answer to a person: the step waits, and holds no worker."""

    def __init__(self, text: str, *, options: tuple[str, ...], unanswered: str, wants_fix: bool = False) -> None:
        """`unanswered`: the option that is taken when nobody answers.

        `wants_fix`: the answer has to be a repair of one line, see `orchestrator.line_fixes`.
        """
        super().__init__(text)
        self.text, self.options, self.unanswered, self.wants_fix = text, options, unanswered, wants_fix


@dataclass(frozen=True, kw_only=True, slots=True)
class Colleague:
    """A role that may be asked."""

    pool: Pool
    output: str
    """What it hands in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolContext:
    """What a tool may see and touch of its run; a parameter of this type is injected."""

    run_id: UUID
    step_id: UUID
    step_key: str
    arguments: Mapping[str, JsonValue]
    """Those of the step, not of the call."""
    inputs: Mapping[str, JsonValue]
    """Results of the step's predecessors, by key."""
    results: Callable[[str], JsonValue | None]
    """The result of any finished step of this run by its key, or None."""
    open_workspace: Callable[[], Workspace]
    """This attempt's clone, made on first use at the newest recorded commit; later calls give the same one."""
    recall: "Callable[[str, int], str | ToolOutput]"
    """`recall(query, limit)`: passages of the run's index near the query; an output also says what memories it read."""
    plan: Plan | None = None
    """The run's graph, for a tool that extends it."""
    statuses: Mapping[str, str] = field(default_factory=dict)
    """Where the steps of the graph stood when this attempt began, by key."""
    replans: int = 0
    """How often the plan of this run may be changed, all in all."""
    roles: frozenset[str] | None = None
    """Roles a new agent step may have; None: not checked."""
    scripts: frozenset[str] | None = None
    """Scripts a new script step may name; None: not checked."""
    finished: tuple[ToolFinished, ...] = ()
    """What this step's tools gave so far, in order."""
    colleagues: Mapping[str, Colleague] = field(default_factory=dict)
    """Roles that a step of this role may ask, its own among them."""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    """Of the tool that is called."""
    ask_seconds: float = 60.0
    """How long a question that the agent asks waits for a person."""
    blackboard: "Blackboard | None" = None
    """Shared state of the run; None: this program has none."""
    view: Mapping[str, int] = field(default_factory=dict)
    """The versions of shared state that the answer was given on, by key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolOutput:
    """What one call gave back."""

    content: str
    """Shown to the model: JSON of an object or list, or plain text."""
    commit: str | None = None
    """Head of the workspace, after a tool that edits it."""
    reads: tuple[str, ...] = ()
    """What the answer rests on, for example `memory:<id>@<version>`."""
    result: JsonValue = None
    """finish tools: the step's result."""
    patch: PlanPatch | None = None
    """finish tools: what the graph grows by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A registered tool; calling it calls the function."""

    name: str
    description: str
    effect: Effect
    input_model: type[BaseModel]
    function: Callable[..., object]
    timeout_seconds: float
    output_cap_bytes: int
    takes_model: str | None
    """Parameter that gets the whole validated model; None: one parameter a field."""
    context_parameter: str | None
    takes_key: bool
    strict: bool = True
    """Ask the server to check arguments, where the schema allows it."""

    @property
    def definition(self) -> Block:
        """The tool in the Messages format; made once, so not to be changed."""
        return _definition(self)

    def __call__(self, *arguments: object, **named: object) -> object:
        """Call the function as it was written, for tests and scripts."""
        return self.function(*arguments, **named)


@cache
def _definition(tool: Tool) -> Block:
    # A schema takes pydantic half a millisecond, and every turn sends them all.
    schema = closed_schema(tool.input_model, constraints_in_words=tool.strict)
    return tool_definition(
        name=tool.name,
        description=tool.description,
        input_schema=schema,
        strict=tool.strict and is_closed(schema),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """The outcome of one call, as the journal will hold it."""

    outcome: Literal["ok", "error"]
    output: ToolOutput
    error_type: str = ""
    duration_ms: int = 0
    outside: bool = False
    """An outside system did not answer."""


TOOLS: dict[str, Tool] = {}


def tool(
    *,
    effect: Effect,
    name: str | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    output_cap_bytes: int = DEFAULT_OUTPUT_CAP_BYTES,
    input_model: type[BaseModel] | None = None,
) -> Callable[[Callable[..., object]], Tool]:
    """Register a typed function as a tool; its docstring is the description that the model reads.

    Its arguments are described by its signature, or by `input_model`, which the first parameter that is not injected
    then receives whole. A `ToolContext` parameter and `idempotency_key: str` are injected and never shown.
    """

    def register(function: Callable[..., object]) -> Tool:
        made = make_tool(
            function,
            effect=effect,
            name=name,
            timeout_seconds=timeout_seconds,
            output_cap_bytes=output_cap_bytes,
            input_model=input_model,
        )
        known = TOOLS[made.name].function if made.name in TOOLS else None
        refuse_namesake("tool", made.name, known, function, remedy="give one another name")
        TOOLS[made.name] = made
        return made

    return register


def make_tool(
    function: Callable[..., object],
    *,
    effect: Effect,
    name: str | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    output_cap_bytes: int = DEFAULT_OUTPUT_CAP_BYTES,
    input_model: type[BaseModel] | None = None,
    strict: bool = True,
) -> Tool:
    """The tool of a function, without registering it."""
    tool_name = name or function.__name__
    description = inspect.getdoc(function)
    if not description:
        raise TypeError(f"Tool {tool_name!r} has no docstring; the model needs one to know when to call it.")
    hints = get_type_hints(function, include_extras=True)
    context_parameter: str | None = None
    takes_key = False
    fields: dict[str, tuple[object, object]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise TypeError(f"Tool {tool_name!r} takes *{parameter.name}; name each argument.")
        if parameter.name not in hints:
            raise TypeError(f"Parameter {parameter.name!r} of tool {tool_name!r} has no type; annotate it.")
        if hints[parameter.name] is ToolContext:
            context_parameter = parameter.name
        elif parameter.name == KEY_PARAMETER:
            takes_key = True
        else:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
    if input_model is not None and len(fields) != 1:
        raise TypeError(f"Tool {tool_name!r} has an input model and {len(fields)} parameters for it; have one.")
    return Tool(
        name=tool_name,
        description=description,
        effect=effect,
        input_model=input_model or _model_of(tool_name, fields),
        function=function,
        timeout_seconds=timeout_seconds,
        output_cap_bytes=output_cap_bytes,
        takes_model=next(iter(fields)) if input_model is not None else None,
        context_parameter=context_parameter,
        takes_key=takes_key,
        strict=strict,
    )


def _model_of(tool_name: str, fields: Mapping[str, tuple[object, object]]) -> type[BaseModel]:
    definitions: dict[str, object] = dict(fields)
    model: type[BaseModel] = create_model(  # type: ignore[call-overload]
        f"{tool_name}_arguments", __config__=ConfigDict(extra="forbid", frozen=True), **definitions
    )
    return model


def run_tool(chosen: Tool, arguments: JsonValue, *, context: ToolContext, idempotency_key: str) -> ToolResult:
    """Validate the arguments, call the function, cap its output; whatever goes wrong becomes text for the model.

    `Fenced`, `Unavailable`, `NewerVersion`, `StorageFull`, `Suspended` and `Question` come through: they stop the step,
    and no model can help.
    """
    started = time.monotonic()

    def failed(error_type: str, message: str, *, outside: bool = False) -> ToolResult:
        output = ToolOutput(content=_capped(storable(message), chosen.output_cap_bytes))
        return ToolResult(
            outcome="error", output=output, error_type=error_type, duration_ms=_since(started), outside=outside
        )

    try:
        values = chosen.input_model.model_validate(arguments)
    except ValidationError as error:
        return failed("InvalidArguments", describe_invalid(chosen.name, error))
    try:
        given = chosen.function(**_call_arguments(chosen, values, context, idempotency_key))
    except ToolRetry as retry:
        return failed("ToolRetry", str(retry))
    except (Fenced, Unavailable, NewerVersion, StorageFull, Suspended, Question):
        raise
    except Exception as error:  # whatever a tool raises, the model can go on without it
        # The message may hold a path or a secret of this machine: it goes to the log, the model sees the type.
        log.warning("tool failed", extra={"tool": chosen.name, "step_id": str(context.step_id)}, exc_info=True)
        kind = type(error).__name__
        told = f"The tool failed with {kind}. Calling it again in the same way will hardly help."
        return failed(kind, told, outside=is_outside(error))
    output = _as_output(given)
    content = _capped(storable(output.content), chosen.output_cap_bytes)
    return ToolResult(outcome="ok", output=replace(output, content=content), duration_ms=_since(started))


def describe_invalid(tool_name: str, error: ValidationError) -> str:
    """What is wrong with the arguments of a call, for the model."""
    lines = [
        f"- {'.'.join(str(part) for part in detail['loc']) or 'arguments'}: {detail['msg']}"
        for detail in error.errors(include_url=False, include_context=False, include_input=False)[:20]
    ]
    return "\n".join([f"The arguments of {tool_name} are not valid; correct them and call it again:", *lines])


def _call_arguments(chosen: Tool, values: BaseModel, context: ToolContext, idempotency_key: str) -> dict[str, object]:
    named: dict[str, object]
    if chosen.takes_model is not None:
        named = {chosen.takes_model: values}
    else:
        named = {field: getattr(values, field) for field in type(values).model_fields}
    if chosen.context_parameter is not None:
        named[chosen.context_parameter] = replace(context, timeout_seconds=chosen.timeout_seconds)
    if chosen.takes_key:
        named[KEY_PARAMETER] = idempotency_key
    return named


_ANYTHING: TypeAdapter[object] = TypeAdapter(object)


def _as_output(given: object) -> ToolOutput:
    if isinstance(given, ToolOutput):
        return given
    if isinstance(given, str):
        return ToolOutput(content=given)
    if given is None:
        return ToolOutput(content="done")
    value = _ANYTHING.dump_python(given, mode="json")
    return ToolOutput(content=json.dumps(value, ensure_ascii=False, separators=(",", ":")), result=value)


def _capped(text: str, cap_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= cap_bytes:
        return text
    kept = encoded[:cap_bytes].decode("utf-8", "ignore")
    return f"{kept}\n… truncated ({len(encoded) - len(kept.encode())} bytes)"


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
