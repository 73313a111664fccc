"""Keys: kept as hashes, good for their scopes and their tenant until they are revoked, and for so many requests."""

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from chargehand.memory import keyspace
from chargehand.orchestrator import keys
from chargehand.orchestrator.api import keyring, limits
from chargehand.orchestrator.api.limits import RateLimit
from chargehand.orchestrator.errors import NotFound, UserError

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api, Open


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer x", "Basic eDp5", "Bearer chk_000000000000_" + "a" * 43])
def test_without_a_key_nothing_is_read(api: "Api", sent: str | None) -> None:
    api.http.headers.pop("Authorization")
    answer = api.http.get("/v1/runs", headers={} if sent is None else {"Authorization": sent})
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:chargehand:problem:unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_with_one_wrong_letter_opens_nothing(api: "Api") -> None:
    wrong = api.key[:-1] + ("a" if api.key[-1] != "a" else "b")
    assert api.http.get("/v1/runs", headers=bearer(wrong)).status_code == 401


def test_each_scope_opens_what_it_says_and_admin_all(api: "Api") -> None:
    run_id = api.submit()
    asked = {
        "read": ("GET", f"/v1/runs/{run_id}", None),
        "submit": ("POST", "/v1/runs", {"goal": "x"}),
        "operate": ("POST", f"/v1/runs/{run_id}/pause", None),
    }
    for scope in ("read", "submit", "operate"):
        headers = bearer(api.key_of(scope))
        for needed, (method, path, body) in asked.items():
            status = api.http.request(method, path, json=body, headers=headers).status_code
            assert (status == 403) is (needed != scope), (scope, needed, status)
    assert all(api.http.request(*one[:2], json=one[2]).is_success for one in asked.values())


def test_a_revoked_key_is_refused_once_it_is_forgotten(api: "Api", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "REMEMBERED_SECONDS", 0.0)
    secret = api.key_of("read")
    assert api.http.get("/v1/runs", headers=bearer(secret)).status_code == 200
    with api.client.session() as session:
        gone = keys.revoke(session, api.tenant, secret.split("_")[1])
    assert gone.revoked_at is not None
    assert api.http.get("/v1/runs", headers=bearer(secret)).status_code == 401
    with api.client.session() as session:
        used = {key.prefix: key.last_used_at for key in keys.listed(session, api.tenant)}
    assert used[gone.prefix] is not None


def test_nobody_who_has_the_applications_role_reads_a_hash_or_another_tenants_key(open_api: "Open") -> None:
    mine, other = open_api(), open_api()
    with pytest.raises(ProgrammingError, match="permission denied") as refused, mine.client.session() as session:
        session.execute(text("SELECT hash FROM api_keys"))
    assert isinstance(refused.value.orig, psycopg.errors.InsufficientPrivilege)
    with other.client.session() as session:
        assert [key.name for key in keys.listed(session, other.tenant)] == ["test"]
        assert session.execute(text("SELECT count(*) FROM api_keys")).scalar_one() == 1
        with pytest.raises(NotFound):
            keys.revoke(session, other.tenant, mine.key.split("_")[1])
        found = session.execute(
            text("SELECT id FROM api_key_holder(:prefix, :hash)"), {"prefix": mine.key.split("_")[1], "hash": b"x"}
        )
        assert found.all() == []


def test_a_key_for_nothing_or_without_a_name_is_not_made(api: "Api") -> None:
    with api.client.session() as session:
        for name, scopes in (("a", ()), ("a", ("root",)), (" ", ("read",)), ("\x07", ("read",))):
            with pytest.raises(UserError):
                keys.add(session, api.tenant, name, scopes)


def test_a_key_that_asks_too_often_is_told_when_it_may_again(open_api: "Open") -> None:
    api = open_api(api_requests_per_second=2)
    answers = [api.http.get("/v1/runs") for _ in range(8)]
    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 1
    # Another key has a rate of its own.
    assert api.http.get("/v1/runs", headers=bearer(api.key_of("read"))).status_code == 200


def test_without_redis_each_process_counts_for_itself(open_api: "Open") -> None:
    api = open_api(api_requests_per_second=2)
    api.http.app.state.chargehand.rate_limit._away_until = float("inf")
    answers = [api.http.get("/v1/runs").status_code for _ in range(8)]
    assert answers[:4] == [200] * 4
    assert 429 in answers


def test_the_applications_role_lends_the_supervisors_hand_to_no_trigger_and_reads_no_partition(api: "Api") -> None:
    with api.client.session() as session:
        session.execute(text("CREATE TEMP TABLE forged (tenant uuid, run uuid, step uuid, seq bigint, kind text)"))
        trigger = "CREATE TRIGGER forged AFTER INSERT ON forged FOR EACH ROW EXECUTE FUNCTION "
        with pytest.raises(ProgrammingError, match="permission denied"), session.begin_nested():
            session.execute(text(f"{trigger} chargehand.journal_notify()"))
        readable = session.execute(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'chargehand'::regnamespace AND relispartition "
                "AND has_table_privilege(oid, 'select, insert, update, delete') AND relkind = 'r'"
            )
        )
        assert readable.all() == []
        definers = session.execute(
            text(
                "SELECT proname FROM pg_proc WHERE pronamespace = 'chargehand'::regnamespace AND prosecdef "
                "AND (has_function_privilege('public', oid, 'execute') OR proconfig IS NULL "
                "OR proconfig[1] <> 'search_path=pg_catalog, chargehand, pg_temp')"
            )
        )
        assert definers.all() == []


def test_what_a_key_is_granted_at_once_is_taken_from_its_rate(redis_url: str) -> None:
    client = keyspace.connect(redis_url, connect_timeout_seconds=30.0, socket_timeout_seconds=30.0, retries=0)
    key_id = uuid4()
    # As two processes share it: 4,000 at once, and next to nothing a second on top.
    two = [RateLimit(client, per_second=2_000, key_prefix=f"t{key_id.hex}") for _ in range(2)]
    began = time.monotonic()
    let_in = 0
    for number in range(12_000):
        let_in += two[number % 2].wait_seconds(key_id) == 0
    took = time.monotonic() - began
    client.close()
    # Grants that ran out unused are lost to the key, never gained.
    assert let_in <= (limits.BURST_SECONDS + took) * 2_000 + 1
    assert let_in >= 1


def test_most_requests_of_a_busy_key_do_not_ask_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRANTED_SECONDS", 3_600.0)
    client = keyspace.connect(redis_url, connect_timeout_seconds=30.0, socket_timeout_seconds=30.0, retries=0)
    limit, key_id = RateLimit(client, per_second=10, key_prefix=f"t{uuid4().hex}"), uuid4()
    # More than the bucket holds is not granted: it is asked for one by one then.
    assert [limit.wait_seconds(key_id) > 0 for _ in range(21)] == [False] * 20 + [True]
    monkeypatch.setattr(limits, "BURST_SECONDS", 7_200.0)
    limit = RateLimit(client, per_second=10, key_prefix=f"t{uuid4().hex}")
    assert limit.wait_at_once(key_id) is None
    assert [limit.wait_seconds(key_id) for _ in range(2)] == [0.0, 0.0]
    assert [limit.wait_at_once(key_id) for _ in range(5)] == [0.0] * 5
    client.close()
