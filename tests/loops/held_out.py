"""Families that the detectors were not tuned on: other trades, other tools, other ways to loop and to work."""

import random
import string
from typing import Any

from loops.noise import commit, fill, listed
from loops.scene import Scene

SYLLABLES = listed("ba ke lo mi nu ra se ti vo zu dra fen gol hir jun kal mor nes pol quin")


def word(rng: random.Random) -> str:
    """A word that no language has."""
    return "".join(rng.choice(SYLLABLES) for _ in range(3))


def text(rng: random.Random, words: int = 8) -> str:
    """A sentence of them: new each time."""
    return " ".join(word(rng) for _ in range(words)).capitalize() + "."


def work(scene: Scene, count: int, **where: Any) -> None:
    """Calls that get on, at a help desk."""
    rng = scene.rng
    for _ in range(count):
        kind = rng.randint(0, 3)
        if kind == 0:
            scene.act("get_ticket", {"ticket_id": rng.randint(10_000, 99_999)}, text(rng, 12), **where)
        elif kind == 1:
            scene.act("search_kb", {"q": text(rng, 2), "top_k": 3}, f"1. {text(rng, 4)}\n2. {text(rng, 4)}", **where)
        elif kind == 2:
            scene.act("query", {"sql": f"SELECT * FROM {word(rng)} LIMIT 3"}, f"{word(rng)} | {word(rng)}", **where)
        else:
            scene.act("add_note", {"ticket": rng.randint(1, 9_999), "note": text(rng, 5)}, "Note added.", **where)


# --- loops -----------------------------------------------------------------------------------------------------------


def invented_tools(rng: random.Random) -> Scene:
    """Tools that do not exist, a new name each time."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    scene.loop_begins()
    for round_ in range(rng.randint(8, 11)):
        tool = f"{word(rng)}_{rng.choice(('search', 'tool', 'api', 'query'))}"
        error = f"There is no tool {tool!r} here; you can call get_ticket, query, submit."
        scene.act(tool, {"input": text(rng, 3)}, error=error, error_type="UnknownTool")
        if round_ == 3:
            scene.loop_shows()
    return scene


def same_file_written(rng: random.Random) -> Scene:
    """The same report is written again and again, and each time that succeeds."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    arguments = {"file_path": f"out/{word(rng)}.md", "content": text(rng, 20)}
    answer = rng.choice(("File written.", "true", "", '{"ok": true, "id": "<uuid>"}', "wrote 214 bytes in <ms>"))
    scene.loop_begins()
    for round_ in range(rng.randint(7, 10)):
        scene.act("write", arguments, fill(answer, rng))
        if round_ == 2:
            scene.loop_shows()
    return scene


def clock_watched(rng: random.Random) -> Scene:
    """Nothing moves but the clock."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    tool, answer = rng.choice(
        (
            ("get_current_time", "<iso>"),
            ("inbox", '{"messages": [], "checked_at": "<iso>"}'),
            ("order_state", "state: held (as of <time>)"),
            ("heartbeat", '{"queue": "stalled", "now": <epoch>}'),
        )
    )
    scene.loop_begins()
    for round_ in range(rng.randint(9, 12)):
        scene.act(tool, {}, fill(answer, rng))
        if round_ == 3:
            scene.loop_shows()
    return scene


def dead_page(rng: random.Random) -> Scene:
    """A browser: clicks and keys of all kinds, and the page stays as it is."""
    scene = Scene(rng)
    scene.act("goto", {"url": f"https://{word(rng)}.test/"}, f"[page] {text(rng, 15)}")
    page = f"[page] {text(rng, 18)} [1] button {word(rng)} [2] field {word(rng)}"
    for _ in range(rng.randint(0, 3)):
        scene.act("click", {"ref": rng.randint(3, 90)}, f"[page] {text(rng, 15)}")
    scene.loop_begins()
    for round_ in range(rng.randint(9, 12)):
        if rng.random() < 0.5:
            scene.act("click", {"ref": rng.randint(1, 40), "double": rng.random() < 0.3}, page)
        else:
            scene.act(rng.choice(("type", "press", "scroll")), {"value": word(rng)}, page)
        if round_ == 3:
            scene.loop_shows()
    return scene


def sql_by_trial(rng: random.Random) -> Scene:
    """A query with a little change each time, refused for the same reason."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 3))
    table, column, other = word(rng), word(rng), word(rng)
    queries = [
        f"SELECT {column}, {other} FROM {table} WHERE {column} > {number} ORDER BY {other}{end}"
        for number, end in ((10, ""), (10, ";"), (11, ""), (10, " DESC"), (12, ""), (10, " ASC"), (20, ";"), (30, ""))
    ]
    rng.shuffle(queries)
    scene.loop_begins()
    for round_, query in enumerate(queries):
        position = rng.randint(8, 90)
        error = rng.choice(
            (
                f'ERROR:  relation "{table}" does not exist\nLINE 1: position {position}',
                f'ERROR:  relation "{table}" does not exist\nLINE 1: position {position}',
            )
        )
        scene.act("query", {"sql": query}, error=error, error_type="ProgrammingError")
        if round_ == 2:
            scene.loop_shows()
    return scene


