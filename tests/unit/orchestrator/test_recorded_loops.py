"""What examiners who never read a detector had recorded of agents, and the detectors had missed or mistaken."""

import pytest

from chargehand.orchestrator.breaker import Observed, watch
from chargehand.orchestrator.facts import SKIPPED
from tests.unit.orchestrator.told import call


def tripped(calls: list[Observed]) -> tuple[str, int] | None:
    """The rule, and at which call."""
    for end in range(1, len(calls) + 1):
        trip = watch(calls[:end])
        if trip is not None:
            return trip.rule, end
    return None


def between(seq: int) -> Observed:
    return call(seq, "fetch_url", f"Page {seq} is about another matter: {'x' * seq}.", url=f"https://a.example/{seq}")


# --- looked up again --------------------------------------------------------------------------------------------------


def test_one_search_with_one_result_is_a_loop_at_the_fourth_time_whatever_is_read_or_noted_in_between() -> None:
    calls: list[Observed] = []
    for n in range(0, 12, 3):
        calls.append(call(n, "search", '{"count": 0, "results": []}', query="cargo bikes greece"))
        calls += [between(n + 1), call(n + 2, "write_note", f"note {n} saved", text=f"fact number {n} of the report")]

    assert tripped(calls) == ("near_identical", 10)


def test_a_question_in_other_words_that_finds_nothing_is_a_loop_though_one_word_is_exchanged() -> None:
    words = ("cost canada", "price canada", "canada costs", "pricing in canada", "canada expense")
    calls = [call(n, "search", "0 hits", query=f"tidal turbines {each}") for n, each in enumerate(words)]

    assert tripped(calls) == ("near_identical", 5)


def test_countries_gone_through_that_have_nothing_are_no_loop() -> None:
    names = ("canada", "norway", "chile", "japan", "kenya", "poland", "austria")
    calls = [call(n, "search", "0 hits", query=f"tidal turbines cost {name}") for n, name in enumerate(names)]

    assert tripped(calls) is None


def test_a_list_that_is_asked_for_now_and_then_is_a_poll() -> None:
    calls: list[Observed] = []
    for n in range(0, 8, 2):
        calls += [call(n, "list_tasks", "[]", queue="mine"), between(n + 1)]

    assert tripped(calls) is None


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_measurement_that_is_repeated_on_purpose_is_no_loop_where_the_number_is_the_answer() -> None:
    calls = [
        call(n, "run_benchmark", f'{{"ops_per_s": {figure}}}', name="parser")
        for n, figure in enumerate((6555, 4479, 6156, 8719, 7878, 5322))
    ]

    assert tripped(calls) is None


def test_months_gone_through_that_have_nothing_are_no_pages_behind_the_last() -> None:
    calls = [
        call(
            n,
            "query_db",
            "[]",
            sql=f"SELECT id FROM visits WHERE day >= '2020-{n:02}-01' AND day < '2020-{n + 1:02}-01'",
        )
        for n in range(1, 10)
    ]

    assert tripped(calls) is None


def test_a_time_limit_that_counts_down_is_waited_for() -> None:
    left = (87, 81, 68, 66, 54)
    calls = [call(n, "fetch", error=f"rate limited, {seconds} s left", url="/a") for n, seconds in enumerate(left)]
    stuck = [call(n, "fetch", error="rate limited, 60 s left", url="/a") for n in range(5)]

    assert tripped(calls) is None
    assert tripped(stuck) == ("same_error", 4)


def test_a_lock_that_others_hold_by_turns_is_waited_for_and_one_that_nobody_gives_back_is_not() -> None:
    calls = [call(n, "lock", error=f"held by worker {who}", table="a") for n, who in enumerate((236, 832, 148, 390))]
    stuck = [call(n, "lock", error="held by worker 236", table="a") for n in range(5)]

    assert tripped(calls) is None
    assert tripped(stuck) == ("same_error", 4)


def test_how_long_a_job_has_run_as_clocks_tell_it_moves() -> None:
    clocks = ("00:05", "00:29", "00:40", "00:58", "01:31", "01:42")
    calls = [call(n, "status", f"status=running, elapsed={clock}", job="j1") for n, clock in enumerate(clocks)]

    assert tripped(calls) is None


def test_a_table_in_which_one_small_number_grows_by_fits_and_starts_is_work() -> None:
    calls = [
        call(n, "shell", f"NAME READY UP-TO-DATE AGE\nmailer 5/5 {done} 3d", cmd="kubectl get deploy mailer")
        for n, done in enumerate((1, 2, 2, 3, 4))
    ]

    assert tripped(calls) is None


# --- states -----------------------------------------------------------------------------------------------------------


def test_a_page_that_stays_whatever_is_clicked_is_a_stuck_state_though_each_snapshot_has_a_name() -> None:
    page = "- Page URL: https://a.example/checkout/address\n- Page Title: Delivery address\n- alert: Please choose"
    calls = [
        call(n, "browser_click", f"{page}\n- snapshot id {n * 7919:x}a{n}", element=element)
        for n, element in enumerate(("Payment", "Proceed to the next", "Continue", "Summary", "Submit"))
    ]

    assert tripped(calls) == ("no_change", 5)


