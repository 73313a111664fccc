"""Which model serves a call, and why: pure functions over what is known at that moment."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from chargehand.orchestrator.settings import Settings
from chargehand.workers.models.interface import Block, ModelUnavailable, Tier

TIERS: tuple[Tier, ...] = ("small", "medium", "large")
ROLES_TIER = "the role's tier"
# An answer that was refused this often is not going to be right in the same tier.
INVALID_BEFORE_ESCALATION = 2

# From here on a tier less does, so that the run ends with a result and not with an empty purse.
FRUGAL_FROM_PERCENT = 80

Problem = Literal["unsure", "invalid", "refuted"]
"""Why an earlier attempt of the same task did not do: it said so, it did not fit, or a verifier did not pass it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A model with the reason of its choice."""

    model: str
    tier: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiers:
    """The model of each tier; several tiers may have the same one."""

    small: str
    medium: str
    large: str

    @classmethod
    def of(cls, settings: Settings) -> "Tiers":
        """Those of the settings."""
        return cls(small=settings.small_model, medium=settings.medium_model, large=settings.large_model)

    def model(self, tier: str) -> str:
        """The model of a tier; raises `ModelUnavailable` for a tier that does not exist."""
        if tier not in TIERS:
            raise ModelUnavailable(f"Tier {tier!r} does not exist; use {', '.join(TIERS)}.", retryable=False)
        return str(getattr(self, tier))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a step asks for before anything else is known."""

    tier: Tier
    model: str | None = None
    """By its name: nothing else is taken then."""
    by: str = ROLES_TIER
    """Who says so."""


def wish(
    role: str,
    tier: Tier,
    *,
    step: tuple[Tier | None, str | None] = (None, None),
    run: tuple[Tier | None, str | None] = (None, None),
    role_models: Mapping[str, str] = MappingProxyType({}),
) -> Wish:
    """The nearest word counts: the step's, the run's (`--tier`, `--model`), the settings' for the role, the role's.

    `step`, `run`: a tier and a model, either or both None.
    """
    for (named_tier, named_model), by in ((step, "named by the step"), (run, "named for the run")):
        if named_tier is not None or named_model is not None:
            return Wish(tier=named_tier or tier, model=named_model, by=by)
    named = role_models.get(role)
    if named is None:
        return Wish(tier=tier)
    by = "CHARGEHAND_ROLE_MODELS"
    size: Tier | None = next((one for one in TIERS if one == named), None)
    return Wish(tier=size, by=by) if size is not None else Wish(tier=tier, model=named, by=by)


def choose(
    tiers: Tiers,
    tier: str,
    *,
    wished: str | None = None,
    by: str = "",
    problems: Sequence[Problem] = (),
    shunned: Mapping[str, str] | None = None,
    used_percent: int = 0,
) -> Choice:
    """The model for a task of this tier.

    `problems` of earlier attempts move it up, a budget of which 80% is used moves it down; `shunned` names models that
    must not be used now, each with its reason (an overload, a refusal). A model wished by name is taken as it is. `by`:
    who named the tier or the model. Raises `ModelUnavailable` when nothing is left.
    """
    avoid = shunned or {}
    if wished is not None:
        return Choice(model=wished, tier=tier, reason=by or "named by the caller")
    first = tiers.model(tier)
    wanted = TIERS[min(TIERS.index(tier) + len(problems), len(TIERS) - 1)]
    reason = f"{tier}: {by or ROLES_TIER}"
    if wanted != tier:
        reason = f"{wanted}: escalated from {tier} ({', '.join(problems)})"
    if used_percent >= FRUGAL_FROM_PERCENT and wanted != TIERS[0]:
        before, wanted = wanted, TIERS[TIERS.index(wanted) - 1]
        reason = f"{wanted}: down from {before} ({used_percent}% of the budget is used)"
    model = tiers.model(wanted)
    if model not in avoid:
        return Choice(model=model, tier=wanted, reason=reason)
    for other in _others(wanted):
        candidate = tiers.model(other)
        if candidate not in avoid:
            return Choice(model=candidate, tier=other, reason=f"{other}: fell back from {model} ({avoid[model]})")
    listed = "; ".join(f"{name}: {why}" for name, why in sorted(avoid.items())) or first
    raise ModelUnavailable(f"No model can serve tier {tier!r} now ({listed}).", retryable=True)


def problems_in(messages: Sequence[Block], finish_tools: Set[str]) -> list[Problem]:
    """What a conversation itself shows: submissions that were refused, two of them for one step up."""
    submissions: set[str] = set()
    refused = 0
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if not isinstance(block, dict):
                continue
            if block.get("type") == "tool_use" and block.get("name") in finish_tools:
                submissions.add(str(block.get("id")))
            elif block.get("type") == "tool_result" and block.get("is_error"):
                refused += str(block.get("tool_use_id")) in submissions
    return ["invalid"] * (refused // INVALID_BEFORE_ESCALATION)


def _others(tier: str) -> list[str]:
    """Other tiers, better ones first: a task too small for its model costs more, one too large fails."""
    index = TIERS.index(tier)
    return [*TIERS[index + 1 :], *reversed(TIERS[:index])]
