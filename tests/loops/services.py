"""Transcripts of services: HTTP, SQL, search engines, browsers, clusters, tools behind a protocol."""

import json
import random
from typing import Any

from loops.family import Families
from loops.noise import fill, listed
from loops.scene import Scene

FAMILIES = Families()
THINGS = listed(
    "invoice shipment customer warehouse ticket contract meter parcel booking refund voucher device licence tenant "
    "campaign survey patient sensor turbine vessel"
)
ADJECTIVES = listed("open late partial northern monthly archived priority digital regional manual nightly external")
CITIES = listed("Oslo Lyon Turin Gdansk Porto Ghent Malmo Graz Split Cork Bergen Nantes Bilbao Leipzig Tampere Varna")


def sentence(rng: random.Random, words: int = 8) -> str:
    """Words that were never seen in this order."""
    return " ".join(
        f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)} {rng.randint(100, 9999)}" for _ in range(words // 3 + 1)
    )


def meta(rng: random.Random) -> dict[str, Any]:
    """What an API says of itself with every answer."""
    return {"requestId": fill("<uuid>", rng), "serverTime": fill("<iso>", rng), "durationMs": rng.randint(3, 400)}


def warm_up(scene: Scene, most: int = 4) -> None:
    """A few calls that get on."""
    rng = scene.rng
    for _ in range(rng.randint(0, most)):
        thing = rng.choice(THINGS)
        if rng.random() < 0.5:
            body = {"data": {"name": sentence(rng, 3), "total": rng.randint(1, 9999)}, "meta": meta(rng)}
            scene.act(
                "http_get", {"url": f"https://api.acme.test/v2/{thing}s/{rng.randint(1, 9999)}"}, json.dumps(body)
            )
        else:
            scene.act("search", {"query": sentence(rng, 3)}, f"1. {sentence(rng)}\n2. {sentence(rng)}")


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def unprocessable(scene: Scene, rng: random.Random) -> None:
    """A request that is refused for its content, sent again as it was."""
    warm_up(scene)
    body = {"items": [{"sku": rng.choice(THINGS), "qty": 0}], "currency": "EURO"}
    scene.loop_begins()
    for index in range(7):
        answer = {"error": {"code": "validation_error", "fields": ["currency"]}, "meta": meta(rng)}
        scene.act(
            "http_post", {"url": "https://api.acme.test/v2/orders", "json": body}, f"HTTP 422 {json.dumps(answer)}"
        )
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def token_refreshed(scene: Scene, rng: random.Random) -> None:
    """Unauthorised, a new token, unauthorised."""
    warm_up(scene)
    scene.loop_begins()
    for index in range(5):
        scene.act(
            "http_get", {"url": "https://api.acme.test/v2/me"}, error="401 Unauthorized: token is missing scope read:me"
        )
        token = {"access_token": fill("<hex>", rng) + fill("<hex>", rng), "expires_in": 3600}
        scene.act("http_post", {"url": "https://auth.acme.test/token", "form": {"grant": "refresh"}}, json.dumps(token))
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def column_guessed(scene: Scene, rng: random.Random) -> None:
    """A column that does not exist, under other names."""
    warm_up(scene)
    thing = rng.choice(THINGS)
    names = [
        f"{thing}_id",
        f"{thing}id",
        f"id_{thing}",
        f"{thing}_no",
        f"{thing}_number",
        f"{thing}_key",
        f"{thing}_code",
        f"{thing}_ref",
    ]
    rng.shuffle(names)
    scene.loop_begins()
    for index, name in enumerate(names):
        query = f"SELECT {name} FROM {thing}s LIMIT 10"
        error = (
            f'ERROR:  column "{name}" does not exist\nLINE 1: SELECT {name} FROM {thing}s LIMIT 10\n               ^'
        )
        scene.act("execute_sql", {"query": query}, error=error)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def no_rows(scene: Scene, rng: random.Random) -> None:
    """The same question to a table, with other wildcards, limits and cases."""
    warm_up(scene)
    name = rng.choice(CITIES)
    forms = [
        f"SELECT * FROM customers WHERE city = '{name}'",
        f"SELECT * FROM customers WHERE city LIKE '{name}'",
        f"SELECT * FROM customers WHERE city ILIKE '{name}'",
        f"SELECT * FROM customers WHERE city LIKE '%{name}%'",
        f"SELECT * FROM customers WHERE lower(city) = '{name.lower()}'",
        f"SELECT * FROM customers WHERE city = '{name}' LIMIT 10",
        f"SELECT * FROM customers WHERE city ILIKE '%{name}%' LIMIT 100",
        f"select * from customers where city = '{name}';",
    ]
    said = rng.choice(("(0 rows)", '{"rows": [], "rowCount": 0}', "Query returned no results"))
    scene.loop_begins()
    for index, form in enumerate(forms):
        scene.act("execute_sql", {"query": form}, said)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def same_hits(scene: Scene, rng: random.Random) -> None:
    """The same question in other words to a search engine, which gives the same pages."""
    warm_up(scene)
    thing, place = rng.choice(THINGS), rng.choice(CITIES)
    hits = [f"https://{rng.choice(ADJECTIVES)}.test/{rng.randint(1, 999)} {sentence(rng, 4)}" for _ in range(4)]
    queries = [
        f"{thing} rules {place}",
        f"{place} {thing} rules",
        f"{thing} rules in {place}",
        f"rules for {thing} {place}",
        f"{thing} rule {place}",
        f"what are the {thing} rules in {place}",
        f"{place} rules {thing}s",
        f"{thing} rules {place} 2026",
    ]
    rng.shuffle(queries)
    scene.loop_begins()
    for index, query in enumerate(queries):
        rng.shuffle(hits)
        scene.act("web_search", {"query": query}, "\n".join(hits))
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def page_does_not_move(scene: Scene, rng: random.Random) -> None:
    """Clicks here and there, and the snapshot of the page stays the same."""
    scene.act(
        "browser_navigate", {"url": f"https://{rng.choice(THINGS)}.test"}, f'- heading "{sentence(rng, 3)}" [ref=e2]'
    )
    snapshot = (
        f'- Page URL: https://shop.test/cart\n- button "Pay" [ref=e{rng.randint(3, 20)}]\n'
        f'- textbox "{rng.choice(THINGS)}" [ref=e{rng.randint(21, 40)}]\n- text: {sentence(rng, 3)}'
    )
    scene.loop_begins()
    for index in range(10):
        tool = rng.choice(("browser_click", "browser_press_key", "browser_hover"))
        scene.act(tool, {"element": rng.choice(THINGS), "ref": f"e{rng.randint(3, 60)}"}, snapshot)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def login_form(scene: Scene, rng: random.Random) -> None:
    """User, password, click, refused; again."""
    warm_up(scene, 2)
    user, password = rng.choice(THINGS), rng.choice(CITIES)
    scene.loop_begins()
    for index in range(4):
        scene.act("browser_type", {"ref": "e4", "text": user}, "Typed.")
        scene.act("browser_type", {"ref": "e5", "text": password}, "Typed.")
        scene.act("browser_click", {"ref": "e6"}, '- alert: "Wrong user name or password" [ref=e9]')
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def verify_you_are_human(scene: Scene, rng: random.Random) -> None:
    """One site after the other shows the same wall."""
    warm_up(scene, 2)
    wall = rng.choice(
        (
            "Just a moment... Checking if the site connection is secure. Ray ID: <hex>",
            "Access denied. You don't have permission to access this page. Reference #18.<hex>",
            "Error 403: automated access from this network is blocked (incident <uuid>).",
        )
    )
    scene.loop_begins()
    for index in range(9):
        url = f"https://www.{rng.choice(ADJECTIVES)}-{rng.choice(THINGS)}.test/{rng.randint(1, 999)}"
        scene.act("fetch", {"url": url}, error=fill(wall, rng))
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("identical")
def protocol_error(scene: Scene, rng: random.Random) -> None:
    """A tool behind a protocol that refuses its arguments, as a success with an error flag."""
    warm_up(scene)
    arguments = {"owner": "acme", "repo": rng.choice(THINGS), "issue": "next"}
    scene.loop_begins()
    for index in range(7):
        said = {
            "jsonrpc": "2.0",
            "id": rng.randint(1, 9999),
            "result": {"isError": True, "content": [{"type": "text", "text": "Input should be a number: issue"}]},
        }
        scene.act("mcp__github__get_issue", arguments, json.dumps(said))
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("identical")
def pods_crash(scene: Scene, rng: random.Random) -> None:
    """The pod is looked at again and again; only its age moves."""
    warm_up(scene, 2)
    name = f"{rng.choice(THINGS)}-7d9f8b6c5d-x2x4z"
    age = rng.randint(2, 9)
    scene.loop_begins()
    for index in range(9):
        text = f"NAME{' ' * 30}READY   STATUS             RESTARTS   AGE\n{name}   0/1     ImagePullBackOff   0          {age}m"
        scene.act("kubectl", {"args": "get pods"}, text)
        age += 1
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("identical")
def queued_for_ever(scene: Scene, rng: random.Random) -> None:
    """A job that stays queued; what moves is the server's clock and the id of the answer, deep in the JSON."""
    warm_up(scene, 2)
    job = rng.randint(1000, 9999)
    scene.loop_begins()
    for index in range(9):
        body = {"data": {"job": {"id": job, "state": "QUEUED", "worker": None}}, "meta": meta(rng)}
        scene.act("get_job", {"job_id": job}, json.dumps(body, indent=rng.choice((None, 2))))
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def page_that_comes_back(scene: Scene, rng: random.Random) -> None:
    """The next page is always the first one."""
    warm_up(scene, 2)
    rows = [{"key": f"{rng.choice(THINGS)}/{rng.randint(1, 999)}.json", "size": rng.randint(9, 9999)} for _ in range(3)]
    scene.loop_begins()
    for index in range(8):
        arguments: dict[str, Any] = {"bucket": "exports", "max_keys": 3, "page": index + 1}
        scene.act("list_objects", arguments, json.dumps({"contents": rows, "truncated": True}))
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def mail_sent_again(scene: Scene, rng: random.Random) -> None:
    """The same mail to the same person, with a word changed."""
    warm_up(scene, 2)
    words = sentence(rng, 6)
    scene.loop_begins()
    for index in range(8):
        text = f"{rng.choice(('Hi', 'Hello', 'Dear'))} Kim, your {words} is {rng.choice(('ready', 'done', 'complete'))} now, {rng.choice(('best', 'kind'))} regards"
        scene.act(
            "send_email",
            {"to": "kim@acme.test", "subject": "Order", "body": text},
            f"Queued as <{fill('<hex>', rng)}@mx>",
        )
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("identical")
def limit_never_lifts(scene: Scene, rng: random.Random) -> None:
    """A rate limit that does not lift, whatever the header says."""
    warm_up(scene, 2)
    url = f"https://api.acme.test/v2/{rng.choice(THINGS)}s"
    scene.loop_begins()
    for index in range(9):
        error = f"429 Too Many Requests; retry-after: {rng.randint(1, 60)}; x-ratelimit-reset: {fill('<epoch>', rng)}"
        scene.act("http_get", {"url": url}, error=error)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def fields_guessed(scene: Scene, rng: random.Random) -> None:
    """Fields of a GraphQL type, guessed one after the other."""
    warm_up(scene, 2)
    scene.loop_begins()
    for index, name in enumerate(rng.sample(THINGS, 9)):
        error = {
            "errors": [
                {
                    "message": f'Cannot query field "{name}" on type "Order".',
                    "locations": [{"line": 1, "column": rng.randint(9, 40)}],
                }
            ]
        }
        scene.act("graphql", {"query": f"{{ order(id: 7) {{ {name} }} }}"}, json.dumps(error))
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("identical")
def weather_again(scene: Scene, rng: random.Random) -> None:
    """One question, one answer, over and over."""
    warm_up(scene, 2)
    city = rng.choice(CITIES)
    degrees = rng.randint(-5, 30)
    scene.loop_begins()
    for index in range(8):
        scene.act("get_weather", {"city": city, "unit": "C"}, f"{city}: {degrees} C, wind {degrees + 8} km/h")
        if index == 2:
            scene.loop_shows()


