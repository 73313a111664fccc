"""Names of spans and their attributes, all of them here: the GenAI conventions are still in development.

Nothing of a prompt, an answer, an argument or a result is among them. The model SDK's own `chat` spans leave content
out by default too.
"""

OPERATION = "gen_ai.operation.name"
AGENT_NAME = "gen_ai.agent.name"
AGENT_ID = "gen_ai.agent.id"
CONVERSATION = "gen_ai.conversation.id"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL = "gen_ai.tool.call.id"
ERROR_TYPE = "error.type"

INVOKE_AGENT = "invoke_agent"
EXECUTE_TOOL = "execute_tool"

RUN = "chargehand.run_id"
TENANT = "chargehand.tenant"
STEP = "chargehand.step_id"
STEP_KEY = "chargehand.step_key"
POOL = "chargehand.pool"
ROLE = "chargehand.role"
EPOCH = "chargehand.epoch"
QUEUED_SECONDS = "chargehand.queued_seconds"
TAKEN_OVER = "chargehand.taken_over"
OUTCOME = "chargehand.outcome"
"""How an attempt or a run ended: `succeeded`, `waiting`, `handed_back`, `cut_off`, …"""
EFFECT = "chargehand.tool.effect"
"""`pure`, `idempotent` or `effectful`."""
