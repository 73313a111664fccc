"""Chargehand: a supervisor for agents on Celery, Redis and Postgres.

What programs use; each name is loaded when it is first asked for, so that `import chargehand` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chargehand.memory.procedural import InvalidRole
    from chargehand.orchestrator.building import Plan
    from chargehand.orchestrator.callback import connect_celery, idempotency_key
    from chargehand.orchestrator.client import Client, RunHandle
    from chargehand.orchestrator.client.http import HttpClient
    from chargehand.orchestrator.drafts import Draft, Item, Line
    from chargehand.orchestrator.errors import (
        BudgetExceeded,
        ChargehandError,
        InvalidBudget,
        InvalidGoal,
        InvalidPlan,
        InvalidSettings,
        InvalidWorkspace,
        NotFound,
        RunCancelled,
        RunFailed,
        Unavailable,
        UserError,
        WaitTimeout,
    )
    from chargehand.orchestrator.plan import Step
    from chargehand.orchestrator.plan_files import dump_plan, load_plan, parse_plan
    from chargehand.orchestrator.roles import WrittenRole, role
    from chargehand.orchestrator.settings import Settings
    from chargehand.orchestrator.shapes import branch, first_of, gate, map_over, merge, repeat
    from chargehand.orchestrator.task_brokers import tasks_broker_url
    from chargehand.orchestrator.task_drafts import TaskReference, celery_task
    from chargehand.orchestrator.webhooks.signing import verify_webhook
    from chargehand.workers.scripts.registry import Script, ScriptContext, script
    from chargehand.workers.tools.registry import Tool, ToolContext, ToolRetry, tool

__all__ = [
    "BudgetExceeded",
    "ChargehandError",
    "Client",
    "Draft",
    "HttpClient",
    "InvalidBudget",
    "InvalidGoal",
    "InvalidPlan",
    "InvalidRole",
    "InvalidSettings",
    "InvalidWorkspace",
    "Item",
    "Line",
    "NotFound",
    "Plan",
    "RunCancelled",
    "RunFailed",
    "RunHandle",
    "Script",
    "ScriptContext",
    "Settings",
    "Step",
    "TaskReference",
    "Tool",
    "ToolContext",
    "ToolRetry",
    "Unavailable",
    "UserError",
    "WaitTimeout",
    "WrittenRole",
    "branch",
    "celery_task",
    "connect_celery",
    "dump_plan",
    "first_of",
    "gate",
    "idempotency_key",
    "load_plan",
    "map_over",
    "merge",
    "parse_plan",
    "repeat",
    "role",
    "script",
    "tasks_broker_url",
    "tool",
    "verify_webhook",
]

_HOMES = {
    "chargehand.memory.procedural": ("InvalidRole",),
    "chargehand.orchestrator.building": ("Plan",),
    "chargehand.orchestrator.callback": ("connect_celery", "idempotency_key"),
    "chargehand.orchestrator.client": ("Client", "RunHandle"),
    "chargehand.orchestrator.client.http": ("HttpClient",),
    "chargehand.orchestrator.drafts": ("Draft", "Item", "Line"),
    "chargehand.orchestrator.plan": ("Step",),
    "chargehand.orchestrator.plan_files": ("dump_plan", "load_plan", "parse_plan"),
    "chargehand.orchestrator.roles": ("WrittenRole", "role"),
    "chargehand.orchestrator.settings": ("Settings",),
    "chargehand.orchestrator.webhooks.signing": ("verify_webhook",),
    "chargehand.orchestrator.shapes": ("branch", "first_of", "gate", "map_over", "merge", "repeat"),
    "chargehand.orchestrator.task_brokers": ("tasks_broker_url",),
    "chargehand.orchestrator.task_drafts": ("TaskReference", "celery_task"),
    "chargehand.workers.scripts.registry": ("Script", "ScriptContext", "script"),
    "chargehand.workers.tools.registry": ("Tool", "ToolContext", "ToolRetry", "tool"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, from its module; what has no other home is an error of the tree."""
    if name not in __all__:
        raise AttributeError(f"module 'chargehand' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF.get(name, "chargehand.orchestrator.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__]
