"""What a person approves is one step's exact arguments."""

from chargehand.orchestrator.approval import SHOWN_CHARACTERS, guarded, is_approved, readable, stand_together
from chargehand.orchestrator.plan import RESULT_OF, CeleryTask, Map, Step


def send(**arguments: object) -> Step:
    return Step.model_validate({"key": "send", "kind": "script", "script": "send", "arguments": arguments})


def shown(step: Step, **results: object):
    return guarded(step, results=results.get)  # type: ignore[arg-type]


def test_results_are_filled_in_wherever_they_stand() -> None:
    step = send(to="ada", lines=[{"price": {RESULT_OF: "price"}}])
    assert shown(step, price=3).arguments == {"to": "ada", "lines": [{"price": 3}]}


def test_the_hash_follows_what_is_done_and_with_what_and_not_the_order_of_names() -> None:
    assert shown(send(a=1, b=2)).hash == shown(send(b=2, a=1)).hash
    different = [send(a=1), send(a=2), send(a="1"), send(b=1), send(a=1).model_copy(update={"script": "spend"})]
    assert len({shown(one).hash for one in different}) == len(different)


def test_a_result_that_is_not_there_yet_hashes_differently_from_whatever_comes() -> None:
    step = send(price={RESULT_OF: "price"})
    early = guarded(step, results={}.get, known=())
    assert early.arguments == {"price": {RESULT_OF: "price"}}
    assert early.hash not in {shown(step, price=value).hash for value in (None, 1, "x")}


def test_a_change_of_a_maps_body_is_a_change_of_what_was_approved() -> None:
    def each(script: str) -> Step:
        return Step(key="each", kind="map", map=Map(items=[1], body=(Step(key="a", kind="script", script=script),)))

    assert shown(each("send")).arguments == {"items": [1]}
    assert shown(each("send")).hash != shown(each("spend")).hash


def test_a_person_is_told_the_name_of_the_task_that_is_going_to_be_sent_and_its_hash_follows_the_rest() -> None:
    def pay(queue: str) -> Step:
        return Step(key="pay", kind="celery_task", celery_task=CeleryTask(task="billing.refund", queue=queue))

    assert shown(pay("billing")).does.startswith("celery_task billing.refund ")
    assert shown(pay("billing")).hash != shown(pay("elsewhere")).hash


def test_a_long_text_is_cut_for_the_eye_and_hashed_whole() -> None:
    one, other = shown(send(text="x" * 30_000 + "a")), shown(send(text="x" * 30_000 + "b"))
    assert len(str(one.arguments["text"])) < SHOWN_CHARACTERS + 100
    assert one.arguments == other.arguments
    assert one.hash != other.hash


def test_every_gate_before_the_step_must_have_approved_it_and_it_alone() -> None:
    mine = shown(send(a=1))
    assert is_approved(mine, {"g": {"send": mine.hash}})
    assert not is_approved(mine, {"g": {"send": mine.hash}, "h": {}})
    assert not is_approved(mine, {"g": {"other": mine.hash}})


def test_a_gate_of_an_earlier_round_or_around_the_body_is_about_something_else() -> None:
    child = send().model_copy(update={"key": "each/2/send", "parent": "each"})
    assert stand_together("each/2/ok", child)
    assert not stand_together("each/1/ok", child)
    assert not stand_together("ok", child)
    # A key with a stroke of a step of the plan itself does not hide it from its gate.
    assert stand_together("ok", send().model_copy(update={"key": "a/send"}))


def test_a_hash_covers_what_a_step_may_read_and_a_value_that_its_arguments_name_is_not_shown_twice() -> None:
    step = Step(key="send", kind="script", script="send", arguments={"price": {RESULT_OF: "price"}})
    results = {"price": 7, "terms": "net 30"}
    alone = guarded(step, results=results.get)
    reading = guarded(step, results=results.get, inputs=results, commits={"terms": "abc"})
    assert (reading.inputs, reading.commits) == ({"terms": "net 30"}, {"terms": "abc"})
    others = (
        guarded(step, results=results.get, inputs={**results, "terms": "net 60"}, commits={"terms": "abc"}),
        guarded(step, results=results.get, inputs=results, commits={"terms": "abd"}),
        guarded(step, results=results.get, inputs=results),
    )
    assert len({one.hash for one in (alone, reading, *others)}) == 5
    # What gave nothing is nothing to read.
    assert guarded(step, results=results.get, inputs={"price": 7, "terms": None}).hash == alone.hash


def test_a_task_of_an_app_reads_nothing_but_its_arguments() -> None:
    task = Step(key="refund", kind="celery_task", celery_task=CeleryTask(task="t", queue="q"), after=("a", "ok"))
    assert readable(task) == ()
    assert readable(Step(key="send", kind="script", script="send", after=("a", "ok"))) == ("a", "ok")