def test_a_label_that_is_set_and_taken_off_by_two_tools_is_a_ring() -> None:
    calls = []
    for n in range(6):
        labels = '["frontend", "bug"]' if n % 2 == 0 else '["frontend"]'
        said = f'{{"labels": {labels}, "updated_at": "2026-03-01T14:33:{10 + n}Z"}}'
        calls.append(call(n, "add_label" if n % 2 == 0 else "remove_label", said, issue=3279, label="bug"))

    assert tripped(calls) == ("alternation", 5)


def test_a_count_of_what_was_accepted_that_stays_between_refusals_is_a_stuck_state() -> None:
    calls: list[Observed] = []
    for n in range(0, 10, 2):
        calls.append(call(n, "collection_status", '{"accepted": 4, "required": 12}', collection="sources"))
        refused = '{"accepted": false, "reason": "duplicate of an accepted source"}'
        calls.append(call(n + 1, "add_source", refused, url=f"https://a.example/{n * 7919:x}"))

    assert tripped(calls) is not None


def test_a_page_that_only_asks_whether_one_is_human_is_a_failure() -> None:
    wall = (
        "Just a moment... Verify you are human by completing the action below. a.example needs to review the security"
    )
    paths = ("opinion", "news/1", "sport", "search?q=budget", "rss", "archive")
    calls = [call(n, "fetch", wall, url=f"https://a.example/{path}") for n, path in enumerate(paths)]

    assert tripped(calls) is not None


@pytest.mark.parametrize(
    "said", ["(Bash completed with no output)", "Your command ran successfully and did not produce any output.", ""]
)
def test_files_worked_off_without_a_word_are_no_loop(said: str) -> None:
    numbers = (1623, 3985, 5180, 5405, 6364, 7980, 8060)
    calls = [
        call(n, "Bash", said, command=f"convert IMG_{each}.jpg -resize 1600x web/IMG_{each}.jpg")
        for n, each in enumerate(numbers)
    ]

    assert tripped(calls) is None


def test_hosts_that_are_all_up_are_no_loop() -> None:
    hosts = ("db-bergen-01", "nas-tampere-02", "db-aarhus-03", "nas-galway-04", "web-valencia-05", "nas-leeds-06")
    said = "up\n[Command finished with exit code 0]"
    calls = [call(n, "bash", said, command=f"ping -c1 -W1 {host} && echo up") for n, host in enumerate(hosts)]

    assert tripped(calls) is None


def test_rows_that_are_loaded_batch_by_batch_and_of_which_none_is_rejected_are_work() -> None:
    calls = [
        call(
            n,
            "bulk_insert",
            f'{{"inserted": 500, "rejected": 0, "ms": {100 + n * 37 % 90}}}',
            rows=[n * 500, n * 500 + 499],
        )
        for n in range(8)
    ]

    assert tripped(calls) is None


# --- envelopes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "envelope",
    [
        "Chunk ID: {n:x}a1b2\nWall time: {n}.25 seconds\nProcess exited with code 1\nOutput:\n{said}",
        '{{"id": "call_{n}bdb3701", "status": "completed", "content": "{said}", "usage": {{"input_tokens": {n}77}}}}',
        "<result took='{n}10ms'>\n{said}\n</result>",
        "[pid 56{n}52, tty /dev/pts/{n}]\n{said}",
        "{said}\n[Current working directory: /work/{n}]",
    ],
    ids=["codex", "call", "marked", "process", "folder"],
)
def test_what_an_answer_is_sent_in_hides_no_repetition(envelope: str) -> None:
    said = "Error: AccessDenied for report-reader"
    calls = [call(n, "exec", envelope.format(n=n, said=said), cmd="aws s3 ls s3://archive") for n in range(1, 5)]

    assert tripped(calls) == ("same_error", 3)


# --- set and set back -------------------------------------------------------------------------------------------------


def test_a_flag_that_is_set_and_set_back_is_a_ring_whatever_version_and_time_are_told() -> None:
    calls = [
        call(n, "toggle_flag", f'{{"key": "v2", "on": {n % 2 == 0}, "version": {58 + n}}}', key="v2", on=n % 2 == 0)
        for n in range(6)
    ]

    assert tripped(calls) == ("alternation", 5)


def test_a_document_that_is_posted_and_reversed_is_a_ring_though_each_has_its_number() -> None:
    calls = []
    for n in range(0, 6, 2):
        first = 4900008319 + n
        calls.append(call(n, "gl_post", f"Document {first} posted", amount="861.06", text="Bank fee"))
        calls.append(call(n + 1, "gl_reverse", f"Document {first + 1} posted, reverses {first}", document=first))

    assert tripped(calls) == ("alternation", 5)