def long_cycle(rng: random.Random) -> Scene:
    """Three to five calls in a ring: look, change, check, look again."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 5))
    period = rng.choice((3, 4, 4, 5, 5))
    block: list[tuple[str, dict[str, Any], str, bool]] = []
    for index in range(period):
        failed = rng.random() < 0.35
        gave = rng.choice((f"cannot apply: {text(rng, 3)}", "exit code 2 after <ms>")) if failed else text(rng, 6)
        block.append((f"{word(rng)}_{index}", {"target": word(rng), "deep": rng.random() < 0.5}, gave, failed))
    scene.loop_begins()
    for round_ in range(4):
        for index, (tool, arguments, gave, failed) in enumerate(block):
            scene.act(tool, arguments, **({"error": fill(gave, rng)} if failed else {"ok": gave}))
            if round_ == 1 and index == period - 1:
                scene.loop_shows()
    return scene


def triangle(rng: random.Random) -> Scene:
    """Three agents hand the same work round."""
    scene = Scene(rng)
    roles = rng.sample(("billing", "shipping", "returns", "legal", "front desk"), 3)
    tool = rng.choice(("hand_off", "handoff", "delegate"))
    reasons = [text(rng, 4) for _ in roles]
    scene.loop_begins()
    for round_ in range(12):
        giver, taker = roles[round_ % 3], roles[(round_ + 1) % 3]
        arguments = {"to": taker, "task": reasons[round_ % 3]}
        scene.act(tool, arguments, "accepted", step=f"t{round_ if tool == 'delegate' else round_ % 3}", role=giver)
        if round_ == 5:
            scene.loop_shows()
    return scene


def transferred(rng: random.Random) -> Scene:
    """The same between two, where each target is a tool of its own, or any tool that names an agent."""
    scene = Scene(rng)
    one, other = rng.sample(("sales", "support", "refunds", "fraud_desk"), 2)
    style = rng.choice(("transfer_to_", "transfer_to_agent", "assign"))
    scene.loop_begins()
    for round_ in range(rng.randint(7, 9)):
        giver, taker = (one, other) if round_ % 2 == 0 else (other, one)
        if style == "transfer_to_":
            call: tuple[str, dict[str, Any]] = (f"transfer_to_{taker}", {})
        elif style == "transfer_to_agent":
            call = ("transfer_to_agent", {"agent_name": taker, "transfer_reason": f"Case {rng.randint(1, 99)}"})
        else:
            call = ("assign", {"case": 7, "owner": taker})
        scene.act(*call, f"Transferred to {taker}.", step=giver, role=giver)
        if round_ == 3:
            scene.loop_shows()
    return scene


def done_and_undone(rng: random.Random) -> Scene:
    """A change and its opposite, by turns; each is a commit of its own."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    name, old, new = f"{word(rng)}.ts", word(rng), word(rng)
    scene.loop_begins()
    for round_ in range(rng.randint(8, 11)):
        before, after = (old, new) if round_ % 2 == 0 else (new, old)
        scene.act("replace", {"file": name, "from": before, "to": after}, "1 replacement", commit=commit(rng))
        if round_ == 3:
            scene.loop_shows()
    return scene


def past_the_end(rng: random.Random) -> Scene:
    """Page after page behind the last one."""
    scene = Scene(rng)
    query = word(rng)
    last = rng.randint(1, 4)
    for page in range(1, last + 1):
        scene.act("search_orders", {"q": query, "page": page}, text(rng, 12))
    scene.loop_begins()
    for round_ in range(8):
        scene.act("search_orders", {"q": query, "page": last + 1 + round_}, '{"items": []}')
        if round_ == 2:
            scene.loop_shows()
    return scene


