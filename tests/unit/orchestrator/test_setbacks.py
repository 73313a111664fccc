"""A run that cannot be advanced is tried ever more seldom, and the others as before."""

from uuid import UUID

from chargehand.orchestrator.supervisor.setbacks import MOST_ROUNDS, Setbacks

BROKEN, SOUND = UUID(int=1), UUID(int=2)


def tried(setbacks: Setbacks, rounds: int) -> list[int]:
    """The rounds in which the broken run was tried; the sound one is tried in each."""
    found: list[int] = []
    for number in range(rounds):
        due = setbacks.due([BROKEN, SOUND])
        assert SOUND in due
        if BROKEN in due:
            found.append(number)
            setbacks.failed(BROKEN)
    return found


def test_the_rounds_between_two_tries_double_up_to_a_minute() -> None:
    assert tried(Setbacks(), 40) == [0, 2, 5, 10, 19, 36]
    late = tried(Setbacks(), 2_000)
    assert late[-1] - late[-2] == MOST_ROUNDS + 1


def test_a_run_that_has_got_on_meanwhile_begins_anew() -> None:
    setbacks = Setbacks()
    tried(setbacks, 40)
    setbacks.due([SOUND])
    assert tried(setbacks, 6) == [0, 2, 5]
