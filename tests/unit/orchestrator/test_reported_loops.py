"""What was retold from public reports of agents, or made up of the known kinds, and had been missed or mistaken."""

import pytest

from chargehand.orchestrator.breaker import Observed
from tests.unit.orchestrator.test_recorded_loops import between, tripped
from tests.unit.orchestrator.told import call

# --- what a result is sent in -----------------------------------------------------------------------------------------


def test_a_shell_that_says_what_it_was_told_hides_no_repetition() -> None:
    commands = (
        "grep -rn token src",
        'grep -rn "token" src',
        "grep -rnw token src",
        "grep -rn token ./src",
        "grep -rni token src",
    )
    calls = [
        call(n, "shell", f"[13:3{n}:04] $ {command}\n\n[exit 1]", cmd=command) for n, command in enumerate(commands)
    ]

    assert tripped(calls) == ("near_identical", 5)


def test_marks_around_the_output_and_the_status_hide_no_repetition() -> None:
    said = "<output>\ntouch: cannot touch '/srv/ready': Permission denied\n</output>\n<exit_code>1</exit_code>"
    calls = [
        call(n, "shell", f"{said}\n<wall_time>{n}.{n}s</wall_time>", command="touch /srv/ready") for n in range(1, 5)
    ]

    assert tripped(calls) == ("same_error", 3)


def test_marks_of_a_document_are_no_envelope() -> None:
    calls = [call(n, "fetch", f"<title>Page {n}</title>\n<output>{n * 31}</output>", url=f"/{n}") for n in range(8)]

    assert tripped(calls) is None


def test_a_command_whose_output_is_seen_through_another_pipe_is_the_same() -> None:
    said = "error[E0425]: cannot find function `label` in this scope\n --> src/main.rs:53:9"
    pipes = ("", " 2>&1 | tail -n 50", " | head -40", " 2>&1 | cat", " 2>&1 | tail -25")
    calls = [
        call(n, "shell", said + ("" if "|" in pipe else "\n(exit code 101)"), command=f"cargo build{pipe}")
        for n, pipe in enumerate(pipes)
    ]

    assert tripped(calls) == ("near_identical", 5)


def test_how_long_a_trial_took_is_no_result_of_it() -> None:
    def trial(n: int) -> str:
        name = f"run-{n * 7919 + 700_001:x}a{n}"
        return f'{{"loss": "nan", "status": "stopped: loss is nan at step 1", "run": "{name}", "seconds": {n}.4}}'

    rates = (0.1, 0.05, 0.033, 0.025, 0.02, 0.0167, 0.0143)
    calls = [call(n, "train", trial(n), lr=rate, batch=16 * 2 ** (n % 4)) for n, rate in enumerate(rates)]

    assert tripped(calls) == ("near_identical", 6)


def test_trials_with_scores_of_their_own_are_work() -> None:
    calls = [
        call(n, "bash", f"epoch 3/3 - loss: 0.{6391 + n * 317}", command=f"python train.py --lr {rate} --epochs 3")
        for n, rate in enumerate((0.1, 0.05, 0.03, 0.01, 0.005, 0.003, 0.001))
    ]

    assert tripped(calls) is None


# --- states -----------------------------------------------------------------------------------------------------------


def test_a_picture_that_stays_whatever_is_clicked_is_a_stuck_state_though_something_in_it_is_selected() -> None:
    said = "[screenshot: window 'settings', tab 'General' selected, button 'Apply' greyed, language English]"
    calls = [call(n, "computer", said, action="left_click", coordinate=[242 + n % 3, 468 + n % 4]) for n in range(8)]

    assert tripped(calls) is not None


def test_a_scroll_that_moves_nothing_has_done_nothing() -> None:
    said = '{"moved": 0, "screen": "drawer", "visible": ["meter", "gasket", "orchard", "kiosk"]}'
    calls = [call(n, "scroll", said, way="up", distance=way) for n, way in enumerate((600, 400, 500, 450, 400, 600))]

    assert tripped(calls) == ("no_change", 5)


def test_a_page_that_looks_the_same_after_every_edit_is_a_stuck_state_whenever_the_picture_was_taken() -> None:
    calls: list[Observed] = []
    for n in range(6):
        rule = ("center", "flex", "grid", "auto", "fixed", "static")[n]
        calls.append(call(2 * n, "edit_css", "1 rule written", rule=f".box {{ place: {rule} }}"))
        picture = f'{{"note": ".box is at the left edge", "size": [1280, 720], "taken": "2026-11-26T11:0{n}:11Z"}}'
        calls.append(call(2 * n + 1, "screenshot", picture, url="http://localhost:5173/"))

    assert tripped(calls) == ("no_change", 10)


