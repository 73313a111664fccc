"""How long a round of the watch loop stays with runs before it looks for what was lost again."""

from uuid import UUID

from chargehand.orchestrator.supervisor.watch import for_a_while

RUNS = [UUID(int=number) for number in range(5)]


def test_runs_are_gone_through_in_order_until_the_time_is_up() -> None:
    moments = iter([0.0, 0.4, 0.8, 1.2])
    assert list(for_a_while(RUNS, seconds=1, clock=lambda: next(moments))) == RUNS[:3]


def test_a_round_that_is_late_goes_through_one_run_all_the_same() -> None:
    moments = iter([0.0, 9.0])
    assert list(for_a_while(RUNS, seconds=1, clock=lambda: next(moments))) == RUNS[:1]


def test_a_round_with_time_goes_through_all() -> None:
    assert list(for_a_while(RUNS, seconds=1, clock=lambda: 0.0)) == RUNS
