"""Every request of docs/http-api.md, sent as it stands there."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator.supervisor import advance
from chargehand.orchestrator.supervisor.graphs import Graphs

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

PAGE = Path(__file__).parents[3] / "docs" / "http-api.md"
PLAN = {
    "steps": [
        {"key": "sure", "kind": "gate", "instruction": "Sure?"},
        {"key": "scan", "kind": "agent", "role": "researcher", "instruction": "Look.", "after": ["sure"]},
    ]
}
# Nobody clones it here, and a workspace is fetched before a run is accepted.
UNREACHABLE = "https://example.org/shop.git"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A line `ask …`, by what curl makes of it."""

    method: str
    url: str
    body: str | None
    headers: dict[str, str]


def parsed(line: str, variables: dict[str, str]) -> Asked:
    """Of the flags of curl those that the page uses."""
    words = iter(shlex.split(Template(line).safe_substitute(variables), comments=True)[1:])
    method, url, body, headers = None, "", None, {}
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-d":
                body = next(words)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-N":
                pass
            case ">":
                next(words)
            case _:
                assert (url, word.startswith("-")) == ("", False), line
                url = word
    return Asked(method=method or ("GET" if body is None else "POST"), url=url, body=body, headers=headers)


def lines_of_the_page() -> list[str]:
    [block] = [code for code in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S) if "ask()" in code]
    joined = block.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("ask ")]


def test_each_request_of_the_page_does_what_it_says(api: "Api", database_url: str) -> None:
    run, asking = api.submit(PLAN), api.submit(PLAN)
    engine = open_engine(database_url, role=SUPERVISOR_ROLE, keeps_connections=False)
    advance.advance(engine, Graphs(), api.client.run(asking).run_id, audit_key=b"k")
    engine.dispose()
    [question] = api.client.escalations()
    variables = {"API": "", "RUN": run, "WAIT": str(question.wait_id)}

    lines = lines_of_the_page()
    assert len(lines) > 30
    for line in lines:
        asked = parsed(line, variables)
        if asked.url == "/v1/erase":
            # It reaches the forks of a run, which must have ended as well.
            for each in api.client.runs():
                api.client.run(each.run_id).cancel()
        headers = {"Content-Type": "application/json", **asked.headers}
        answer = api.http.request(asked.method, asked.url, content=asked.body, headers=headers)
        if UNREACHABLE in line:
            assert (answer.status_code, "shop.git" in answer.text) == (422, True), answer.text
        else:
            assert answer.is_success, (line, answer.status_code, answer.text)
        assert answer.status_code != 202 or answer.json()["run_id"], line
