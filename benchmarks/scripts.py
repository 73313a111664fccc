"""A script that does nothing; workers load this module by `CHARGEHAND_MODULES`."""

from chargehand.workers.scripts.registry import ScriptContext, script


@script(name="bench_nothing", effect="pure")
def nothing(context: ScriptContext) -> None:
    """Cost only what a step costs."""
    del context
