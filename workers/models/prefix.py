"""How a server's prompt cache behaves, and when it is said that it does not."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping

from chargehand.orchestrator.facts import Usage

log = logging.getLogger(__name__)

# Consecutive calls with a cacheable prefix and both counters at zero before it is said; the first may be a cold one.
SILENT_CALLS = 3
# Models remembered for that.
MAX_WATCHED = 64
# From 512 to 4,096 tokens, differing by model; the strictest only makes the warning come later.
STRICTEST_MIN_PREFIX_TOKENS = 4_096


class CacheWatch:
    """Says once for each model that its prompt cache never answers; safe to use from many threads."""

    def __init__(self, min_prefix_tokens: Mapping[str, int] | None = None) -> None:
        self._min_prefix_tokens = dict(min_prefix_tokens or {})
        self._silent: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def saw(self, model: str, usage: Usage) -> bool:
        """Count one call with breakpoints; True when this one made the warning due."""
        shortest = self._min_prefix_tokens.get(model, STRICTEST_MIN_PREFIX_TOKENS)
        if usage.cache_read_tokens or usage.cache_write_tokens:
            with self._lock:
                self._silent.pop(model, None)
            return False
        if usage.input_tokens < shortest:
            return False
        with self._lock:
            count = self._silent.get(model, 0) + 1
            self._silent[model] = count
            self._silent.move_to_end(model)
            while len(self._silent) > MAX_WATCHED:
                self._silent.popitem(last=False)
        if count != SILENT_CALLS:
            return False
        log.warning(
            "prompt cache silent",
            extra={"model": model, "calls": count, "min_prefix_tokens": shortest},
        )
        return True
