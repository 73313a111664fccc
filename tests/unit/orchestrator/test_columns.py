"""Which numbers in answers are noise, and which tell how far something is."""

from chargehand.orchestrator.columns import columns, noise


def test_a_large_number_that_goes_up_and_down_is_noise_though_the_state_beside_it_changes() -> None:
    answers = [
        columns(f"state {state}, seen: {number}")
        for state, number in zip("abab", (900, 27_385, 5_847, 21_535), strict=True)
    ]

    noisy = noise([answers])

    assert noisy == {("seen", 1)}
    assert len({answer.without(noisy) for answer in answers}) == 2


def test_a_number_that_only_grows_or_moves_by_small_steps_is_none() -> None:
    grows = [columns(f"{rows} rows read") for rows in (1_000, 9_000, 30_000, 31_000)]
    sways = [columns(f"loss 0.{places}") for places in ("91230", "90110", "91020", "90870")]
    few = [columns(f"failing {count}") for count in (12, 3, 9, 1)]

    assert noise([grows]) == noise([sways]) == noise([few]) == frozenset()


def test_a_part_of_a_whole_is_never_set_aside() -> None:
    answers = [columns(f"{done} of 9000, {share}% done") for done, share in ((8_000, 90), (1_000, 11), (7_000, 80))]

    assert noise([answers]) <= {("", 1)}
    assert len({answer.without(frozenset({("", 1), ("of", 1)})) for answer in answers}) == 3


def test_questions_to_one_tool_tell_together_what_each_is_asked_too_rarely_to_show() -> None:
    up, down = [[columns(f"ok T:{span}s") for span in spans] for spans in ((2.1, 7.4), (8.1, 1.3))]

    assert noise([up]) == noise([down]) == frozenset()
    assert noise([up, down]) == {("T", 1)}


def test_two_jobs_that_both_go_on_are_no_noise() -> None:
    one, other = [[columns(f"elapsed {span} s") for span in spans] for spans in ((10, 20, 30), (5, 15, 25))]

    assert noise([one, other]) == frozenset()
