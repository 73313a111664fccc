"""Which model serves a call, and why: pure functions over what is known at that moment."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from chargehand.orchestrator.settings import Settings
from chargehand.workers.models.interface import Block, ModelUnavailable

TIERS = ("small", "medium", "large")
# An answer that was refused this often is not going to be right in the same tier.
INVALID_BEFORE_ESCALATION = 2

Problem = Literal["unsure", "invalid", "refuted", "overloaded", "refused"]
"""Why an earlier attempt of the same task did not do. The first three escalate, the others look elsewhere."""
_ESCALATING: frozenset[Problem] = frozenset({"unsure", "invalid", "refuted"})


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


def choose(
    tiers: Tiers,
    tier: str,
    *,
    wished: str | None = None,
    problems: Sequence[Problem] = (),
    shunned: Mapping[str, str] | None = None,
) -> Choice:
    """The model for a task of this tier.

    `problems` of earlier attempts move it up; `shunned` names models that must not be used now, each with its reason
    (an overload, a refusal). A model wished by name is taken as it is. Raises `ModelUnavailable` when nothing is left.
    """
    avoid = shunned or {}
    if wished is not None:
        return Choice(model=wished, tier=tier, reason="named by the caller")
    first = tiers.model(tier)
    steps = [problem for problem in problems if problem in _ESCALATING]
    wanted = TIERS[min(TIERS.index(tier) + len(steps), len(TIERS) - 1)]
    reason = f"{tier}: the role's tier"
    if steps and wanted != tier:
        reason = f"{wanted}: escalated from {tier} ({', '.join(steps)})"
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