def respelled(rng: random.Random) -> Scene:
    """The same call, written differently each time."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    street, count = f"{word(rng)} {word(rng)}", rng.randint(2, 90)
    forms: list[dict[str, Any]] = [
        {"address": street, "limit": count},
        {"limit": str(count), "address": street},
        {"address": f" {street} ", "limit": float(count)},
        {"address": street.title(), "limit": count},
        {"address": street.replace(" ", ", "), "limit": count},
        {"address": street.upper(), "limit": count},
        {"address": f"{street}.", "limit": count},
    ]
    rng.shuffle(forms)
    scene.loop_begins()
    for round_, form in enumerate([*forms, forms[0]]):
        scene.act("geocode", form, error="ZERO_RESULTS", error_type="LookupError")
        if round_ == 2:
            scene.loop_shows()
    return scene


def relay(rng: random.Random) -> Scene:
    """One agent after the other runs into the same wall."""
    scene = Scene(rng)
    arguments = {"account": rng.randint(1, 999), "amount": rng.randint(1, 99)}
    error = rng.choice(("The account is closed.", "card declined (<uuid>)", "Invalid currency code"))
    scene.loop_begins()
    for agent in range(7):
        work(scene, rng.randint(0, 2), step=f"r{agent}", role=f"clerk {agent}")
        scene.act("charge", arguments, error=fill(error, rng), step=f"r{agent}", role=f"clerk {agent}")
        if agent == 2:
            scene.loop_shows()
    return scene


def busy_for_ever(rng: random.Random) -> Scene:
    """A service that never comes back, asked again after each wait."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 3))
    arguments = {"endpoint": f"/{word(rng)}", "body": {"n": rng.randint(1, 9)}}
    error = rng.choice(("HTTP 503: upstream unavailable", "ECONNREFUSED 10.0.3.7:8443", "Too many requests; id <hex>"))
    waits = rng.random() < 0.5
    scene.loop_begins()
    for round_ in range(9):
        scene.act("post_json", arguments, error=fill(error, rng), error_type="Unavailable")
        if round_ == 3:
            scene.loop_shows()
        if waits:
            scene.act("wait", {"seconds": rng.choice((5, 5 * (round_ + 1)))}, "waited")
    return scene


def poll_without_end(rng: random.Random) -> Scene:
    """A job that never starts, asked after again and again, with sleep in between."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 3))
    answer = rng.choice(("PENDING", '{"phase": "Pending", "restarts": 0}', "no new output", "Waiting for approval"))
    pause = rng.choice((5, 30))
    scene.loop_begins()
    for round_ in range(10):
        scene.act("pod_phase", {"pod": "web-0"}, answer)
        if round_ == 3:
            scene.loop_shows()
        scene.act("shell", {"cmd": f"sleep {pause}"}, "")
    return scene


def shuffled_answer(rng: random.Random) -> Scene:
    """The same search, whose hits come in another order each time, or with the time it took."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 4))
    hits = [f"{word(rng)}.ts: {text(rng, 3)}" for _ in range(rng.randint(3, 6))]
    shuffles = rng.random() < 0.5
    scene.loop_begins()
    for round_ in range(9):
        if shuffles:
            rng.shuffle(hits)
        head = "" if shuffles else f"{len(hits)} hits in {rng.randint(2, 99)} ms, trace {fill('<uuid>', rng)}\n"
        scene.act("ripgrep", {"expression": hits[0][:0] + "total_"}, head + "\n".join(hits))
        if round_ == 2:
            scene.loop_shows()
    return scene


# --- work ------------------------------------------------------------------------------------------------------------


def sleep_and_look(rng: random.Random) -> Scene:
    """A job that takes its time: the same answer two or three times, then another, with sleep in between."""
    scene = Scene(rng)
    work(scene, rng.randint(0, 2))
    pause = rng.choice((10, 60))
    for phase in ("Pending", "Pulling", "Creating", "Running"):
        for _ in range(rng.randint(1, 3)):
            scene.act("pod_phase", {"pod": "db-0"}, phase)
            scene.act("shell", {"cmd": f"sleep {pause}"}, "")
    scene.act("pod_phase", {"pod": "db-0"}, "Ready")
    return scene


def place_in_queue(rng: random.Random) -> Scene:
    """A queue that gets shorter, told as an answer or as a refusal."""
    scene = Scene(rng)
    place, refused = rng.randint(12, 60), rng.random() < 0.5
    while place > 0:
        said = f"Not yet: {place} before you."
        scene.act("claim_slot", {"hall": "B"}, **({"error": said} if refused else {"ok": said}))
        place -= rng.randint(1, 6)
    scene.act("claim_slot", {"hall": "B"}, "The slot is yours.")
    return scene