@FAMILIES.loop("near_identical")
def memory_asked(scene: Scene, rng: random.Random) -> None:
    """The memory is asked the same in other words, and says the same three things."""
    warm_up(scene, 2)
    thing = rng.choice(THINGS)
    said = json.dumps([{"text": sentence(rng, 6), "score": 0.5} for _ in range(3)])
    questions = [
        f"deadline of the {thing}",
        f"{thing} deadline",
        f"the deadline for the {thing}",
        f"deadline {thing}?",
        f"when is the deadline of the {thing}",
        f"{thing} deadline date",
        f"deadline of {thing}s",
        f"Deadline: {thing}",
    ]
    rng.shuffle(questions)
    scene.loop_begins()
    for index, question in enumerate(questions):
        scene.act("recall", {"question": question, "k": 3}, said)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("stuck_state")
def cell_stays_broken(scene: Scene, rng: random.Random) -> None:
    """Another formula, the same broken cell."""
    warm_up(scene, 2)
    value = rng.choice(("#REF!", "#DIV/0!", "#NAME?"))
    scene.loop_begins()
    for index in range(8):
        formula = f"=SUM({rng.choice('ABCDEF')}{rng.randint(1, 99)}:{rng.choice('ABCDEF')}{rng.randint(100, 999)})"
        scene.act("set_cell", {"sheet": "P&L", "cell": "F12", "formula": formula}, '{"updatedCells": 1}')
        scene.act("get_cell", {"sheet": "P&L", "cell": "F12"}, json.dumps({"cell": "F12", "value": value}))
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def ingest_ring(scene: Scene, rng: random.Random) -> None:
    """Fetch, parse, validate: invalid; fetch, parse, validate."""
    warm_up(scene, 2)
    source, rows = rng.choice(THINGS), rng.randint(100, 900)
    scene.loop_begins()
    for index in range(4):
        scene.act(
            "fetch_feed",
            {"source": source},
            f"saved to /tmp/feeds/{fill('<hex>', rng)}.xml in {rng.randint(20, 900)} ms",
        )
        scene.act("parse_feed", {"source": source}, f"{rows} rows parsed, run {fill('<uuid>', rng)}")
        scene.act("validate_feed", {"source": source}, error=f"row {rows // 3}: price is negative")
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("alternating")
def on_and_off(scene: Scene, rng: random.Random) -> None:
    """Switched on, looked at, switched off, looked at."""
    warm_up(scene, 2)
    flag = rng.choice(THINGS)
    scene.loop_begins()
    for index in range(4):
        for state in ("on", "off"):
            scene.act(
                "set_flag",
                {"flag": flag, "state": state},
                json.dumps({"ok": True, "revision": rng.randint(1, 99999), "at": fill("<iso>", rng)}),
            )
            scene.act("error_rate", {"window": "1m"}, "12.5%")
        if index == 1:
            scene.loop_shows()


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def job_gets_on(scene: Scene, rng: random.Random) -> None:
    """A job polled: a counter moves deep in the JSON, now and then it stands for a moment."""
    done = 0
    while done < 1000:
        for _ in range(rng.choice((1, 1, 2, 3))):
            body = {"data": {"job": {"id": 7, "state": "RUNNING", "rows": done}}, "meta": meta(rng)}
            scene.act("get_job", {"job_id": 7}, json.dumps(body))
        done += rng.randint(30, 250)
    scene.act("get_job", {"job_id": 7}, '{"data": {"job": {"id": 7, "state": "DONE"}}}')