def test_a_game_that_only_counts_the_moves_stands_still() -> None:
    moves = ("use key", "pull lever", "climb wall", "look behind door", "shout", "knock", "push door")
    calls = [
        call(n, "act", f"Hall\nNothing happens. You are in front of a locked door.\nMoves: {8 + n}", command=move)
        for n, move in enumerate(moves)
    ]

    assert tripped(calls) == ("no_change", 5)


def test_a_plan_that_is_written_over_and_over_while_none_of_it_is_done_stands_still() -> None:
    words = (("Collect", "Write"), ("Gather", "Draft"), ("Get", "Compose"), ("Obtain", "Summarise"), ("Find", "Type"))
    calls = [
        call(
            n,
            "update_plan",
            "Plan updated. 0 of 2 steps completed.",
            plan=[{"step": f"{first} figures", "status": "pending"}, {"step": f"{then} it", "status": "pending"}],
        )
        for n, (first, then) in enumerate(words)
    ]

    assert tripped(calls) == ("no_change", 5)


def test_a_box_that_one_click_ticks_and_the_next_unticks_is_a_ring() -> None:
    def page(n: int) -> str:
        return (
            f"Clicked element 73. Current page: https://visa.example/apply, elements: "
            f"[73] checkbox 'I agree to the terms', {('ticked', 'empty')[n % 2]}, [74] button 'Next'"
        )

    calls = [call(n, "click", page(n), index=73) for n in range(8)]

    assert tripped(calls) == ("alternation", 6)


def test_what_is_made_and_unmade_by_the_name_it_was_given_is_a_ring() -> None:
    calls: list[Observed] = []
    for n in range(4):
        name = f"mem_{n * 7919 + 700_001:x}a{n}"
        calls.append(call(2 * n, "memory_add", f'{{"id": "{name}", "event": "ADD"}}', text="Ada leads the desk."))
        calls.append(call(2 * n + 1, "memory_delete", f'{{"id": "{name}", "event": "DELETE"}}', id=name))

    assert tripped(calls) == ("alternation", 5)


def test_things_that_are_each_made_and_then_closed_are_work() -> None:
    calls: list[Observed] = []
    for n in range(6):
        name = f"acc_{n * 7919 + 700_001:x}a{n}"
        calls.append(call(2 * n, "archive_account", f'{{"id": "{name}", "event": "ARCHIVED"}}', customer=f"C{n}"))
        calls.append(call(2 * n + 1, "delete_account", f'{{"id": "{name}", "event": "DELETE"}}', id=name))

    assert tripped(calls) is None


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_command_that_sleeps_and_then_does_something_is_no_wait() -> None:
    calls: list[Observed] = []
    for n in range(3):
        calls.append(call(2 * n, "bash", "", command="pkill -f 'vite --port 3100'; sleep 1"))
        error = "Exit code 1\nError: Port 3100 is already in use"
        calls.append(call(2 * n + 1, "bash", error=error, command="npm run dev & sleep 5; tail -3 /tmp/dev.log"))

    trip = tripped(calls)
    assert trip is not None
    assert trip[1] <= 6


def test_a_server_that_answers_after_each_restart_is_looked_at_anew() -> None:
    look = "sleep 2; curl -s -o /dev/null -w '%{http_code}' localhost:8080"
    calls: list[Observed] = []
    for n in range(0, 21, 5):
        calls.append(call(n, "edit", "The file has been updated.", path="vite.config.ts", new=f"flag{n}: true"))
        calls.append(call(n + 4, "bash", "started in the background", command="npm run dev &"))
        calls.append(call(n + 1, "bash", error="Exit code 7\n000", command=look))
        calls.append(call(n + 2, "bash", "200", command=look))
        calls.append(call(n + 3, "bash", f'{{"flag{n}": true}}', command=f"curl -s localhost:8080/api/flag{n}"))

    assert tripped(calls) is None


def test_a_job_that_gets_on_may_have_failures_among_its_items() -> None:
    calls = [
        call(n, "eval_status", f'{{"scored": {scored}, "of": 453, "failed": {failed}, "state": "running"}}', run="e4")
        for n, (scored, failed) in enumerate(((92, 2), (153, 4), (227, 4), (289, 4), (364, 5), (444, 7)))
    ]

    assert tripped(calls) is None


def test_a_page_that_grows_by_every_scroll_is_work() -> None:
    calls: list[Observed] = []
    for n, posts in enumerate((19, 28, 39, 45, 56, 67)):
        calls.append(call(2 * n, "scroll_to_bottom", "scrolled"))
        calls.append(call(2 * n + 1, "wait_for_content", f"content loaded, {posts} posts on the page", timeout=10))

    assert tripped(calls) is None


