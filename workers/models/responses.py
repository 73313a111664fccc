"""Answers to requests that were asked before, to the byte: for routing and summaries, never for what has effects.

It lives in Redis and saves calls, nothing else: when Redis is gone or emptied, the model is asked. Answers are kept by
tenant, so that nobody can find out by a quick answer what another one has asked.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from chargehand.orchestrator.facts import Usage
from chargehand.workers.models.interface import ModelAnswer, ModelCall

log = logging.getLogger(__name__)

# An answer that was cut off, refused or paused is none that anybody wants again.
WHOLE = frozenset({"end_turn", "tool_use"})
# A longer one is no choice and no summary.
MAX_BYTES = 64 * 1024
# After a Redis that did not answer, so long nobody asks it.
GONE_SECONDS = 5.0


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    content: tuple[dict[str, JsonValue], ...]
    stop_reason: str


class ResponseCache:
    """Exact-match answers; safe to use from many threads."""

    def __init__(
        self, redis: "Redis", *, key_prefix: str, ttl_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`redis`: with short time-outs, because calls wait for its answer."""
        self._redis = redis
        self._key_prefix = key_prefix
        self._ttl_ms = max(1, round(ttl_seconds * 1_000))
        self._clock = clock
        self._gone_until = 0.0
        self._lock = threading.Lock()

    def find(self, call: ModelCall, model: str) -> ModelAnswer | None:
        """The answer that this very request to this model had; it costs nothing and used nothing."""
        if not call.cache_scope:
            return None
        text = self._try(lambda: self._redis.get(self._key(call, model)))
        if text is None:
            return None
        try:
            kept = _Kept.model_validate_json(text)
        except ValidationError:
            # Of another version of this code: whoever asks next writes it anew.
            return None
        return ModelAnswer(
            model=kept.model,
            content=kept.content,
            stop_reason=kept.stop_reason,
            usage=Usage(),
            cost_microusd=0,
            duration_ms=0,
        )

    def keep(self, call: ModelCall, model: str, answer: ModelAnswer) -> None:
        """Remember an answer, if the call says that it may be given again."""
        if not call.cache_scope or answer.stop_reason not in WHOLE:
            return
        kept = _Kept(model=answer.model, content=answer.content, stop_reason=answer.stop_reason)
        text = kept.model_dump_json().encode()
        if len(text) <= MAX_BYTES:
            self._try(lambda: self._redis.set(self._key(call, model), text, px=self._ttl_ms))

    def _key(self, call: ModelCall, model: str) -> str:
        asked = [
            call.cache_scope,
            model,
            call.max_tokens,
            list(call.tools),
            list(call.system),
            list(call.messages),
            call.tool_choice,
            call.output_schema,
        ]
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
        return f"{self._key_prefix}:response:{hashlib.sha256(canonical).hexdigest()}"

    def _try(self, asked: Callable[[], Any]) -> Any:
        if self._clock() < self._gone_until:
            return None
        try:
            return asked()
        except RedisError as error:
            with self._lock:
                self._gone_until = self._clock() + GONE_SECONDS
            log.warning("response cache lost, models are asked", extra={"error": str(error)})
            return None
