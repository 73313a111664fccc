"""`python -m chargehand.workers.offers`: the scripts and tools of workers that are started here, as JSON."""

import sys

from chargehand.orchestrator.offers import Offer, Offers
from chargehand.orchestrator.outputs import OUTPUTS
from chargehand.orchestrator.settings import load_settings
from chargehand.workers.scripts.catalogue import registered_scripts
from chargehand.workers.tools.catalogue import registered_tools
from chargehand.workers.tools.finish import output_names
from chargehand.workers.user_code import load_user_code


def offers() -> Offers:
    """Ours, and those that the user's modules register when they are imported."""
    broken = load_user_code(load_settings())
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
    outputs = (*sorted(output_names()), *sorted(OUTPUTS))
    return Offers(scripts=scripts, tools=tools, outputs=outputs, broken=broken)


if __name__ == "__main__":
    sys.stdout.write(f"\n{offers().model_dump_json()}")