def test_a_pod_whose_age_alone_goes_on_is_a_stuck_state() -> None:
    calls: list[Observed] = []
    for n in range(3):
        pods = f"NAME READY STATUS RESTARTS AGE\nshop-b4a84859b-686b8 0/1 ImagePullBackOff 0 15m{7 * n}s"
        events = f"State: Waiting\nWarning Failed 15m{7 * n + 3}s (x{13 + n} over 15m) kubelet Failed to pull image"
        calls.append(call(2 * n, "kubectl", pods, args="get pods -l app=shop"))
        calls.append(call(2 * n + 1, "kubectl", events, args="describe pod shop-b4a84859b-686b8"))

    trip = tripped(calls)
    assert trip is not None
    assert trip[1] <= 5


# --- questions --------------------------------------------------------------------------------------------------------


def test_one_question_put_in_other_words_is_one_question() -> None:
    questions = (
        "What is the budget for the metric helper?",
        "Please tell me the metric helper budget.",
        "I need the budget for the metric helper. What is it?",
        "Hi, could you share the budget for the metric helper?",
        "Again: what is the budget of the metric helper?",
    )
    calls = [
        call(n, "ask_colleague", "I don't have that figure. Only finance has it.", to="Priya", question=question)
        for n, question in enumerate(questions)
    ]

    assert tripped(calls) == ("near_identical", 5)


def test_one_look_made_again_between_searches_is_a_loop_and_a_poll_between_them_is_none() -> None:
    def told(said: str) -> list[Observed]:
        calls: list[Observed] = []
        for n in range(0, 12, 2):
            calls.append(call(n, "exec", said, command="graf query shipment"))
            calls.append(call(n + 1, "memory_search", f"memory/{n}.md: {'x' * n} was checked", query=f"word{n}"))
        return calls

    assert tripped(told("shipment -> owns -> archive")) == ("near_identical", 9)
    assert tripped(told("build 7 is running")) is None


def test_a_button_that_is_not_there_is_not_waited_for() -> None:
    selectors = (".btn-submit", "//button[text()='Submit']", "text=Submit", "button#submit", "#submit", "form .submit")
    calls = [
        call(n, "click", error=f"TimeoutError: no element matches selector {selector} (waited 30{n}8 ms)", at=selector)
        for n, selector in enumerate(selectors)
    ]

    trip = tripped(calls)
    assert trip is not None
    assert trip[1] <= 6


# --- agents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", [("escalate_ticket", "return_ticket"), ("forward_case", "reject_case")])
def test_a_ticket_that_two_agents_pass_to_and_fro_goes_round_though_neither_names_the_other(
    tools: tuple[str, str],
) -> None:
    notes = ("Needs analysis.", "Logs are missing.", "Beyond level 1.", "Collect them first.", "Please analyse.")
    calls = [
        call(n, tools[n % 2], f'{{"queue": "L{2 - n % 2}"}}', step=("one", "two")[n % 2], ticket="INC37153", note=note)
        for n, note in enumerate(notes)
    ]

    assert tripped(calls) == ("ping_pong", 5)


def test_a_ticket_about_which_something_is_done_before_it_is_passed_on_gets_on() -> None:
    calls: list[Observed] = []
    for n in range(6):
        step = ("one", "two")[n % 2]
        calls.append(call(2 * n, "look_up", f"{n * 7919} rows of another table", step=step, table=f"t{n}"))
        calls.append(
            call(2 * n + 1, ("escalate", "return")[n % 2], "ok", step=step, ticket="INC37153", note=f"found {n * 31}")
        )

    assert tripped(calls) is None


def test_other_tickets_that_are_passed_on_are_work() -> None:
    calls = [
        call(n, ("escalate", "return")[n % 2], "ok", step=("one", "two")[n % 2], ticket=f"INC3715{n}", note="Please.")
        for n in range(7)
    ]

    assert tripped(calls) is None


def test_pages_read_between_two_looks_are_no_loop() -> None:
    calls: list[Observed] = []
    for n in range(0, 12, 2):
        calls += [call(n, "exec", "shipment -> owns -> archive", command="graf query shipment"), between(n + 1)]

    assert tripped(calls) is None


def test_one_request_to_the_same_person_in_other_words_is_a_loop_and_to_others_it_is_none() -> None:
    texts = (
        "Could you provide me the order number?",
        "Please share the order number.",
        "May I have the order number?",
        "Could you send me the order number?",
        "Can you give me the order number?",
    )

    def told(users: tuple[str, ...]) -> list[Observed]:
        return [
            call(n, "message_user", f'{{"delivered": true, "message_id": "m_f{n}4aa02{n}"}}', user=user, text=text)
            for n, (user, text) in enumerate(zip(users, texts, strict=True))
        ]

    assert tripped(told(("u_7",) * 5)) == ("near_identical", 5)
    assert tripped(told(("Ada", "Bo", "Cem", "Dana", "Eve"))) is None


