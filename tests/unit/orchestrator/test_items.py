"""Lists of objects that are worked off, and figures that get on: work, though the answers are the same every time."""

from dataclasses import replace

import pytest

from chargehand.orchestrator.breaker import Observed, watch
from chargehand.orchestrator.items import is_a_form, is_a_series
from tests.unit.orchestrator.told import call


def at(calls: list[Observed]) -> int | None:
    """How many calls there were when something tripped."""
    return next((end for end in range(1, len(calls) + 1) if watch(calls[:end]) is not None), None)


def test_machines_with_numbers_may_all_be_down_and_guesses_at_a_name_with_one_may_not() -> None:
    down = [call(n, "sh", error="2 packets sent, 0 received", cmd=f"ping -c 2 rack-{n:02}") for n in range(1, 11)]
    guessed = [call(n, "read", error=f"no such file: users{n}.py", path=f"src/users{n}.py") for n in range(1, 11)]

    assert at(down) is None
    assert at(guessed) == 5


@pytest.mark.parametrize(
    ("names", "series"),
    [
        (("rack-01", "rack-02", "rack-03"), True),
        (("HLP-4821", "HLP-4907", "HLP-1133"), True),
        (("31894", "76696", "30592"), True),
        (("0A3F1-9B2C4", "77D01-0BA41", "C0FF3-12E4A"), True),
        (("10", "25", "50"), False),
        (("100", "200", "500"), False),
        (("30s", "60s", "120s"), False),
        (("rack-01", "rack-02", "rack-01"), False),
        (("users", "accounts", "customers"), False),
    ],
)
def test_what_is_one_of_many_by_its_number(names: tuple[str, ...], series: bool) -> None:
    assert is_a_series([call(n, "look", name=name) for n, name in enumerate(names)]) is series


def test_a_form_has_a_name_of_its_own_wherever_it_stands() -> None:
    def deeds(who: tuple[str, ...]) -> list[Observed]:
        days = ("monday", "tuesday", "monday", "tuesday", "monday")
        return [call(n, "book", "booked", day=day, who=one) for n, (day, one) in enumerate(zip(days, who, strict=True))]

    assert is_a_form(deeds(("ulla", "ivo", "mara", "jens", "petra")))
    assert not is_a_form(deeds(("team sync", "sync of team", "the team sync", "team syncs", "sync team")))


def test_mutants_that_are_taken_back_may_all_fail_the_same_way_and_edits_that_pile_up_may_not() -> None:
    def rounds(*, taken_back: bool) -> list[Observed]:
        calls: list[Observed] = []
        for n, sign in enumerate(("<", ">", "+", "-", "*", "/", "%")):
            calls.append(call(4 * n, "edit", "Edited.", path="src/a.py", old="=", new=sign))
            calls.append(call(4 * n + 1, "sh", error="1 test failed", cmd="make test"))
            if taken_back:
                calls.append(call(4 * n + 2, "sh", "", cmd="git restore src/a.py"))
        return calls

    assert at(rounds(taken_back=True)) is None
    assert at(rounds(taken_back=False)) == 8


def test_revisions_tried_one_after_the_other_may_be_good_and_bad_by_turns() -> None:
    calls: list[Observed] = []
    for n, good in enumerate((True, False, True, True, False, True, False, False)):
        calls.append(call(2 * n, "sh", "", cmd=f"git checkout -q {(n + 3) * 7_919_993:x}"))
        calls.append(call(2 * n + 1, "sh", "no crash" if good else "it hangs", cmd="./repro.sh"))

    assert at(calls) is None


def test_done_may_be_the_answer_to_ever_new_work_and_not_to_the_same_in_other_words() -> None:
    def talk(tasks: tuple[str, ...]) -> list[Observed]:
        calls: list[Observed] = []
        for n, task in enumerate(tasks):
            calls.append(call(2 * n, "hand_off", "ok", step="lead", to="coder", task=task))
            calls.append(call(2 * n + 1, "hand_off", "ok", step="coder", to="lead", result="Done."))
        return calls

    work = ("Port the parser", "Write a lexer test", "Document how printing works", "Drop python2 shims")
    loop = (
        "Please fix the login page",
        "The login page, fix it please",
        "Fix the page for login",
        "Login page: fix it",
    )

    assert at(talk(work)) is None
    assert at(talk(loop)) == 4


def test_a_long_report_of_tests_that_pass_is_a_success_after_every_edit() -> None:
    said = "PASS a.test.js\nPASS b.test.js\nTest Suites: 2 passed, 2 total\nTests: 41 passed, 41 total\nSnapshots: 0"
    calls: list[Observed] = []
    for n in range(9):
        calls.append(call(2 * n, "edit", "Edited.", path=f"{n}" * 5, text=f"{n}" * 9))
        calls.append(call(2 * n + 1, "sh", f"{said}\nTime: {n + 1}.5 s\nRan all test suites.", cmd="npx jest"))

    assert at(calls) is None


def test_the_same_look_after_each_of_several_commits_is_no_standstill() -> None:
    def looks(*, committed: bool) -> list[Observed]:
        calls = []
        for n in range(14):
            made = call(n, "make", "all good here") if n % 2 else call(n, "edit", "Edited.", text=f"{n}" * 9)
            fact = made.fact.model_copy(update={"commit": f"c{n // 2}" if committed else None})
            calls.append(replace(made, fact=fact))
        return calls

    assert at(looks(committed=True)) is None
    assert at(looks(committed=False)) == 10


def test_a_list_of_checks_with_one_word_each_is_work() -> None:
    checks = ("mfa", "disk", "firewall", "patches", "antivirus", "usb", "screen", "backup")

    assert at([call(n, f"check_{name}", "compliant", device="lt-17") for n, name in enumerate(checks)]) is None


def test_a_measurement_that_gets_better_on_the_whole_is_progress_and_one_that_jumps_is_none() -> None:
    def rounds(times: tuple[int, ...]) -> list[Observed]:
        calls: list[Observed] = []
        for n, time in enumerate(times):
            calls.append(call(2 * n, "edit", "Edited.", path="hot.c", text=f"{n}" * 9))
            calls.append(call(2 * n + 1, "sh", f"hot: {time} ms per loop, of seven loops in all", cmd="./bench"))
        return calls

    assert at(rounds((1051, 1056, 965, 917, 826, 830, 700))) is None
    assert at(rounds((1051, 1256, 965, 1317, 926, 1130, 1000))) is not None


def test_acknowledgements_of_different_deeds_that_say_the_whole_is_where_it_was_are_a_standstill() -> None:
    def deeds(shares: tuple[str, ...]) -> list[Observed]:
        tools = ("nudge", "remind", "escalate", "call", "mail", "visit")
        return [call(n, tools[n], f"noted. Board: {share} tasks done", who=f"w{n}") for n, share in enumerate(shares)]

    assert at(deeds(("6/10",) * 6)) == 5
    assert at(deeds(("6/10", "6/10", "7/10", "7/10", "8/10", "8/10"))) is None
    assert at(deeds(("10/10",) * 6)) is None


def test_two_jobs_looked_at_in_turn_are_given_one_look_more() -> None:
    looks = [call(n, "job", "running", id="ab"[n % 2]) for n in range(8)]

    assert at(looks) == 5