def pages_by_cursor(rng: random.Random) -> Scene:
    """Pages whose arguments are opaque."""
    scene = Scene(rng)
    cursor: str | None = None
    for _ in range(rng.randint(6, 15)):
        arguments: dict[str, Any] = {"channel": "C042"} | ({"cursor": cursor} if cursor else {})
        cursor = "".join(rng.choice(string.ascii_letters) for _ in range(16))
        scene.act("history", arguments, f"{text(rng, 9)}\nnext: {cursor}")
    return scene


def lint_by_lint(rng: random.Random) -> Scene:
    """The same rule at another line after each correction."""
    scene = Scene(rng)
    name = f"{word(rng)}.go"
    line = 10
    for _ in range(rng.randint(5, 9)):
        line += rng.randint(2, 40)
        scene.act("lint", {"file": name}, error=f"{name}:{line}:1: exported function has no comment", error_type="Lint")
        arguments = {"file": name, "line": line, "text": f"// {text(rng, 4)}"}
        scene.act("insert_line", arguments, "inserted", commit=commit(rng))
    scene.act("lint", {"file": name}, "clean")
    return scene


def green_all_along(rng: random.Random) -> Scene:
    """A refactoring: file after file changed, and the tests pass each time."""
    scene = Scene(rng)
    report = rng.choice(("All 214 tests passed.", "ok  \tgithub.com/x/y\t<seconds>", "214 passing (<ms>)"))
    for _ in range(rng.randint(7, 12)):
        arguments = {"file": f"{word(rng)}.go", "from": word(rng), "to": word(rng)}
        scene.act("replace", arguments, "1 replacement", commit=commit(rng))
        scene.act("test", {"all": True}, fill(report, rng))
    return scene


def attachments(rng: random.Random) -> Scene:
    """File after file attached to one mail; each call answers `True`."""
    scene = Scene(rng)
    for letter in string.ascii_lowercase[: rng.randint(6, 14)]:
        scene.act("attach_file", {"email_id": "1", "filename": f"{letter}.{rng.choice(('txt', 'pdf'))}"}, "True")
    scene.act("send_email", {"email_id": "1"}, "True")
    return scene


def sweep_of_hosts(rng: random.Random) -> Scene:
    """Host after host looked at, and all are well."""
    scene = Scene(rng)
    answer = rng.choice(("up", "healthy", "ok: disk 41% load 0.2", "PING ok, 0% loss"))
    for host in range(1, rng.randint(8, 20)):
        scene.act("check", {"host": f"web-{host:02}.test"}, answer)
    return scene


def review_rounds(rng: random.Random) -> Scene:
    """A change goes to review and back, better each time."""
    scene = Scene(rng)
    for _ in range(rng.randint(2, 3)):
        scene.act("replace", {"file": word(rng), "to": text(rng, 3)}, "1 replacement", commit=commit(rng), step="c")
        scene.act("hand_off", {"to": "reviewer", "note": text(rng, 7)}, "Handed over.", step="c", role="writer")
        scene.act("read_diff", {"from": word(rng)}, text(rng, 9), step="r", role="reviewer")
        scene.act("hand_off", {"to": "writer", "note": text(rng, 7)}, "Handed over.", step="r", role="reviewer")
    work(scene, 2, step="c", role="writer")
    return scene


def two_busy_services(rng: random.Random) -> Scene:
    """Two services, both busy at first, asked by turns."""
    scene = Scene(rng)
    error = rng.choice(("503 upstream unavailable", "timed out after <seconds>"))
    for _ in range(rng.randint(1, 3)):
        for service in ("stock", "price"):
            scene.act("fetch", {"service": service}, error=fill(error, rng), error_type="Unavailable")
    for service in ("stock", "price"):
        scene.act("fetch", {"service": service}, text(rng))
    return scene


def line_ranges(rng: random.Random) -> Scene:
    """A long file, read in parts, with a look back."""
    scene = Scene(rng)
    parts = {start: text(rng, 15) for start in range(1, rng.randint(6, 14) * 100, 100)}
    for start in parts:
        scene.act("view", {"file": "main.rs", "range": [start, start + 99]}, parts[start])
    for start in rng.sample(list(parts), 2):
        scene.act("view", {"file": "main.rs", "range": [start, start + 99]}, parts[start])
        work(scene, 1)
    return scene