def test_one_number_that_is_refused_in_every_spelling_is_a_stuck_state() -> None:
    spellings = ("0044 441 2231", "0441-2231", "0441.2231", "+444412231", "0441/2231", "04412231")
    calls = [
        call(n, "fill_and_submit", '<p class="err">Enter a valid phone number</p>', form="sign-up", phone=each)
        for n, each in enumerate(spellings)
    ]

    trip = tripped(calls)
    assert trip is not None
    assert trip[1] <= 6


def test_a_log_that_is_read_on_by_the_mark_it_gives_is_work() -> None:
    calls: list[Observed] = []
    mark = "f/c323d2ef9ef901f2393a"
    for n in range(8):
        then = f"f/{n * 7919 + 1_000_001:x}a{n}ef901f"
        said = f'{{"events": [{{"message": "slow query {3388 + n * 317} ms"}}], "nextToken": "{then}"}}'
        calls.append(call(n, "get_log_events", said, group="/ecs/desk", token=mark))
        mark = then

    assert tripped(calls) is None


def test_a_size_that_is_looked_at_and_a_comparison_with_nothing_to_say_are_two_matters() -> None:
    def ran(n: int, said: str, command: str) -> Observed:
        answer = f'{{"output": "{said}", "metadata": {{"exit_code": 0, "duration_seconds": {n}.4}}}}'
        return call(n, "shell", answer, command=["bash", "-lc", command])

    calls = [ran(n, f"{39 + n * 11}.1G\\t/mnt/quill\\n", "du -sh /mnt/quill") for n in range(12)]
    calls.append(ran(12, "\\n", "diff -rq /srv/quill /mnt/quill"))

    assert tripped(calls) is None


def test_arguments_each_with_a_source_of_its_own_are_a_debate_and_a_count_of_tries_is_none() -> None:
    points = (
        ("jobs move south", 34),
        ("plants run well", 20),
        ("costs fall", 4),
        ("none is recycled", 35),
        ("laws change", 38),
    )

    def talk(said: list[str]) -> list[Observed]:
        sides = ("pro", "contra")
        return [
            call(n, "send_message", "delivered", step=sides[n % 2], to=sides[1 - n % 2], text=text)
            for n, text in enumerate(said)
        ]

    debate = [f"On low-code tools: {point}, see source {source}." for point, source in points]
    tries = [f"Please take over the login page, try {n + 1}." for n in range(6)]

    assert tripped(talk(debate)) is None
    assert tripped(talk(tries)) is not None


def test_clicks_right_beside_each_other_are_one_click() -> None:
    said = '{"screenshot": "sha1:74013bd50058d175", "focused": "none", "window": "Save As"}'
    places = ([520, 627], [518, 628], [519, 629], [517, 630], [520, 631])
    calls = [call(n, "computer", said, action="left_click", coordinate=place) for n, place in enumerate(places)]

    assert tripped(calls) == ("near_identical", 5)


def test_keys_that_a_program_in_its_password_prompt_ignores_are_a_stuck_state_though_it_runs() -> None:
    said = """{"output": "", "screen": "(END)\\nPassword for 'https://git.example/ledger': ", "running": true}"""
    keys = ("q", "x\n", "exit\n", ":q\n", "quit\n", "ZZ", ":wq\n")
    calls = [call(n, "write_stdin", said, session_id=3, chars=each) for n, each in enumerate(keys)]

    assert tripped(calls) is not None


def test_a_list_that_is_written_and_read_again_and_again_is_a_ring_whenever_it_was_written() -> None:
    calls: list[Observed] = []
    for n in range(3):
        todos = [{"content": "Fix quotas", "status": "in_progress"}, {"content": "Add test", "status": "pending"}]
        written = f"Todos have been updated (2026-11-08T11:0{n}:54Z). 0 of 2 done."
        calls.append(call(2 * n, "todo_write", written, todos=todos))
        calls.append(call(2 * n + 1, "todo_read", str(todos).replace("'", '"')))

    assert tripped(calls) == ("alternation", 4)


def test_a_senior_colleague_is_the_colleague() -> None:
    calls = []
    for n in range(4):
        step, other = ("writer", "researcher")[n % 2], ("Senior Researcher", "Writer")[n % 2]
        answer = ("I need the outline from the writer first.", "I need the figures from the researcher first.")[n % 2]
        task = ("Provide the figures", "Provide the outline")[n % 2]
        calls.append(call(n, "Delegate work to coworker", answer, step=step, coworker=other, task=task))

    assert tripped(calls) == ("ping_pong", 4)