@FAMILIES.honest
def states_pass(scene: Scene, rng: random.Random) -> None:
    """Provisioning: the same state a few times with growing waits, then the next."""
    wait = 1
    for state in ("CREATING", "BOOTING", "CONFIGURING", "AVAILABLE"):
        for _ in range(rng.randint(1, 3)):
            scene.act(
                "describe_instance", {"id": "i-0a1b"}, json.dumps({"state": state, "requestId": fill("<uuid>", rng)})
            )
            scene.act("wait", {"seconds": wait}, f"waited {wait} s")
            wait *= 2


@FAMILIES.honest
def cursor_pages(scene: Scene, rng: random.Random) -> None:
    """Pages with an opaque cursor."""
    cursor = ""
    for _ in range(rng.randint(6, 12)):
        rows = [{"id": rng.randint(10_000, 99_999), "state": "active"} for _ in range(3)]
        arguments = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        cursor = fill("<hex>", rng) + fill("<hex>", rng)
        scene.act("list_customers", arguments, json.dumps({"data": rows, "next_cursor": cursor, "meta": meta(rng)}))


@FAMILIES.honest
def numbered_pages(scene: Scene, rng: random.Random) -> None:
    """Pages by number, whose rows look much alike."""
    first = rng.randint(1, 500)
    for page in range(rng.randint(6, 12)):
        rows = "\n".join(f"{first + page * 4 + n} | active | EUR" for n in range(4))
        scene.act(
            "execute_sql",
            {"query": f"SELECT id, state, currency FROM accounts ORDER BY id LIMIT 4 OFFSET {page * 4}"},
            rows,
        )


