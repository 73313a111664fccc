"""The fleet's limits on a real Valkey."""

import logging
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from redis import Redis

from chargehand.orchestrator import limit_view
from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.laptop import Valkey
from chargehand.workers.models.limits import (
    Admitted,
    FleetLimits,
    Need,
    RateLimits,
    Wait,
    endpoint_of,
    parse_limits,
)
from chargehand.workers.models.local_limits import LocalLimits

LITTLE = Need(input_tokens=10, output_tokens=10)


def limits_over(url: str, **limits: int) -> FleetLimits:
    """One worker's view of limits for every model."""
    return FleetLimits(Redis.from_url(url), key_prefix="t", limits={"*": RateLimits(**limits)})


def test_requests_of_all_workers_share_one_minute(redis_url: str) -> None:
    workers = [limits_over(redis_url, requests=10) for _ in range(3)]

    answers = [worker.admit("m", LITTLE) for worker in workers for _ in range(5)]

    assert answers.count(Admitted()) == 10
    assert all(0 < answer.seconds <= 60 for answer in answers if isinstance(answer, Wait))


@pytest.mark.parametrize("kind", ["input_tokens", "output_tokens"])
def test_tokens_are_limited_too(redis_url: str, kind: str) -> None:
    limits = limits_over(redis_url, **{kind: 1_000})
    need = Need(**{"input_tokens": 0, "output_tokens": 0, kind: 600})

    assert limits.admit("m", need) == Admitted()
    wait = limits.admit("m", need)
    assert isinstance(wait, Wait)
    # 200 tokens are missing, and a minute brings 1,000.
    assert wait.seconds == pytest.approx(12, abs=1)


def test_what_was_not_used_comes_back(redis_url: str) -> None:
    limits = limits_over(redis_url, output_tokens=1_000)
    need = Need(input_tokens=0, output_tokens=900)
    assert limits.admit("m", need) == Admitted()

    limits.give_back("m", needed=need, used=Need(input_tokens=0, output_tokens=50))

    assert limits.admit("m", need) == Admitted()


def test_call_above_the_whole_minute_runs_alone_instead_of_never(redis_url: str) -> None:
    limits = limits_over(redis_url, input_tokens=1_000)

    assert limits.admit("m", Need(input_tokens=5_000, output_tokens=0)) == Admitted()
    debt = limits.admit("m", LITTLE)
    assert isinstance(debt, Wait)
    assert debt.seconds > 200


def test_nobody_asks_before_the_time_that_the_server_named(redis_url: str) -> None:
    one, other = limits_over(redis_url), limits_over(redis_url)

    one.slow_down("m", 20)

    wait = other.admit("m", LITTLE)
    assert isinstance(wait, Wait)
    assert wait.seconds == pytest.approx(20, abs=1)
    assert other.admit("another", LITTLE) == Admitted()


def test_refusal_halves_the_rate_once_for_a_burst(redis_url: str) -> None:
    for number in range(20):
        model = f"m{number}"
        limits = limits_over(redis_url, requests=60)
        for _ in range(5):
            limits.slow_down(model, 0)

        began = time.monotonic()
        answers = [limits.admit(model, LITTLE) for _ in range(61)]
        elapsed = time.monotonic() - began
        # Any longer, and the two rates cannot be told apart.
        if elapsed < 0.9:
            break
    assert elapsed < 0.9, "too slow to tell the two apart"

    wait = answers[-1]
    assert isinstance(wait, Wait)
    # A request a second at the full rate; one in two seconds at half of it, less what a slow machine has waited for.
    assert 2 - elapsed - 0.1 <= wait.seconds <= 2.1


def test_waiting_takes_nothing(redis_url: str) -> None:
    limits = limits_over(redis_url, requests=600)
    assert [limits.admit("m", LITTLE) for _ in range(600)].count(Admitted()) >= 599

    refused = [limits.admit("m", LITTLE) for _ in range(50)]

    assert all(answer.seconds < 1 for answer in refused if isinstance(answer, Wait))


