"""The answer to a request, chosen by the finish tool among its tools."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from chargehand.workers.offline import NOTICE
from chargehand.workers.offline.conversation import Conversation
from chargehand.workers.offline.policies import (
    arbiter,
    chooser,
    coder,
    extractor,
    form,
    lead,
    planner,
    resolver,
    summariser,
    triager,
    writer,
)
from chargehand.workers.offline.policies.moves import Move

Policy = Callable[[Conversation], Move]

# The finish tool says what kind of work this is. Prompts and system texts say it too, and are never looked at.
POLICIES: Mapping[str, Policy] = {
    "submit_plan": planner.plan,
    "submit_replan": planner.replan,
    "submit_answer": lead.answer,
    "submit_verdicts": triager.triage,
    "submit_fixes": coder.choose,
    "submit_report": writer.write,
    "submit_choice": chooser.choose,
    "submit_resolution": resolver.resolve,
    "submit_facts": extractor.extract,
    "submit_judgements": arbiter.judge,
    "submit_summary": summariser.summarise,
    "submit_result": form.fill,
}


def answer(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Content blocks for this request: a pure function of it."""
    conversation = Conversation(request)
    schema = ((request.get("output_config") or {}).get("format") or {}).get("schema")
    if isinstance(schema, Mapping):
        return [{"type": "text", "text": json.dumps(form.smallest(schema, schema, form.MAX_DEPTH))}]
    forced = (request.get("tool_choice") or {}).get("type") == "tool"
    policy = next((POLICIES[name] for name in POLICIES if name in conversation.tools), None)
    if policy is None and forced and conversation.tools:
        # A tool that must be called and that nobody wrote rules for: the smallest valid call.
        name, wanted = next(iter(conversation.tools.items()))
        value = form.smallest(wanted, wanted, form.MAX_DEPTH)
        number = len(conversation.calls)
        return [{"type": "tool_use", "id": f"toolu_offline_{number:04d}", "name": name, "input": value}]
    if policy is None:
        known = ", ".join(POLICIES)
        return [{"type": "text", "text": f"Answered by rules; {NOTICE}. No rule for this request; known: {known}."}]
    move = policy(conversation)
    number = len(conversation.calls)
    blocks: list[dict[str, Any]] = [{"type": "text", "text": f"{move.says} ({NOTICE})"}]
    blocks += [
        {"type": "tool_use", "id": f"toolu_offline_{number + index:04d}", "name": tool, "input": dict(arguments)}
        for index, (tool, arguments) in enumerate(move.calls)
    ]
    return blocks