@FAMILIES.honest
def tables_counted(scene: Scene, rng: random.Random) -> None:
    """Table after table, many of them empty."""
    for thing in rng.sample(THINGS, rng.randint(8, 12)):
        count = 0 if rng.random() < 0.6 else rng.randint(1, 9999)
        scene.act("execute_sql", {"query": f"SELECT count(*) FROM {thing}s"}, f" count \n-------\n {count}\n(1 row)")


@FAMILIES.honest
def objects_one_by_one(scene: Scene, rng: random.Random) -> None:
    """Object after object, most of them in the same state."""
    for number in rng.sample(range(1000, 9999), rng.randint(8, 14)):
        state = "active" if rng.random() < 0.85 else "closed"
        scene.act(
            "http_get",
            {"url": f"https://api.acme.test/v2/meters/{number}/state"},
            json.dumps({"state": state, "meta": meta(rng)}),
        )


@FAMILIES.honest
def places_looked_up(scene: Scene, rng: random.Random) -> None:
    """A list of addresses, some of which the map does not know."""
    for city in rng.sample(CITIES, rng.randint(9, 13)):
        arguments = {"address": f"{rng.choice(THINGS)} street {rng.randint(1, 99)}, {city}"}
        if rng.random() < 0.3:
            scene.act("geocode", arguments, error="ZERO_RESULTS")
        else:
            scene.act(
                "geocode",
                arguments,
                json.dumps({"lat": round(rng.uniform(40, 60), 5), "lng": round(rng.uniform(-9, 25), 5)}),
            )


