"""`python -m chargehand.workers.offers`: the scripts and tools of workers that are started here, as JSON."""

import importlib
import sys

from chargehand.orchestrator.offers import Offer, Offers
from chargehand.orchestrator.settings import load_settings
from chargehand.workers.scripts.catalogue import registered_scripts
from chargehand.workers.tools.catalogue import registered_tools


def offers() -> Offers:
    """Ours, and those that the user's modules register when they are imported."""
    for module in load_settings().modules:
        importlib.import_module(module)
    scripts = {
        name: Offer(
            effect=script.effect,
            parameters=tuple(script.parameters.adapters),
            required=tuple(one.name for one in script.parameters.declared if one.required),
            takes_context=script.parameters.context_parameter is not None,
        )
        for name, script in registered_scripts().items()
    }
    tools = {
        name: Offer(
            effect=tool.effect,
            parameters=tuple(tool.input_model.model_fields),
            required=tuple(name for name, field in tool.input_model.model_fields.items() if field.is_required()),
            takes_context=tool.context_parameter is not None,
        )
        for name, tool in registered_tools().items()
    }
    return Offers(scripts=scripts, tools=tools)


if __name__ == "__main__":
    sys.stdout.write(f"\n{offers().model_dump_json()}")