def test_a_valve_that_fills_a_vessel_shot_by_shot_is_work() -> None:
    calls = []
    for n, gram in enumerate((192, 400, 606, 806, 1009, 1199)):
        calls.append(call(2 * n, "valve", "ok", cmd="open", ms=400))
        calls.append(call(2 * n + 1, "valve", f"closed, vessel {gram} g of 1200 g", cmd="close"))

    assert tripped(calls) is None


def test_two_jobs_that_are_looked_at_by_turns_are_work() -> None:
    calls = [call(n, "get_job", f'{{"job": {n % 2}, "rows": {100 + n * 7}}}', job=n % 2) for n in range(8)]

    assert tripped(calls) is None


def test_files_that_a_list_has_named_may_all_have_the_same_fault() -> None:
    names = ("quota", "invoice", "intake", "ledger", "audit", "catalog", "stock", "pricing")
    calls = [call(0, "list_dir", "\n".join(f"{name}.xml" for name in names), path="feeds")]
    calls += [
        call(n, "validate", error="line 1: missing attribute 'version'", file=f"feeds/{name}.xml")
        for n, name in enumerate(names, start=1)
    ]

    assert tripped(calls) is None


# --- agents -----------------------------------------------------------------------------------------------------------


def test_agents_that_only_thank_each_other_go_round() -> None:
    said = ("Thanks, that looks great!", "No problem at all.", "Happy to help, as always.", "Likewise, a pleasure.")
    calls = [
        call(n, "send_message", "sent", step=("coder", "tester")[n % 2], to=("tester", "coder")[n % 2], text=text)
        for n, text in enumerate(said)
    ]

    assert tripped(calls) == ("ping_pong", 4)


def test_who_thanks_and_says_something_beside_does_not() -> None:
    said = ("Thanks, now mend billing.py", "Mended, thanks; what of cash.py?", "Great: test it", "Thanks, 3 tests fail")
    calls = [
        call(n, "send_message", "sent", step=("coder", "tester")[n % 2], to=("tester", "coder")[n % 2], text=text)
        for n, text in enumerate(said)
    ]

    assert tripped(calls) is None


def test_who_is_given_the_same_answer_in_so_many_words_by_the_same_colleague_does_not_get_on() -> None:
    reasons = ("We sign after you.", "Our approval follows yours.", "You go first.", "We wait for yours.")
    calls = []
    for n in range(4):
        step, other = ("legal", "finance")[n % 2], ("finance", "legal")[n % 2]
        said = f"{other} says: we can only sign contract 264/26 once the others have signed."
        question = f"Can you sign off contract 264/26? {reasons[n // 2]}"
        calls.append(call(n, "ask_colleague", said, step=step, colleague=other, question=question))

    assert tripped(calls) == ("ping_pong", 4)


def test_a_ticket_that_comes_back_with_other_findings_each_time_gets_on() -> None:
    comments = (
        "ping to gateway is fine, DNS fails",
        "DNS server 2 was down, restarted; please test",
        "resolves now, but slow: 900 ms",
        "cache enlarged: 12 ms; please test",
    )
    calls = []
    for n, comment in enumerate(comments):
        step, other = ("l1", "network")[n % 2], ("network", "l1")[n % 2]
        calls.append(call(2 * n, "bash", f"queries answered: {2506 + n * 4983}", step=step, command=f"look at {step}"))
        said = f"INC3759978 now with {other}"
        calls.append(
            call(2 * n + 1, "transfer_ticket", said, step=step, ticket="INC3759978", group=other, comment=comment)
        )

    assert tripped(calls) is None


def test_offers_that_come_nearer_to_each_other_are_a_negotiation() -> None:
    said = ("We offer 827 EUR", "We ask 1346 EUR", "We offer 898 EUR", "We ask 1259 EUR", "We offer 954 EUR")
    calls = [
        call(n, "send_message", "delivered", step=("buyer", "seller")[n % 2], to=("seller", "buyer")[n % 2], text=text)
        for n, text in enumerate(said)
    ]

    assert tripped(calls) is None


def test_work_that_is_laid_into_inboxes_goes_round_whatever_the_files_are_called() -> None:
    told = (
        ("planner", "coder", "Implement payroll as described by the tester."),
        ("coder", "tester", "Please test payroll so that I know what to implement."),
        ("tester", "planner", "Need a plan for payroll before testing."),
    )
    calls = []
    for n in range(9):
        step, other, text = told[n % 3]
        path = f"mail/{other}/{n * 7919 + 1_000_000:x}a{n}.md"
        calls.append(call(n, "write_file", f"wrote {len(text)} bytes", step=step, path=path, content=text))

    assert tripped(calls) == ("ping_pong", 6)


def test_a_question_that_people_leave_open_for_several_agents_is_no_loop_of_any_of_them() -> None:
    calls = []
    for n, step in enumerate("abcd"):
        asked = call(n, "ask_person", error="Nobody answered.", step=step, question="Which of them?")
        calls.append(Observed(step=step, seq=n, fact=asked.fact.model_copy(update={"error_type": SKIPPED}), role=step))

    assert tripped(calls) is None