@FAMILIES.honest
def checkout(scene: Scene, rng: random.Random) -> None:
    """A shop: each click shows another page."""
    for page in ("cart", "address", "shipping", "payment", "review", "confirmation"):
        snapshot = f'- Page URL: https://shop.test/{page}\n- heading "{page}" [ref=e1]\n- button "Next" [ref=e7]\n- text: {sentence(rng, 3)}'
        scene.act("browser_click", {"element": "Next", "ref": "e7"}, snapshot)
        if rng.random() < 0.5:
            scene.act("browser_type", {"ref": f"e{rng.randint(8, 20)}", "text": rng.choice(CITIES)}, "Typed.")


@FAMILIES.honest
def form_filled(scene: Scene, rng: random.Random) -> None:
    """Field after field, each answered by the same word."""
    for ref, city in enumerate(rng.sample(CITIES, rng.randint(7, 11))):
        scene.act("browser_type", {"ref": f"e{ref + 3}", "text": city}, "Typed.")
    scene.act("browser_click", {"ref": "e40"}, '- heading "Thank you"')


@FAMILIES.honest
def research(scene: Scene, rng: random.Random) -> None:
    """Searches about one matter, each with some hits that are new."""
    known = [f"https://{rng.choice(ADJECTIVES)}.test/{rng.randint(1, 999)}" for _ in range(2)]
    thing = rng.choice(THINGS)
    for word in rng.sample(ADJECTIVES, rng.randint(6, 9)):
        new = [f"https://{rng.choice(ADJECTIVES)}.test/{rng.randint(1000, 99_999)}" for _ in range(2)]
        scene.act("web_search", {"query": f"{thing} {word} report"}, "\n".join((*known, *new)))


@FAMILIES.honest
def endpoints_tried(scene: Scene, rng: random.Random) -> None:
    """Three addresses that are not there, and the fourth that is; twice."""
    for _ in range(2):
        things = rng.sample(THINGS, rng.randint(2, 4))
        for thing in things[:-1]:
            scene.act("http_get", {"url": f"https://api.acme.test/{thing}"}, error="404 Not Found")
        scene.act(
            "http_get",
            {"url": f"https://api.acme.test/{things[-1]}"},
            json.dumps({"data": sentence(rng, 4), "meta": meta(rng)}),
        )


