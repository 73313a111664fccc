"""Rounds, repeated questions and hand-offs whose words change while nothing else does, and work that looks so."""

from chargehand.orchestrator.breaker import Observed, watch
from tests.unit.orchestrator.told import call


def rule(calls: list[Observed]) -> str | None:
    for end in range(1, len(calls) + 1):
        trip = watch(calls[:end])
        if trip is not None:
            return trip.rule
    return None


def hexadecimal(number: int) -> str:
    return f"{number * 2654435761 % 2**64:016x}"


def test_what_a_call_is_sent_with_makes_it_no_other_call() -> None:
    calls = [
        call(n, "fetch", error="403 Forbidden", url="https://a.example/b", _meta={"traceId": hexadecimal(n)})
        for n in (1, 2, 3)
    ]

    assert rule(calls) == "same_error"


def test_a_search_that_prints_nothing_has_found_nothing_in_any_spelling() -> None:
    spellings = (
        "grep -rn make_widget src",
        "grep -n 'make_widget' -r src/",
        "rg make_widget src",
        "git grep make_widget",
    )
    searches = [
        call(n, "bash", "", command=command) for n, command in enumerate((*spellings, "grep -r make_widget src"))
    ]
    deeds = [
        call(n, "bash", "", command=f"touch src/{name}.py") for n, name in enumerate(("a", "bill", "cash", "d", "e"))
    ]

    assert rule(searches) == "near_identical"
    assert rule(deeds) is None


def test_the_same_question_while_other_things_are_read_is_the_same_question() -> None:
    hits = "1. Rice prices ease in July - market daily\n2. Rice outlook 2026, with all that is known of the harvest"
    calls: list[Observed] = []
    for n in range(5):
        calls.append(call(2 * n, "web_search", hits, query="rice price july 2026"))
        calls.append(call(2 * n + 1, "read_page", f"Chapter {n}: of {'abcde'[n] * 7}", page=f"{'abcde'[n] * 5}"))

    assert rule(calls) == "near_identical"
    assert rule(calls[1::2]) is None


def test_a_token_that_a_round_hands_on_makes_it_no_other_round_while_it_fails() -> None:
    def rounds(error: str) -> list[Observed]:
        calls: list[Observed] = []
        for n in range(1, 4):
            token = hexadecimal(n)
            calls.append(call(2 * n, "log_in", f'{{"access_token": "{token}", "expires_in": 3600}}', user="ines"))
            use = {"error": error} if error else {"gave": f"report of {'abcd'[n] * 6} and {'efgh'[n] * 6}"}
            calls.append(call(2 * n + 1, "get_report", path="/r", bearer=token, **use))
        return calls

    assert rule(rounds("401 Unauthorized: the token lacks a scope")) == "alternation"
    assert rule(rounds("")) is None


def test_what_is_restarted_again_and_again_is_counted_and_does_not_get_on() -> None:
    calls: list[Observed] = []
    for n in range(4):
        calls.append(
            call(2 * n, "bash", f"backend {1_878_000 + 977 * n} online, restarts {4 + n}", command="pm2 restart it")
        )
        calls.append(call(2 * n + 1, "bash", "listeners: none, mount: none", command="curl status"))

    assert rule(calls) == "alternation"


def test_what_is_longer_and_longer_ago_does_not_move() -> None:
    def looks(minutes: tuple[int, ...]) -> list[Observed]:
        return [call(n, "device", f"offline, last seen {ago} minutes ago", id="x") for n, ago in enumerate(minutes)]

    assert rule(looks((7, 8, 9, 10, 11, 12))) == "near_identical"
    assert rule(looks((7, 2, 9, 1, 3, 2))) is None


def test_agents_who_speak_to_each_other_by_name_hand_over() -> None:
    texts = ("@mona can you take the deploy?", "@hugo I have no rights to deploy, can you?")
    calls = [call(n, "post", "posted", step=("hugo", "mona")[n % 2], text=texts[n % 2]) for n in range(4)]

    assert rule(calls) == "ping_pong"


def test_hand_offs_of_another_thing_each_round_are_work() -> None:
    calls: list[Observed] = []
    for n, name in enumerate(("parser", "lexer", "printer", "loader", "linker")):
        calls.append(call(2 * n, "hand_off", "ok", step="lead", to="coder", task=f"Implement {name} by the plan"))
        calls.append(call(2 * n + 1, "hand_off", "ok", step="coder", to="lead", result=f"{name} is done, tests pass"))

    assert rule(calls) is None


def test_offers_that_move_are_work_and_a_count_of_hand_offs_is_none() -> None:
    def talk(numbers: tuple[int, ...]) -> list[Observed]:
        return [
            call(
                n,
                "send",
                "delivered",
                step=("buyer", "seller")[n % 2],
                to=("seller", "buyer")[n % 2],
                item="x",
                n=number,
            )
            for n, number in enumerate(numbers)
        ]

    assert rule(talk((53, 113, 62, 109, 69, 105, 76, 99))) is None
    assert rule(talk((1, 2, 3, 4, 5, 6, 7, 8))) == "ping_pong"
