"""What is sent to which server, and when a silent prompt cache is mentioned."""

import copy
import logging
from typing import Any

import pytest

from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.facts import Usage
from chargehand.workers.models.prefix import SILENT_CALLS, CacheWatch
from chargehand.workers.models.profiles import PROFILES, adapted, profile_for


@pytest.mark.parametrize(
    ("base_url", "named", "profile"),
    [
        ("https://api.anthropic.com", "", "anthropic"),
        ("http://localhost:11434", "", "ollama"),
        ("http://127.0.0.1:8080/", "", "llama.cpp"),
        ("http://127.0.0.1:8080", "anthropic", "anthropic"),
        ("http://models.internal:8080", "", "anthropic"),
        ("http://models.internal", "vllm", "vllm"),
        ("http://127.0.0.1:50123", "", "anthropic"),
    ],
)
def test_profile_follows_from_name_or_address(base_url: str, named: str, profile: str) -> None:
    assert profile_for(base_url, named) is PROFILES[profile]


def test_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSettings, match="ollama"):
        profile_for("http://localhost", "olama")


def test_features_are_removed_at_every_depth_and_the_input_is_kept() -> None:
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": "plain"},
    ]
    before = copy.deepcopy(messages)

    sent = adapted(messages, PROFILES["ollama"])

    assert sent == [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": "plain"},
    ]
    assert messages == before
    assert adapted(messages, PROFILES["anthropic"]) == before


def test_silent_cache_is_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = CacheWatch()

    with caplog.at_level(logging.WARNING):
        due = [watch.saw("m", Usage(input_tokens=9_000)) for _ in range(SILENT_CALLS * 3)]

    assert due.count(True) == 1
    assert [record.message for record in caplog.records] == ["prompt cache silent"]


def test_cache_that_answers_is_never_mentioned() -> None:
    watch = CacheWatch()
    usages = [Usage(input_tokens=9_000), Usage(input_tokens=9_000), Usage(input_tokens=9_000, cache_read_tokens=1)] * 5

    assert not any(watch.saw("m", usage) for usage in usages)


def test_short_prompts_are_expected_not_to_be_cached() -> None:
    watch = CacheWatch({"m": 512})

    assert not any(watch.saw("other", Usage(input_tokens=4_000)) for _ in range(9))
    assert any(watch.saw("m", Usage(input_tokens=600)) for _ in range(9))