@FAMILIES.honest
def mails_to_many(scene: Scene, rng: random.Random) -> None:
    """The same mail to many people."""
    body = sentence(rng, 8)
    for city in rng.sample(CITIES, rng.randint(7, 12)):
        scene.act(
            "send_email",
            {"to": f"desk@{city.lower()}.test", "subject": "Report", "body": body},
            f"Queued as <{fill('<hex>', rng)}@mx>",
        )


@FAMILIES.honest
def limit_lifts(scene: Scene, rng: random.Random) -> None:
    """A rate limit met, waited for, and over; again for the next."""
    for thing in rng.sample(THINGS, 3):
        for attempt in range(rng.randint(1, 3)):
            scene.act(
                "http_get",
                {"url": f"https://api.acme.test/{thing}s"},
                error=f"429 Too Many Requests; retry-after: {2**attempt}",
            )
            scene.act("sleep", {"seconds": 2**attempt}, "")
        scene.act("http_get", {"url": f"https://api.acme.test/{thing}s"}, json.dumps({"data": sentence(rng, 4)}))


@FAMILIES.honest
def parts_uploaded(scene: Scene, rng: random.Random) -> None:
    """Part after part of one file."""
    for part in range(1, rng.randint(8, 14)):
        scene.act(
            "upload_part",
            {"upload_id": "u-77", "part_number": part},
            json.dumps({"etag": fill("<hex>", rng), "status": "ok"}),
        )


@FAMILIES.honest
def prices_watched(scene: Scene, rng: random.Random) -> None:
    """A price that moves, up and down."""
    price = 100.0
    for _ in range(rng.randint(8, 14)):
        price += rng.choice((-1, 1)) * rng.uniform(0.05, 2)
        scene.act(
            "quote",
            {"symbol": "ACM"},
            json.dumps({"symbol": "ACM", "price": round(price, 2), "ts": fill("<epoch>", rng)}),
        )


@FAMILIES.honest
def migrations_one_by_one(scene: Scene, rng: random.Random) -> None:
    """Migrations, each of which says OK."""
    for number in range(1, rng.randint(7, 12)):
        scene.act("migrate", {"name": f"{number:04}_{rng.choice(ADJECTIVES)}_{rng.choice(THINGS)}"}, "OK")


@FAMILIES.honest
def records_checked(scene: Scene, rng: random.Random) -> None:
    """Record after record: valid, or not for one of three reasons."""
    for number in rng.sample(range(100, 999), rng.randint(9, 14)):
        said = rng.choice(("valid", "valid", "invalid: missing field vat", "invalid: bad date"))
        scene.act("validate_record", {"record": number}, json.dumps({"result": said}))


@FAMILIES.honest
def shrinking_queue(scene: Scene, rng: random.Random) -> None:
    """A backlog that is worked off."""
    left = rng.randint(400, 900)
    while left > 0:
        for _ in range(rng.choice((1, 1, 2))):
            scene.act(
                "queue_size", {"queue": "mail"}, json.dumps({"messages": left, "consumers": 4, "meta": meta(rng)})
            )
        left -= rng.randint(40, 160)
    scene.act("queue_size", {"queue": "mail"}, '{"messages": 0, "consumers": 4}')


@FAMILIES.honest
def fix_the_request(scene: Scene, rng: random.Random) -> None:
    """A request whose refusals are mended one by one."""
    body: dict[str, Any] = {}
    for field in rng.sample(THINGS, rng.randint(4, 6)):
        scene.act(
            "http_post",
            {"url": "https://api.acme.test/v2/forms", "json": dict(body)},
            error=f"422: field required: {field}",
        )
        body[field] = rng.randint(1, 99)
    scene.act("http_post", {"url": "https://api.acme.test/v2/forms", "json": dict(body)}, '{"id": 91}')


@FAMILIES.honest
def forbidden_here_and_there(scene: Scene, rng: random.Random) -> None:
    """Repositories, some of which are not for this token."""
    for thing in rng.sample(THINGS, rng.randint(9, 13)):
        if rng.random() < 0.4:
            scene.act(
                "list_branches", {"repo": f"acme/{thing}"}, error="403 Forbidden: resource not accessible by this token"
            )
        else:
            scene.act("list_branches", {"repo": f"acme/{thing}"}, "\n".join(rng.sample(ADJECTIVES, 3)))
