"""The breaker: what is a loop, and above all what is none."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chargehand.orchestrator.breaker import Observed, Trip, normalise, watch
from tests.unit.orchestrator import told


def call(seq: int, tool: str = "read_file", *, gave: str = "text", role: str = "", **told_of: Any) -> Observed:
    return told.call(seq, tool, gave, role=role, **told_of)


def rule(*calls: Observed) -> str | None:
    trip = watch(calls)
    return trip.rule if trip else None


def test_nothing_was_called_nothing_trips() -> None:
    assert watch([]) is None


def test_the_third_same_error_of_the_same_call_trips_with_its_rows() -> None:
    calls = [call(1, error="no", path="x"), call(3, gave="ok", path="y"), call(5, error="no", path="x")]

    assert watch(calls) is None
    trip = watch([*calls, call(7, error="no", path="x")])
    assert trip == Trip(
        rule="same_error",
        detail="read_file failed 3 times with the same arguments and ToolRetry.",
        evidence=("a:1", "a:5", "a:7"),
    )


def test_spelling_of_arguments_does_not_hide_a_repetition() -> None:
    one = call(1, error="no", path="x  y", line=1)
    two = call(2, error="no", line=1.0, path=" x y")
    three = call(3, error="no", line="1", path="x\ty\n")

    assert rule(one, two, three) == "same_error"


def test_the_same_error_counts_across_the_agents_of_a_run() -> None:
    calls = [call(1, error="no", path="x", step=step) for step in "abc"]

    assert rule(*calls) == "same_error"


def test_other_arguments_or_another_error_or_a_success_between_is_no_repetition() -> None:
    assert rule(*(call(n, error="no", path="x" * 40 * n) for n in (1, 2, 3))) is None
    assert rule(*(call(n, error=f"no {why}", path="x") for n, why in enumerate(("door", "key", "bell")))) is None
    calls = [
        call(1, error="no", p="x"),
        call(2, error="no", p="x"),
        call(3, gave="ok", p="x"),
        call(4, error="no", p="x"),
    ]
    assert rule(*calls) is None


def test_errors_of_others_do_not_trip_a_step_that_gets_on() -> None:
    others = [call(n, error="no", path="x", step="b") for n in (1, 2, 3)]

    assert rule(*others, call(1, gave="fine", path="y", step="a")) is None


def test_two_calls_in_turn_with_the_same_answers_trip_in_the_second_round() -> None:
    a, b = {"path": "a"}, {"path": "b"}

    assert rule(call(1, **a), call(2, **b), call(3, **a)) is None
    assert rule(call(1, **a), call(2, **b), call(3, **a), call(4, **b)) == "alternation"


def test_edit_and_test_in_turn_with_new_outcomes_is_work() -> None:
    calls = [
        call(1, "apply_fix", path="a", commit="1"),
        call(2, "run", gave="2 failed"),
        call(3, "apply_fix", path="a", commit="2"),
        call(4, "run", gave="1 failed"),
    ]

    assert rule(*calls) is None


def test_polling_whose_answer_changes_is_no_loop() -> None:
    assert rule(*(call(n, "status", gave=f"{n}%", job=7) for n in range(1, 30))) is None


def test_polling_without_an_end_trips() -> None:
    assert rule(*(call(n, "status", gave="0%", job=7) for n in range(1, 6))) == "near_identical"


def test_reading_a_file_in_parts_is_no_loop() -> None:
    assert rule(*(call(n, gave=f"lines {n}", path="big.py", first_line=n * 100) for n in range(1, 15))) is None


def test_guessing_nearly_the_same_name_trips() -> None:
    calls = [
        call(n, error=f"There is no file 'src/handlers/users{n}.py'", path=f"src/handlers/users{n}.py")
        for n in range(5)
    ]

    assert rule(*calls[:4]) is None
    assert rule(*calls) == "near_identical"


def test_failures_of_one_turn_were_made_before_any_answer() -> None:
    calls = [call(n, error=f"no src/handlers/users{n}.py", path=f"src/handlers/users{n}.py", turn=1) for n in range(9)]

    assert rule(*calls) is None


def test_six_calls_that_show_nothing_new_trip() -> None:
    names = ("aaa", "bbbbbb", "ccccccccc", "ddddd")
    first = [call(n, gave=f"text of {name}", path=name) for n, name in enumerate(names)]
    again = [call(10 + n, gave=f"text of {names[i]}", path=names[i]) for n, i in enumerate((2, 0, 3, 3, 1, 2))]

    assert rule(*first, *again[:5]) is None
    assert rule(*first, *again) == "no_change"


def test_files_read_again_in_one_turn_are_one_repetition() -> None:
    reads = [call(10 * turn + n, path=f"{n}" * 9, gave=f"{n}", turn=turn) for turn in (1, 2, 3) for n in range(6)]

    assert rule(*reads[:12]) is None
    assert rule(*reads) == "no_change"


@pytest.mark.parametrize("period", [2, 3, 4, 5])
def test_a_ring_of_calls_trips_when_it_has_been_round_twice(period: int) -> None:
    ring = [call(n, path=f"{n % period}" * 9, gave=f"{n % period}") for n in range(2 * period)]

    assert rule(*ring[:-1]) is None
    assert rule(*ring) == "alternation"


def test_times_ids_and_addresses_do_not_hide_the_same_error() -> None:
    errors = (
        "[2026-11-24T10:00:00Z] request 7f3c failed in 12 ms: no such key at 0x7ffe12 (line 4)",
        "[2026-11-24T10:00:07Z] request 81aa failed in 3.5 s: no such key at 0x7ffe99 (line 4)",
        "[2026-11-24T10:01:00Z] request 9b21 failed in 800 ms: no such key at 0x7ffe00 (line 4)",
    )

    assert rule(*(call(n, error=error, key="x") for n, error in enumerate(errors))) == "same_error"


def test_another_line_after_an_edit_is_another_error() -> None:
    calls = []
    for n in range(8):
        calls.append(call(2 * n, "lint", error=f"a.py:{10 + 7 * n}: line too long", path="a.py"))
        calls.append(call(2 * n + 1, "edit", gave="Edited.", path="a.py", text=f"{n}" * 9, commit=f"{n}"))

    assert rule(*calls) is None


def test_a_number_that_falls_is_worked_on_although_it_is_told_as_an_error() -> None:
    assert rule(*(call(n, error=f"{30 - n} before you", hall="b") for n in range(12))) is None


def test_an_error_that_asks_to_come_again_is_asked_once_more_and_again_after_waits() -> None:
    busy = [call(n, error="503 Service Unavailable", url="x") for n in range(4)]
    waits = [call(10 * n + 1, "sleep", gave="", seconds=5) for n in range(4)]
    patient = [one for n in range(4) for one in (call(10 * n, error="429", url="x"), waits[n])]

    assert rule(*busy[:3]) is None
    assert rule(*busy) == "same_error"
    assert rule(*patient) is None
    assert rule(*patient, call(99, error="429", url="x")) == "same_error"


def test_two_hundred_agents_at_one_busy_service_are_no_loop_of_any_of_them() -> None:
    calls = [call(n, "http_get", error="429 Too Many Requests", url="x", step=f"s{n}") for n in range(200)]

    assert all(watch(calls[: n + 1]) is None for n in range(200))


def test_of_a_crowd_before_one_closed_door_only_the_first_ask() -> None:
    calls = [call(n, "open", error="The door is locked for good.", door="x", step=f"s{n}") for n in range(40)]

    asked = [n for n in range(40) if watch(calls[: n + 1]) is not None]

    assert asked == [2, 3, 4, 5, 6, 7]


def test_the_same_test_failing_after_each_edit_trips_at_the_fourth() -> None:
    calls = []
    for n in range(4):
        calls.append(call(2 * n, "edit", gave="Edited.", text=f"{n}" * 9, commit=f"{n}"))
        calls.append(call(2 * n + 1, "test", error=f"1 failed in 0.{n}1s"))

    assert rule(*calls[:-1]) is None
    assert rule(*calls) == "same_error"


def test_tests_that_pass_after_each_edit_are_no_loop() -> None:
    calls = []
    for n in range(12):
        calls.append(call(2 * n, "edit", gave="Edited.", text=f"{n}" * 9, commit=f"{n}"))
        calls.append(call(2 * n + 1, "test", gave="All 12 tests passed."))

    assert rule(*calls) is None


def test_many_objects_treated_alike_are_no_loop() -> None:
    assert rule(*(call(n, "label", gave="ok", issue=100 + n) for n in range(20))) is None
    assert rule(*(call(n, "check", gave="active", host=f"web-{n}") for n in range(20))) is None
    assert rule(*(call(n, "grep", gave="no matches", file=name) for n, name in enumerate("abcdefghi"))) is None


def test_the_same_state_after_acts_of_all_kinds_trips() -> None:
    acts = ("click", "type", "scroll", "press", "drag")
    calls = [call(n, act, gave="page: log in", value=f"{n}" * 5) for n, act in enumerate(acts)]

    assert rule(*calls[:4]) is None
    assert rule(*calls) == "no_change"


def test_the_same_look_after_five_deeds_trips() -> None:
    calls = []
    for n in range(5):
        calls.append(call(2 * n, "set", gave="ok", value=f"{n}" * 5))
        calls.append(call(2 * n + 1, "look", gave="status: degraded"))

    assert rule(*calls[:-1]) is None
    assert rule(*calls) == "no_change"


def test_polling_with_sleep_in_between_waits_for_the_fifth_same_answer() -> None:
    polls = [
        one for n in range(5) for one in (call(2 * n, "job", gave="QUEUED"), call(2 * n + 1, "sleep", gave="", s=5))
    ]

    assert rule(*polls[:8]) is None
    assert rule(*polls[:9]) == "near_identical"


def test_a_clock_is_no_progress_and_the_time_of_work_is() -> None:
    looks = [f'{{"messages": [], "now": "2026-11-24T10:00:0{n}Z"}}' for n in range(9)]
    works = [f'{{"status": "running", "now": "2026-11-24T10:00:0{n}Z"}}' for n in range(9)]

    assert rule(*(call(n, "inbox", gave=gave) for n, gave in enumerate(looks[:5]))) == "near_identical"
    assert rule(*(call(n, "job", gave=gave) for n, gave in enumerate(works))) is None


def test_a_hand_off_back_and_forth_twice_trips() -> None:
    pairs = [("coder", "triager"), ("triager", "coder")] * 2
    calls = [
        call(n, "hand_off", step=f"s{n}", role=one, gave=f"{n}", to=other, why=f"{n}")
        for n, (one, other) in enumerate(pairs)
    ]

    assert rule(*calls[:3]) is None
    assert rule(*calls) == "ping_pong"


def hand_offs(*ways: tuple[str, str, str], tool: str = "hand_off") -> list[Observed]:
    return [
        call(n, tool, step=f"s{n}", role=giver, gave=f"{n}", to=taker, why=why)
        for n, (giver, taker, why) in enumerate(ways)
    ]


def test_work_handed_round_three_agents_twice_trips() -> None:
    ring = [("a", "b", "yours"), ("b", "c", "yours"), ("c", "a", "yours")] * 2

    assert rule(*hand_offs(*ring[:5])) is None
    assert rule(*hand_offs(*ring)) == "ping_pong"


def test_a_call_that_names_another_agent_is_a_hand_off_unless_it_says_something_else() -> None:
    same = [("desk", "legal", "case 7"), ("legal", "desk", "case 7")] * 2
    talk = [(giver, taker, "abcd"[n] * 9 + " " + "efgh"[n] * 9) for n, (giver, taker, _) in enumerate(same)]

    assert rule(*hand_offs(*same, tool="assign")) == "ping_pong"
    assert rule(*hand_offs(*talk, tool="send_message")) is None


def test_agents_of_one_role_are_told_apart_by_what_they_call_each_other() -> None:
    ways = [("tax", "payroll"), ("payroll", "tax")] * 2
    calls = [
        call(n, "assign", step=giver, role="auditor", gave=f"{n}", to=taker, note="yours")
        for n, (giver, taker) in enumerate(ways)
    ]

    assert rule(*calls[:3]) is None
    assert rule(*calls) == "ping_pong"


def test_one_thing_goes_round_in_whatever_words_unless_somebody_does_something_about_it() -> None:
    notes = ("belongs here", "please look", "not ours to do", "kindly take over", "send it elsewhere")
    ways = [("first", "second"), ("second", "first")] * 3
    calls = [
        call(2 * n, "route", step=giver, role=giver, to=taker, incident="INC-8091", note=note)
        for n, ((giver, taker), note) in enumerate(zip(ways, notes, strict=False))
    ]
    worked = [
        one
        for n, handed in enumerate(calls)
        for one in (
            call(2 * n - 1, "read_log", step=handed.step, role=handed.role, gave=f"line {n}: {notes[n]}"),
            handed,
        )
    ]

    assert rule(*calls[:4]) is None
    assert rule(*calls) == "ping_pong"
    assert rule(*worked) is None


def test_reviews_that_lead_to_commits_are_no_ping_pong() -> None:
    calls = []
    for n, why in enumerate(("totals are rounded", "name the constant", "named it now", "one test is missing")):
        giver, taker = ("coder", "reviewer") if n % 2 == 0 else ("reviewer", "coder")
        calls.append(call(2 * n, "edit", gave="Edited.", step=giver, role=giver, text=why, commit=f"{n}"))
        calls.append(call(2 * n + 1, "hand_off", step=giver, role=giver, to=taker, why=why))

    assert rule(*calls) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": "1.50"}, {"a": 1.5}, True),
        ({"a": "007"}, {"a": 7}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": "1e3"}, {"a": 1000}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": "Foo"}, {"a": "foo"}, False),
    ],
)
def test_only_what_means_the_same_is_the_same(one: Any, other: Any, same: bool) -> None:
    assert (repr(normalise(one)) == repr(normalise(other))) is same


# What a tool says beside what is new: acknowledgements, failures, times, ids.
PHRASES = st.sampled_from(
    (
        "",
        "ok",
        "Edited.",
        "no results",
        "error: not found",
        "503 try again later",
        "took 12 ms",
        "at 2026-11-24T10:00:00Z",
        "request id 7f3a91",
        "status: pending",
        "1 failed, 3 passed",
        "[]",
    )
)
TOOLS = st.sampled_from(("bripo", "calvu", "dremi"))
HISTORY = st.lists(
    st.tuples(TOOLS, st.integers(0, 2), PHRASES, st.booleans(), st.sampled_from((None, "c1", "c2")), st.booleans()),
    max_size=24,
)


def new_word(index: int) -> str:
    return "novum" + "".join("bcdfghjklm"[int(digit)] for digit in str(index))


def tell(history: list[Any], *, news: bool = False, step: str = "a") -> list[Observed]:
    calls, turn = [], 0
    for seq, (tool, value, phrase, failed, commit, together) in enumerate(history):
        turn += 0 if together else 1
        said = f"{phrase} {new_word(seq)}" if news else phrase
        outcome = {"error": said or "no"} if failed else {"gave": said}
        calls.append(call(seq, tool, step=step, turn=turn, commit=commit, value=f"{value}" * 9, **outcome))
    return calls


@given(HISTORY)
def test_something_new_in_every_call_never_trips(history: list[Any]) -> None:
    calls = tell(history, news=True)

    assert all(watch(calls[:count]) is None for count in range(1, len(calls) + 1))


@given(
    st.lists(st.tuples(TOOLS, PHRASES, st.booleans(), st.sampled_from((None, "c1"))), min_size=1, max_size=5),
    st.integers(0, 4),
)
def test_any_block_of_up_to_five_calls_trips_when_it_is_repeated(block: list[Any], before: int) -> None:
    work = [call(n, "bripo", gave=new_word(n), path=new_word(n + 50)) for n in range(before)]
    period = len(block)
    loop = []
    for n in range(5 * period + 6):
        tool, phrase, failed, commit = block[n % period]
        outcome = {"error": phrase or "no"} if failed else {"gave": phrase}
        loop.append(call(before + n, tool, commit=commit, place=f"{n % period}" * 9, **outcome))

    tripped = next(n for n in range(len(loop)) if watch([*work, *loop[: n + 1]]) is not None) + 1

    # Twice round and three calls, which is what may be wasted; busy services get one more.
    busy = all("later" in phrase or "pending" in phrase for _, phrase, failed, _ in block if failed)
    assert tripped <= max(6, 2 * period + 3) + (1 if busy else 0)


@given(HISTORY)
def test_the_names_of_tools_and_arguments_do_not_matter(history: list[Any]) -> None:
    calls = tell(history)
    renamed = [
        replace(one, fact=one.fact.model_copy(update={"tool": one.tool[::-1] + "x", "arguments": {"zu": argument}}))
        for one in calls
        for argument in one.fact.arguments.values()
    ]

    before, after = watch(calls), watch(renamed)

    assert (before and (before.rule, before.evidence)) == (after and (after.rule, after.evidence))


@given(HISTORY, st.randoms(use_true_random=False))
def test_calls_of_other_steps_in_between_do_not_matter(history: list[Any], rng: Any) -> None:
    calls = tell(history)
    # Their arguments are their own: the same error of the same call is the whole run's matter.
    others = [
        replace(one, step="b", fact=one.fact.model_copy(update={"arguments": {"value": f"other {one.seq}"}}))
        for one in calls
    ]
    crowd: list[Observed] = []
    for one in calls:
        crowd += [others.pop() for _ in range(rng.choice((0, 1, 2))) if others]
        crowd.append(one)

    assert watch(crowd) == watch(calls)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # a busy machine is no failure
@given(VALUES)
def test_normalising_twice_changes_nothing(value: Any) -> None:
    assert normalise(normalise(value)) == normalise(value)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans(), st.integers(0, 1)), max_size=20))
def test_any_history_is_judged_and_evidence_names_its_rows(history: list[tuple[str, int, bool, int]]) -> None:
    calls = [
        call(seq, path=f"{path}", step=step, error="no" if failed else "", gave=str(gave))
        for seq, (step, path, failed, gave) in enumerate(history)
    ]

    trip = watch(calls)

    assert trip is None or set(trip.evidence) <= {observed.place for observed in calls}


def test_a_name_that_is_new_in_every_answer_hides_no_repetition() -> None:
    calls = [
        call(seq, "charge", gave=f"declined: insufficient funds, charge was ch_{seq}x7kq2b{seq}", card="tok")
        for seq in range(1, 6)
    ]

    assert rule(*calls[:4]) is None
    assert rule(*calls) == "near_identical"


def test_a_name_that_is_asked_for_later_is_a_result() -> None:
    calls = []
    for seq in range(1, 16, 2):
        job = f"job{seq}x7kq2b{seq}"
        calls.append(call(seq, "next_job", gave=f"the next job in the queue is {job}", queue="in"))
        calls.append(call(seq + 1, "start_job", gave=f"{seq * 7919} rows of {job}", job=job))

    assert all(rule(*calls[: index + 1]) is None for index in range(len(calls)))


def test_one_letter_in_other_words_is_a_repetition_and_a_form_with_other_names_is_none() -> None:
    text = "dear kim the papers you asked for are on my desk and can be fetched today"
    words = text.split()
    letters, forms = [], []
    for seq in range(1, 8):
        reworded = [*words[:seq], f"word{chr(96 + seq)}", *words[seq + 1 :]]
        filled = ["dear", f"name{chr(96 + seq)}", *words[2:]]
        letters.append(call(seq, "send", gave="Message sent.", to="kim@mail.test", text=" ".join(reworded)))
        forms.append(call(seq, "send", gave="Message sent.", text=" ".join(filled)))

    assert rule(*letters[:5]) == "near_identical"
    assert all(rule(*forms[: index + 1]) is None for index in range(len(forms)))


def test_a_search_that_gets_narrower_may_fail_the_same_each_time() -> None:
    """A bisection that is bad all the way."""
    calls = []
    for seq, left in enumerate((64, 32, 16, 8, 4, 2, 1), start=1):
        calls.append(call(2 * seq, "bash", gave="check: FAILED\nexit code 2", command="make check"))
        calls.append(call(2 * seq + 1, "bash", gave=f"Bisecting: {left} revisions left", command="git bisect bad"))

    assert all(rule(*calls[: index + 1]) is None for index in range(len(calls)))


def test_a_foreman_with_another_task_each_time_is_no_ping_pong() -> None:
    calls = []
    for seq in range(1, 30, 3):
        task, result = (f"{letter}{seq}a {letter}{seq}b {letter}{seq}c {letter}{seq}d" for letter in "tr")
        calls.append(call(seq, "delegate", gave="", step="s1", role="lead", to="hand", task=task))
        calls.append(call(seq + 1, "compute", gave=f"value {seq * 7919}", step="s2", role="hand", of=task))
        calls.append(call(seq + 2, "handoff", gave="", step="s2", role="hand", to="lead", result=result))

    assert all(rule(*calls[: index + 1]) is None for index in range(len(calls)))


def test_an_error_that_an_edit_moved_by_a_line_is_the_same_and_one_far_below_is_another() -> None:
    def tries(step: int) -> list[Observed]:
        calls = []
        for seq in range(1, 12, 2):
            calls.append(call(seq, "edit", gave="edited", text=f"{'abcdefghijkl'[seq]}{seq * 7}"))
            said = f"app/load.py:{40 + step * seq}: error: incompatible type"
            calls.append(call(seq + 1, "check", gave=said, what="all"))
        return calls

    assert rule(*tries(1)) is not None
    assert rule(*tries(20)) is None


def test_a_job_that_says_how_far_it_is_is_stuck_when_only_its_clock_runs() -> None:
    def looks(step: int) -> list[Observed]:
        said = "reindex is running at {} %, elapsed {} s"
        return [call(seq, "status", gave=said.format(30 + step * seq, 10 * seq), job="r") for seq in range(1, 7)]

    assert rule(*looks(0)[:4]) is None
    assert rule(*looks(0)) is not None
    assert rule(*looks(3)) is None


def test_serial_numbers_that_jump_about_are_no_gauge_and_steps_are_one() -> None:
    serials = (81_204, 7_311, 55_120, 23_876, 90_412)
    jumping = [call(i, "post", gave=f"comment {n} created", text="again") for i, n in enumerate(serials)]
    rising = [call(i, "post", gave=f"comment {n} created", text="again") for i, n in enumerate(sorted(serials))]

    assert rule(*jumping) is not None
    assert rule(*rising) is None


def test_a_state_that_swings_between_two_is_a_standstill() -> None:
    def drafts(scores: tuple[int, ...]) -> list[Observed]:
        calls = []
        for seq, score in enumerate(scores):
            calls.append(call(2 * seq, "write", gave="Draft saved.", text="abcdefgh"[seq]))
            calls.append(call(2 * seq + 1, "score", gave=f"Readability {score}: too long", doc="d"))
        return calls

    assert rule(*drafts((61, 72, 61, 72, 61, 72))) == "no_change"
    assert rule(*drafts((61, 72, 65, 74, 68, 77))) is None


def test_one_command_for_other_objects_is_work_and_one_question_in_other_words_is_none() -> None:
    long = "in every one of them the header warns of a macro that is defined twice, as it did before " * 2
    objects = ("parser", "lexer", "emitter", "driver", "symbols", "linker", "archive", "output")
    asked = (
        "opening hours of the museum", "museum opening hours", "the opening hours of museum",
        "which opening hours has the museum", "museum: opening hours please", "opening hours museum",
    )  # fmt: skip

    built = [call(seq, "sh", gave=long, cmd=f"cc -c src/{name} -o out/{name}") for seq, name in enumerate(objects)]
    searched = [call(seq, "search", gave="Three pages mention it.", q=q) for seq, q in enumerate(asked)]

    assert rule(*built) is None
    assert rule(*searched) == "near_identical"


def test_a_status_of_no_error_is_no_failure() -> None:
    answers = [call(seq, "dig", gave=f"status: NOERROR, v={seq}", name="x") for seq in range(5)]

    assert all(answer.tone != "failure" for answer in answers)
