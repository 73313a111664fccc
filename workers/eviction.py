"""Which results of earlier turns are left out of a request when the model's window fills; pure.

The biggest part of a long conversation is what tools gave. It stays in the journal, and `fetch_output` gives it again.
"""

from chargehand.orchestrator.facts import OutputsEvicted
from chargehand.workers.conversation import READS_STATE, Conversation, Exchange

# From this share of the window on outputs are left out, the oldest first, until this much of it is used: each time the
# prompt cache loses what stands behind the first of them, so it is done seldom and thoroughly.
FULL = 0.75
ENOUGH = 0.5
# A reference takes some room itself; less is not worth it.
LEAST_BYTES = 2_000
BYTES_PER_TOKEN = 4


def evict(conversation: Conversation, *, window_tokens: int) -> OutputsEvicted | None:
    """What to leave out of the next request; None: there is room, or nothing big that the model has seen already.

    The results of the newest answer stay, because nobody has read them yet; so does what was read of shared state, by
    which the agent's view is known.
    """
    count = len(conversation.exchanges)
    if not count or count in (conversation.evicted_after, conversation.summarised_after):
        return None
    tokens = tokens_of(conversation)
    if tokens <= FULL * window_tokens:
        return None
    gone: list[str] = []
    left = tokens
    for exchange in conversation.exchanges[conversation.summarised : -1]:
        for use_id, fact in exchange.results.items():
            if left <= ENOUGH * window_tokens:
                break
            size = len(fact.content.encode())
            rests_on_state = any(read.startswith(READS_STATE) for read in fact.reads)
            if size >= LEAST_BYTES and use_id not in exchange.evicted and not rests_on_state:
                gone.append(use_id)
                left -= size // BYTES_PER_TOKEN
    return OutputsEvicted(tool_use_ids=tuple(gone), tokens=tokens) if gone else None


def tokens_of(conversation: Conversation) -> int:
    """About as many tokens as the next request has.

    What the server counted for the last one and what came since, without what was left out since.
    """
    newest = conversation.exchanges[-1]
    usage = newest.answer.usage
    counted = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens + usage.output_tokens
    gone = conversation.last_evicted if conversation.evicted_after == len(conversation.exchanges) else frozenset()
    left_out = sum(_bytes(exchange, gone) for exchange in conversation.exchanges) if gone else 0
    return max(0, counted + (_bytes(newest) - left_out) // BYTES_PER_TOKEN)


def _bytes(exchange: Exchange, among: frozenset[str] | None = None) -> int:
    results = exchange.results.items()
    return sum(len(fact.content.encode()) for use_id, fact in results if among is None or use_id in among)