def browsing(rng: random.Random) -> Scene:
    """Pages that change with each click; one click that does nothing, and is repeated once."""
    scene = Scene(rng)
    page = text(rng, 15)
    for _ in range(rng.randint(6, 14)):
        for _ in range(rng.choice((1, 1, 1, 2))):
            scene.act("click", {"ref": rng.randint(1, 40)}, f"[page] {page}")
        page = text(rng, 15)
    return scene


def read_again_together(rng: random.Random) -> Scene:
    """Three files read in one turn, and read again after the work."""
    scene = Scene(rng)
    files = [(f"{word(rng)}.go", text(rng)) for _ in range(rng.randint(3, 6))]
    for _ in range(2):
        for index, (name, content) in enumerate(files):
            scene.act("view", {"file": name}, content, same_turn=index > 0)
        work(scene, rng.randint(0, 3))
    return scene


def fan_out_timeouts(rng: random.Random) -> Scene:
    """Two hundred agents of one map, and a service that answers none of them."""
    scene = Scene(rng)
    error = rng.choice(("ETIMEDOUT after <ms>", "Service temporarily overloaded (<uuid>)", "429: slow down"))
    for agent in range(200):
        scene.act("score", {"model": "v2"}, error=fill(error, rng), step=f"m{agent}", role="scorer")
    return scene


def sweep_for_a_word(rng: random.Random) -> Scene:
    """One pattern in file after file, most of which do not have it."""
    scene = Scene(rng)
    pattern = word(rng)
    for _ in range(rng.randint(8, 16)):
        found = rng.random() < 0.15
        scene.act("grep", {"pattern": pattern, "file": f"{word(rng)}.go"}, text(rng, 4) if found else "no matches")
    return scene


def growing_log(rng: random.Random) -> Scene:
    """The end of a log that grows."""
    scene = Scene(rng)
    lines: list[str] = []
    for _ in range(rng.randint(6, 14)):
        lines += [f"{fill('<time>', rng)} {text(rng, 3)}" for _ in range(rng.randint(1, 3))]
        scene.act("tail", {"file": "build.log", "lines": 5}, "\n".join(lines[-5:]))
    return scene


def next_item(rng: random.Random) -> Scene:
    """The same two calls for each item of a queue."""
    scene = Scene(rng)
    for _ in range(rng.randint(6, 12)):
        item = rng.randint(100_000, 999_999)
        scene.act("next_item", {}, f'{{"id": {item}, "title": "{text(rng, 3)}"}}')
        scene.act("close_item", {"id": item}, "closed")
    scene.act("next_item", {}, "null")
    return scene


def same_trade(rng: random.Random) -> Scene:
    """Two agents with like orders: like searches, like dead ends, and both get on."""
    scene = Scene(rng)
    for order in range(rng.randint(4, 7)):
        for desk in ("north", "south"):
            where = {"step": desk, "role": "clerk"}
            scene.act("find_order", {"number": f"{order:04}-{desk}"}, text(rng, 5), **where)
            if rng.random() < 0.3:
                error = f"No stock for order {order:04}-{desk}."
                scene.act("reserve", {"order": f"{order:04}-{desk}"}, error=error, **where)
            scene.act("reply", {"order": f"{order:04}-{desk}", "text": text(rng, 4)}, "sent", **where)
    return scene


def slow_start(rng: random.Random) -> Scene:
    """A cluster that comes up: not ready, and each time less so."""
    scene = Scene(rng)
    total = rng.randint(5, 9)
    for up in range(total):
        scene.act("rollout", {"app": "web"}, error=f"{up} of {total} replicas are ready", error_type="NotReady")
        if rng.random() < 0.5:
            scene.act("wait", {"seconds": 10}, "waited")
    scene.act("rollout", {"app": "web"}, "rolled out")
    return scene


LOOPS = {
    "identical": (same_file_written, clock_watched, busy_for_ever, poll_without_end, shuffled_answer, relay),
    "near_identical": (sql_by_trial, past_the_end, respelled),
    "alternating": (long_cycle, done_and_undone),
    "ping_pong": (triangle, transferred),
    "stuck_state": (invented_tools, dead_page),
}
WORK = (
    sleep_and_look,
    place_in_queue,
    pages_by_cursor,
    lint_by_lint,
    green_all_along,
    attachments,
    sweep_of_hosts,
    review_rounds,
    two_busy_services,
    line_ranges,
    browsing,
    read_again_together,
    fan_out_timeouts,
    sweep_for_a_word,
    growing_log,
    next_item,
    same_trade,
    slow_start,
)
