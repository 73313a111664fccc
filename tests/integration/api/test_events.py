"""Events come once, in the order of their streams, live and after a cut; nothing waits for somebody's transaction."""

import json
from collections.abc import Iterator
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import delete

from chargehand.memory.database import tenant_session
from chargehand.orchestrator import feed, keys
from chargehand.orchestrator.api import keyring, live
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.feed import Position
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.sign_ins import SignInRow

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.api.conftest import Api

WIDE = {"steps": [{"key": f"s{number}", "kind": "script", "script": "inventory"} for number in range(12)]}


def parsed(text: str) -> Iterator[dict[str, Any]]:
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "id" in fields:
            yield {"id": fields["id"], **json.loads(fields["data"])}


def read(api: "Api", run_id: str, *, after: str | None = None, follow: bool = False) -> list[dict[str, Any]]:
    headers = {} if after is None else {"Last-Event-ID": after}
    answer = api.http.get(f"/v1/runs/{run_id}/events", params={"follow": follow}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return list(parsed(answer.text))


def places(events: list[dict[str, Any]]) -> list[tuple[str | None, int]]:
    return [(event["step_id"], event["seq"]) for event in events]


def cancelled_run(api: "Api") -> str:
    """An ended run of several streams: some steps were claimed before the end."""
    run_id = api.submit(WIDE)
    with api.client.session() as session:
        for number in range(5):
            write(session, api, UUID(run_id), f"s{number}", number + 1)
    api.http.post(f"/v1/runs/{run_id}/cancel")
    return run_id


def write(session: Any, api: "Api", run_id: UUID, key: str, rows: int) -> None:
    """Facts of a step, as its worker would write them."""
    body = json.dumps({"kind": "step.claimed", "holder": "w"})
    connection = session.connection().exec_driver_sql
    for _ in range(rows):
        connection(
            "WITH own AS (UPDATE steps SET head_seq = head_seq + 1 WHERE id = %s RETURNING head_seq) "
            "INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body) "
            "SELECT %s, %s, %s, head_seq, 'step.claimed', 1, 1, %s FROM own",
            (step_id(run_id, key), api.tenant, run_id, step_id(run_id, key), body),
        )


def test_from_whatever_event_a_reader_resumes_it_sees_the_rest_once(api: "Api") -> None:
    run_id = cancelled_run(api)
    everything = read(api, run_id)
    assert len(everything) == len(set(places(everything))) == sum(range(1, 6)) + 3
    for stream in {event["step_id"] for event in everything}:
        seqs = [event["seq"] for event in everything if event["step_id"] == stream]
        assert seqs == list(range(1, len(seqs) + 1))

    for cut, event in enumerate(everything):
        rest = read(api, run_id, after=event["id"])
        assert places(rest) == places(everything[cut + 1 :])


def test_pages_of_one_row_give_the_same_as_one_page(api: "Api", monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = cancelled_run(api)
    everything = read(api, run_id)
    monkeypatch.setattr(live, "PAGE_ROWS", 1)
    monkeypatch.setattr(feed.read_on, "__kwdefaults__", {"most": 1})
    assert places(read(api, run_id)) == places(everything)


def test_a_row_that_commits_late_comes_and_holds_nobody_up(api: "Api", database_url: str) -> None:
    run_id = UUID(api.submit(WIDE))
    with tenant_session(api.client.services.engine, api.tenant) as slow:
        # Written first, committed last.
        write(slow, api, run_id, "s0", 1)
        with api.client.session() as session:
            write(session, api, run_id, "s1", 1)
        seen = read(api, str(run_id))
        assert [event["step"] for event in seen] == [None, "s1"]
    rest = read(api, str(run_id), after=seen[-1]["id"])
    assert [event["step"] for event in rest] == ["s0"]
    assert read(api, str(run_id), after=rest[-1]["id"]) == []


def test_a_clock_that_is_set_back_parts_no_stream(api: "Api", database_url: str) -> None:
    run_id = UUID(api.submit(WIDE))
    with api.client.session() as session:
        write(session, api, run_id, "s0", 4)
    with psycopg.connect(database_url) as owner:
        owner.execute("ALTER TABLE chargehand.journal DISABLE TRIGGER USER")
        owner.execute(
            "UPDATE chargehand.journal SET at = at - interval '1 h' WHERE run = %s AND step = %s AND seq >= 3",
            (run_id, step_id(run_id, "s0")),
        )
        owner.execute("ALTER TABLE chargehand.journal ENABLE TRIGGER USER")
    with api.client.session() as session:
        position, seen = Position(run_id), []
        while rows := feed.read_on(session, position, most=2):
            for row in rows:
                position.pass_by(row.place, row.event.seq)
                seen.append((row.step_key, row.event.seq))
    assert [seq for key, seq in seen if key == "s0"] == [1, 2, 3, 4]
    assert len(seen) == 5


def test_a_follower_sees_what_happens_and_then_the_end(api: "Api") -> None:
    run_id = api.submit(WIDE)
    seen: list[str] = []
    with api.http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        for line in answer.iter_lines():
            if line == "event: run.submitted":
                api.http.post(f"/v1/runs/{run_id}/pause")
            if line == "event: run.paused":
                api.http.post(f"/v1/runs/{run_id}/cancel")
            if line.startswith("event: "):
                seen.append(line.removeprefix("event: "))
    assert seen == ["run.submitted", "run.paused", "steps.skipped", "run.finished", "end"]


def test_an_id_of_another_run_or_of_nobody_is_refused(api: "Api") -> None:
    one, other = api.submit(), api.submit()
    foreign = read(api, other)[0]["id"]
    for wrong in (foreign, "AAAA", "A", foreign[:-1] + "_"):
        answer = api.http.get(f"/v1/runs/{one}/events", headers={"Last-Event-ID": wrong})
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:chargehand:problem:invalid-request"), wrong


def test_a_position_is_written_and_read_back() -> None:
    run_id = UUID(int=7)
    for seqs in ([], [1], [0, 0, 300], [2**40, 127, 128]):
        assert Position.parse(run_id, str(Position(run_id, list(seqs)))).seqs == seqs
    for wrong in ("!", str(Position(UUID(int=8), [1])), str(Position(run_id, [300]))[:-1]):
        with pytest.raises(UserError):
            Position.parse(run_id, wrong)


@pytest.mark.parametrize("deed", ["revoked", "signed out"])
def test_a_stream_ends_soon_after_its_reader_was_shut_out(
    api: "Api", monkeypatch: pytest.MonkeyPatch, wait_until: "WaitUntil", deed: str
) -> None:
    monkeypatch.setattr(live, "PING_SECONDS", 0.1)
    monkeypatch.setattr(keyring, "REMEMBERED_SECONDS", 0.0)
    run_id, secret = api.submit(), api.key_of("read", name="leaving")
    api.http.post("/sign-in", data={"key": secret}, follow_redirects=False)
    told: Queue[str] = Queue()

    def watch() -> None:
        path = f"/runs/{run_id}/live" if deed == "signed out" else f"/v1/runs/{run_id}/events"
        told.put(api.http.get(path, headers={"Authorization": f"Bearer {secret}"}).text)

    watching = Thread(target=watch, daemon=True)
    watching.start()
    feeds = api.http.app.state.chargehand.live._feeds
    wait_until(lambda: any(one.readers for one in feeds.values()))
    with api.client.session() as session:
        if deed == "revoked":
            keys.revoke(session, api.tenant, "leaving")
        else:
            session.execute(delete(SignInRow).where(SignInRow.tenant == api.tenant))
    try:
        watching.join(60)
        assert not watching.is_alive()
        assert "event: end" not in told.get_nowait()
    finally:
        api.http.post(f"/v1/runs/{run_id}/cancel")
        watching.join(60)
