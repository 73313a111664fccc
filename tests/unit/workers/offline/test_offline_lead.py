"""Golden cases of the lead: who is asked, in which order, and what becomes of the answers."""

import json
from typing import Any

from chargehand.workers.findings import Answer

COLLEAGUES = ("delegate", "hand_off")
QUOTE = {"path": "login.py", "line": 1, "text": "def check_password(shop, password):"}
QUESTIONS = ("Where are passwords checked?", "Where are refunds paid?")


def given(arguments: dict[str, Any]) -> str:
    """What a researcher hands in."""
    found = "passwords" in arguments["instruction"]
    return json.dumps(
        {
            "question": arguments["instruction"],
            "found": found,
            "answer": "See login.py:1." if found else "Not found.",
            "quotes": [QUOTE] if found else [],
        }
    )


def test_each_question_is_delegated_and_the_answers_are_put_together(stage: Any) -> None:
    request = stage.request_of("submit_answer", tools=COLLEAGUES, arguments={"questions": QUESTIONS})
    played = stage.play(request, stage.desk({}, delegate=given))
    assert played.called == ["delegate", "delegate", "submit_answer"]
    answer = Answer.model_validate(played.result)
    assert answer.found
    assert answer.answer == ("Where are passwords checked? See login.py:1.\nWhere are refunds paid? Not found.")
    assert [quote.path for quote in answer.quotes] == ["login.py"]


def test_a_colleague_without_a_result_is_named_and_the_others_count(stage: Any) -> None:
    def broken(arguments: dict[str, Any]) -> str:
        found = "passwords" in arguments["instruction"]
        return given(arguments) if found else json.dumps({"error": "researcher gave no result: broken"})

    request = stage.request_of("submit_answer", tools=COLLEAGUES, arguments={"questions": QUESTIONS})
    answer = Answer.model_validate(stage.play(request, stage.desk({}, delegate=broken)).result)
    assert answer.found
    assert "researcher gave no result: broken" in answer.answer


def test_a_single_question_is_handed_off(stage: Any) -> None:
    request = stage.request_of("submit_answer", tools=COLLEAGUES, arguments={"question": QUESTIONS[0]})
    played = stage.play(
        request, stage.desk({}, hand_off=lambda arguments: json.dumps({"error": f"no {arguments['to']} here"}))
    )
    # The colleague's result would have become the step's: only a refusal comes back.
    assert played.called == ["hand_off", "submit_answer"]
    assert Answer.model_validate(played.result).answer == "no researcher here"


def test_who_can_read_looks_instead_of_handing_off(stage: Any) -> None:
    tools = (*COLLEAGUES, "read_file", "search_text")
    request = stage.request_of("submit_answer", tools=tools, arguments={"question": QUESTIONS[0]})
    played = stage.play(request, stage.desk({"login.py": f"{QUOTE['text']}\n"}))
    assert "hand_off" not in played.called
    assert "search_text" in played.called
