"""A small slice of the figures about money and limits; `make bench` has the large ones."""

import json

import pytest

from benchmarks import cost, fairness, limits, money, reserving
from benchmarks.ground import Ground
from chargehand.workers.models.limits import RateLimits
from tests.integration.test_bench_slice import ground

__all__ = ["ground"]


def test_racing_workers_that_crash_overspend_nothing_and_leak_nothing(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(money, "CRASH_CHANCE", 0.06)
    monkeypatch.setattr(money, "RUNS", 2)
    found = money.race(ground, reservations=120, workers=8, cap_microusd=12_000)

    assert (found.overspent_microusd, found.leaked_microusd) == (0, 0)
    assert found.race.crashes > 0
    assert found.settled_seconds < money.SETTLED_WITHIN_SECONDS


def test_a_turn_with_money_is_held_against_the_same_turn_without(ground: Ground) -> None:
    figures = {figure.name: figure for figure in reserving.measure(ground, pairs=20, warm_up=2)}

    assert figures["reserve_settle_overhead_ratio"].target == figures["reserve_settle_cpu_ratio"].target == 1.05
    assert all(figure.value > 0 for name, figure in figures.items() if "backend" not in name)
    (row,) = ground.connections.rows(
        ground.tenant, "SELECT turns, spent_microusd, reserved_microusd FROM steps WHERE turns > 0", {}
    )
    # Both take a turn; only one of them spends.
    assert row == {"turns": 44, "spent_microusd": 22, "reserved_microusd": 0}


def test_a_provider_with_published_limits_refuses_next_to_nothing(redis_url: str) -> None:
    small = RateLimits(requests=6_000, input_tokens=6_000_000, output_tokens=1_600_000)
    provider, shares = limits.drive(redis_url, spent_seconds=0.2, measured_seconds=1.0, limits=small, workers=8)

    assert provider.calls > 5
    assert provider.refused <= provider.calls * 0.05
    assert max(shares) > 0


def test_jains_index_is_one_for_equal_shares_and_falls_with_their_difference() -> None:
    assert fairness.jain([5, 5, 5]) == 1
    assert fairness.jain([1, 0, 0, 0]) == 0.25
    assert round(fairness.jain([3, 3, 3, 3, 2, 2]), 3) == 0.97


def test_the_recorded_run_has_eight_agents_side_by_side_and_adds_up() -> None:
    trace = json.loads(cost.TRACE.read_text())
    figures = {one.name: one for one in cost.measure()}

    assert len(trace["steps"]) >= 12
    of_twelve = json.loads(cost.TRACE_OF_TWELVE.read_text())
    assert len(of_twelve["steps"]) == 12
    assert len({call["step"] for call in of_twelve["calls"] if call["role"] == "triager"}) == 8
    assert figures["cost_both_share_12_steps"].ok
    assert figures["cost_both_share"].value == pytest.approx(
        figures["cost_routed_cached_usd"].value / figures["cost_all_large_uncached_usd"].value
    )
    assert figures["cost_both_share"].value < figures["cost_saved_by_caching_share"].value