def test_concurrent_workers_do_not_overbook(redis_url: str) -> None:
    limits = limits_over(redis_url, requests=40)
    answers: list[Admitted | Wait] = []

    def ask() -> None:
        answers.extend(limits.admit("m", LITTLE) for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    minutes = (time.monotonic() - began) / 60

    # The bucket refills by less than one a second.
    assert 40 <= answers.count(Admitted()) <= 43 + 40 * minutes


@pytest.mark.parametrize("limits", [{}, {"*": RateLimits(requests=60, input_tokens=60_000)}])
def test_without_redis_each_process_keeps_a_small_share_and_never_goes_on_unlimited(
    limits: dict[str, RateLimits], caplog: pytest.LogCaptureFixture
) -> None:
    # A Celery worker of an earlier test may have left the root at another level.
    caplog.set_level(logging.WARNING)
    client = Redis.from_url("redis://127.0.0.1:9", socket_connect_timeout=0.2, retry=None)
    alone = FleetLimits(client, key_prefix="t", limits=limits)
    started = time.monotonic()

    answers = [alone.admit("m", LITTLE) for _ in range(200)]
    alone.slow_down("m", 9)
    alone.give_back("m", needed=LITTLE, used=LITTLE)
    held = alone.admit("m", LITTLE)

    assert time.monotonic() - started < 5
    assert answers.count(Admitted()) <= 15
    assert isinstance(held, Wait)
    assert held.seconds > 8
    assert caplog.text.count("limits lost") == 1


def test_when_valkey_is_killed_the_fleet_stays_below_its_limit() -> None:
    home = Path(tempfile.mkdtemp(prefix="chl-", dir="/tmp"))
    home.chmod(0o711)
    valkey = Valkey.start(home)
    per_minute = 6_000
    try:
        workers = [
            FleetLimits(
                Redis.from_url(valkey.url, retry=None, socket_timeout=1.0),
                key_prefix="t",
                limits={"*": RateLimits(requests=per_minute)},
            )
            for _ in range(4)
        ]
        for _ in range(2):
            assert [worker.admit("m", LITTLE) for worker in workers] == [Admitted()] * 4
    finally:
        valkey.stop()
        shutil.rmtree(home, ignore_errors=True)

    began, admitted = time.monotonic(), 0
    while time.monotonic() - began < 1.0:
        admitted += [worker.admit("m", LITTLE) for worker in workers].count(Admitted())
    seconds = time.monotonic() - began

    # A hundred a second is what all may; each of the four knows of the others and takes half of its quarter.
    assert 0 < admitted <= per_minute / 60 * (seconds + 1)


def test_a_process_alone_is_admitted_in_time_whatever_it_needs() -> None:
    now = [0.0]
    alone = LocalLimits(clock=lambda: now[0])
    large = (1, 50_000, 4_000)

    wait = alone.admit("m", (60, 60_000, 6_000), large, processes=4)
    now[0] += wait + 0.001

    assert wait > 60
    assert alone.admit("m", (60, 60_000, 6_000), large, processes=4) == 0


def test_models_of_a_family_share_one_minute_and_endpoints_do_not(redis_url: str) -> None:
    limits = {"claude-sonnet": RateLimits(requests=2), "*": RateLimits(requests=9)}
    here = FleetLimits(Redis.from_url(redis_url), key_prefix="f", limits=limits, endpoint="a.example")
    there = FleetLimits(Redis.from_url(redis_url), key_prefix="f", limits=limits, endpoint="b.example")

    assert here.admit("claude-sonnet-5-5", LITTLE) == Admitted()
    assert here.admit("claude-sonnet-5-4", LITTLE) == Admitted()
    assert isinstance(here.admit("claude-sonnet-5-5-20260901", LITTLE), Wait)
    assert here.admit("claude-sonnetto", LITTLE) == Admitted()
    assert there.admit("claude-sonnet-5-5", LITTLE) == Admitted()
    assert endpoint_of("https://key@models.example:8443/v1") == "models.example:8443"


def test_state_expires(redis_url: str) -> None:
    limits_over(redis_url, requests=5).admit("m", LITTLE)

    assert 0 < Redis.from_url(redis_url).ttl("t:limits:default:m") <= 600


def test_limits_are_read_from_json() -> None:
    assert parse_limits("") == {}
    assert parse_limits('{"m": {"requests": 5}}') == {"m": RateLimits(requests=5)}


@pytest.mark.parametrize("text", ["{", "[]", '{"m": 5}', '{"m": {"rpm": 5}}', '{"m": {"requests": -1}}'])
def test_unusable_limits_are_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="CHARGEHAND_MODEL_LIMITS"):
        parse_limits(text)


def test_whoever_looks_sees_what_is_used_who_is_held_back_and_how_the_pace_grows_back(redis_url: str) -> None:
    client = Redis.from_url(redis_url, decode_responses=True)
    limits = {"claude-sonnet": RateLimits(requests=5, input_tokens=1_000_000)}
    # Both have colons.
    workers = FleetLimits(Redis.from_url(redis_url), key_prefix="l", limits=limits, endpoint="127.0.0.1:8090")
    many = Need(input_tokens=200_000, output_tokens=1)
    assert workers.admit("claude-sonnet-5-5", many) == Admitted()
    assert workers.admit("qwen3:8b", LITTLE) == Admitted()

    free, other = limit_view.look(client, key_prefix="l")
    assert (free.endpoint, free.family) == ("127.0.0.1:8090", "claude-sonnet")
    assert (other.endpoint, other.family, other.minutes, other.is_short) == ("127.0.0.1:8090", "qwen3:8b", [], False)
    requests, tokens = free.minutes
    assert (requests.kind, requests.cap, tokens.kind, tokens.cap) == ("requests", 5, "input tokens", 1_000_000)
    # A minute brings back all of it; a slow machine may have let some of it pass.
    assert 0 <= requests.used <= 1
    assert 0 <= tokens.used <= 200_000
    assert not free.is_short

    workers.slow_down("claude-sonnet-5-5", 600.0)
    [held, _] = limit_view.look(client, key_prefix="l")
    assert (held.family, held.pace_percent, held.is_short) == ("claude-sonnet", 50, True)
    assert 0 < held.held_seconds <= 600
    # Who is held back from before the first call is seen, too.
    workers.slow_down("mistral", 600.0)
    assert [one.family for one in limit_view.look(client, key_prefix="l")] == ["claude-sonnet", "mistral", "qwen3:8b"]


def test_what_time_gives_back_is_seen_though_nobody_has_written_it() -> None:
    fields = {"family": "m", "endpoint": "e", "l1": "60", "b1": "-30", "at": "0", "factor": "500", "raised": "60000"}

    def seen(now_ms: int) -> tuple[int, int]:
        view = limit_view.view_of(fields, now_ms=now_ms)
        return view.minutes[0].used, view.pace_percent

    # In debt; at half its pace sixty come back in two minutes; a twentieth of the pace comes back a second.
    assert seen(0) == (90, 50)
    assert seen(60_000) == (60, 50)
    assert seen(63_500) == (58, 65)
    assert seen(600_000) == (0, 100)
