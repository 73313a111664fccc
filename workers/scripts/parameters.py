"""What a script takes, read from its signature: checked when a step is written, filled when it runs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_type_hints

from pydantic import JsonValue, PydanticUserError, TypeAdapter, ValidationError

from chargehand.orchestrator.drafts import Parameter, is_known_later
from chargehand.orchestrator.errors import ChargehandError, InvalidPlan
from chargehand.orchestrator.plan import resolved

# The parameter that a script names to get its key; plans never give it.
KEY_PARAMETER = "idempotency_key"


class ArgumentsDoNotFit(ChargehandError):
    """The step's arguments, or results that stand for them, are not what the script takes; trying again is no help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """The parameters of one script."""

    script: str
    adapters: Mapping[str, TypeAdapter[Any]]
    """By name, of those that plans may give."""
    declared: tuple[Parameter, ...]
    signature: inspect.Signature
    """Without what is injected."""
    context_parameter: str | None
    takes_key: bool
    gives: object
    """The return annotation, or None."""

    def written(self, positional: Sequence[object], named: Mapping[str, object]) -> dict[str, object]:
        """The arguments of a step that is being written, as JSON where they are known; raises `InvalidPlan`."""
        try:
            bound = self.signature.bind_partial(*positional, **named).arguments
        except TypeError as error:
            raise InvalidPlan(f"Script {self.script!r} takes {self.signature}: {error}.") from None
        return {name: value if is_known_later(value) else self._json(name, value) for name, value in bound.items()}

    def _json(self, name: str, value: object) -> JsonValue:
        adapter = self.adapters[name]
        try:
            encoded: JsonValue = adapter.dump_python(adapter.validate_python(value), mode="json")
        except ValidationError as error:
            raise InvalidPlan(f"Argument {name!r} of script {self.script!r}: {_first_problem(error)}.") from error
        return encoded

    def filled(
        self,
        arguments: Mapping[str, JsonValue],
        *,
        context: object,
        idempotency_key: str,
        results: Callable[[str], JsonValue | None],
    ) -> dict[str, Any]:
        """The values to call the function with; raises `ArgumentsDoNotFit`.

        `{"$result_of": key}` is replaced by what that step gave; everything is validated into the annotated type.
        """
        unknown = sorted(arguments.keys() - self.adapters.keys())
        if unknown:
            known = ", ".join(self.adapters) or "none"
            raise ArgumentsDoNotFit(f"Script {self.script!r} has no parameter {unknown[0]!r}; it has: {known}.")
        missing = [one.name for one in self.declared if one.required and one.name not in arguments]
        if missing:
            raise ArgumentsDoNotFit(f"Script {self.script!r} got no {missing[0]!r}; give it in the step's arguments.")
        values: dict[str, Any] = {}
        for name, value in arguments.items():
            try:
                values[name] = self.adapters[name].validate_python(resolved(value, results))
            except ValidationError as error:
                sources = " and ".join(repr(key) for key in _references(value))
                origin = f" from the result of {sources}" if sources else ""
                raise ArgumentsDoNotFit(
                    f"Parameter {name!r} of script {self.script!r}{origin}: {_first_problem(error)}."
                ) from error
        if self.context_parameter is not None:
            values[self.context_parameter] = context
        if self.takes_key:
            values[KEY_PARAMETER] = idempotency_key
        return values


def read_parameters(function: Callable[..., object], *, script: str, context_type: type) -> Parameters:
    """The parameters of a typed function; raises `TypeError` for one that cannot run as a step."""
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"Script {script!r} is asynchronous or a generator; write a plain function that returns.")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"Script {script!r} has a type that cannot be resolved: {error}; import it.") from error
    adapters: dict[str, TypeAdapter[Any]] = {}
    kept: list[inspect.Parameter] = []
    context_parameter: str | None = None
    takes_key = False
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            raise TypeError(f"Parameter {parameter} of script {script!r} has no name to call it by; name each one.")
        if parameter.name not in hints:
            raise TypeError(f"Parameter {parameter.name!r} of script {script!r} has no type; annotate it.")
        if hints[parameter.name] is context_type:
            context_parameter = parameter.name
        elif parameter.name == KEY_PARAMETER:
            takes_key = True
        else:
            kept.append(parameter)
            adapters[parameter.name] = _adapter(hints[parameter.name], script=script, parameter=parameter.name)
    return Parameters(
        script=script,
        adapters=MappingProxyType(adapters),
        declared=tuple(
            Parameter(name=one.name, annotation=hints[one.name], required=one.default is inspect.Parameter.empty)
            for one in kept
        ),
        signature=signature.replace(parameters=kept, return_annotation=inspect.Signature.empty),
        context_parameter=context_parameter,
        takes_key=takes_key,
        gives=hints.get("return"),
    )


def _adapter(annotation: Any, *, script: str, parameter: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        raise TypeError(
            f"Parameter {parameter!r} of script {script!r} is a {annotation!r}, which JSON cannot hold; take a "
            "pydantic model, a dataclass or JSON values."
        ) from error


def _references(value: JsonValue) -> list[str]:
    found: list[str] = []
    resolved(value, found.append)
    return found


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
