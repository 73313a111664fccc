"""Small cases in the manner of well-known agents and tools, in their own words; written after the wide sets."""

import json
import random

from loops.family import Families
from loops.made_up import go_round, phrase, token
from loops.noise import commit, fill
from loops.scene import Scene

FAMILIES = Families()

FILES = ("src/auth/session.py", "lib/parser.ts", "app/models/order.rb", "internal/cache/lru.go", "core/scheduler.rs")
CITIES = (
    "Hamburg",
    "Lisbon",
    "Kyoto",
    "Montreal",
    "Nairobi",
    "Cusco",
    "Tallinn",
    "Perth",
    "Oaxaca",
    "Tromsø",
    "Bari",
    "Leeds",
)
PEOPLE = (
    "Ana Ruiz",
    "Ben Okafor",
    "Chen Li",
    "Dana Levi",
    "Emil Novak",
    "Fatima Zahra",
    "Goran Ilic",
    "Hana Sato",
    "Ivo Petrov",
)


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("stuck_state")
def observation_with_a_step_counter(scene: Scene, rng: random.Random) -> None:
    """A browser agent's observations: another action each time, the page as before, and a counter of actions."""
    page = "Current url: https://portal.test/login\n[12]<input type=password/>\n[13]<button>Sign in</button>"

    def body(index: int) -> None:
        action = {"action": rng.choice(("click", "type", "press", "hover")), "index": rng.randint(1, 40)}
        scene.act("browser_act", action, f"Action {index + 1} executed.\n{page}")

    go_round(scene, 10, 3, body)


@FAMILIES.loop("identical")
def notebook_counts_on(scene: Scene, rng: random.Random) -> None:
    """One cell is run again and again; only its number moves."""

    def body(index: int) -> None:
        said = f"In [{index + 7}]: df.head()\nOut[{index + 7}]:\n   order  total\n0      1   9.50\n1      2  12.00"
        scene.act("python", {"code": "df.head()"}, said)

    go_round(scene, 8, 2, body)


@FAMILIES.loop("identical")
def task_created_again(scene: Scene, rng: random.Random) -> None:
    """The same ticket is made over and over; each gets a number."""

    def body(index: int) -> None:
        what = {"title": "Fix the login page", "project": "WEB", "assignee": "dana"}
        scene.act("create_issue", what, json.dumps({"key": f"WEB-{412 + index}", "status": "To Do"}))

    go_round(scene, 8, 2, body)


@FAMILIES.loop("near_identical")
def path_in_many_spellings(scene: Scene, rng: random.Random) -> None:
    """One directory listed by its name with dots, slashes, the whole way."""
    listing = "README.md\nsetup.cfg\nsrc\ntests"
    ways = [".", "./", "/repo", "/repo/", "/repo/.", "./.", "/repo/src/..", "../repo", "$PWD"]
    go_round(scene, 9, 3, lambda index: scene.act("list_directory", {"path": ways[index]}, listing))


@FAMILIES.loop("near_identical")
def limit_grows(scene: Scene, rng: random.Random) -> None:
    """The same eight rows, asked for with a larger limit each time."""
    rows = "\n".join(f"{index}, {city}, {rng.randint(10, 99)}" for index, city in enumerate(CITIES[:8]))
    go_round(scene, 8, 3, lambda index: scene.act("query", {"table": "stations", "limit": 10 * 2**index}, rows))


@FAMILIES.loop("alternating")
def read_and_fail_to_edit(scene: Scene, rng: random.Random) -> None:
    """Claude-like: read the file, an edit whose string is not unique, read the file."""
    path = rng.choice(FILES)
    text = "\n".join(f"{line:>5}→{phrase(rng, 4)}" for line in range(1, 12))

    def body(index: int) -> None:
        scene.act("Read", {"file_path": path}, text)
        said = f"Found {2} matches of the string to replace, but replace_all is false. String: return None"
        scene.act("Edit", {"file_path": path, "old_string": "return None", "new_string": f"return {index}"}, error=said)

    go_round(scene, 6, 1, body)


@FAMILIES.loop("stuck_state")
def memory_of_an_autonomous_agent(scene: Scene, rng: random.Random) -> None:
    """AutoGPT-like: one command after the other that it does not know."""
    commands = [
        "do_nothing",
        "analyze_code",
        "evaluate",
        "improve",
        "research",
        "summarize",
        "start_agent",
        "list_agents",
        "think",
        "plan",
    ]
    said = "Command {} returned: Unknown command. Use only the commands listed."
    go_round(
        scene, 10, 3, lambda index: scene.act(commands[index], {"input": phrase(rng, 3)}, said.format(commands[index]))
    )


@FAMILIES.loop("identical")
def final_answer_refused(scene: Scene, rng: random.Random) -> None:
    """The answer is handed in and refused by a check, again."""
    said = "Check failed: the answer must contain a field 'total_eur'. Your answer had: total, currency"
    go_round(scene, 8, 2, lambda _: scene.act("final_answer", {"answer": {"total": 12, "currency": "EUR"}}, said))


@FAMILIES.loop("near_identical")
def schema_guessed(scene: Scene, rng: random.Random) -> None:
    """Arguments in one form after the other, all refused by the same schema."""
    forms: list[dict[str, object]] = [
        {"filter": "status=open"},
        {"filter": {"status": "open"}},
        {"filter": ["status", "open"]},
        {"filters": "status:open"},
        {"filter": [{"field": "status", "value": "open"}]},
        {"filter": '{"status":"open"}'},
        {"where": {"status": "open"}},
        {"filter": "open"},
        {"filter": {"status": ["open"]}},
    ]
    said = "Input validation error: 'filter' is not valid under any of the given schemas"
    go_round(scene, 9, 3, lambda index: scene.act("list_records", forms[index], error=said, error_type="ToolError"))


@FAMILIES.loop("ping_pong")
def question_and_counter_question(scene: Scene, rng: random.Random) -> None:
    """Two agents who talk by messages and wait for each other."""
    talk = (
        ("Which format should the report have?", "Please tell me which format you prefer for the report."),
        ("I am waiting for you to say which format the report should have.", "Tell me which format the report should have, please."),
        ("Which format should the report have? I cannot go on.", "I need to know from you which format the report should have."),
        ("Please decide which format the report should have.", "Which format should the report have? Please decide."),
        ("Let me know which format the report should have.", "You decide which format the report should have."),
    )  # fmt: skip
    scene.loop_begins()
    for index, (one, other) in enumerate(talk):
        scene.act(
            "send_message", {"recipient": "writer", "content": one}, "Message delivered.", step="e", role="editor"
        )
        scene.act(
            "send_message", {"recipient": "editor", "content": other}, "Message delivered.", step="w", role="writer"
        )
        if index == 1:
            scene.loop_shows()


@FAMILIES.loop("ping_pong")
def escalated_and_returned(scene: Scene, rng: random.Random) -> None:
    """Support hands to billing, billing hands to support; each with the customer's words."""

    def body(index: int) -> None:
        mine, other = ("support", "billing") if index % 2 == 0 else ("billing", "support")
        text = (
            f"Customer says: my invoice shows a wrong total. {rng.choice(('Please help.', 'Not our area.', 'Yours?'))}"
        )
        scene.act(
            f"transfer_to_{other}_agent",
            {"summary": text},
            f"Transferred to {other}_agent.",
            step=mine,
            role=f"{mine}_agent",
        )

    go_round(scene, 9, 3, body)


@FAMILIES.loop("stuck_state")
def score_does_not_move(scene: Scene, rng: random.Random) -> None:
    """Change after change of a prompt, and the evaluation gives the same score each time."""

    def body(index: int) -> None:
        scene.act("update_prompt", {"text": phrase(rng, 12)}, f"Prompt saved as v{index + 3}.")
        scene.act("run_eval", {"suite": "smoke"}, f"Accuracy: 0.62 (31/50). Mean latency {rng.uniform(0.5, 2):.2f}s")

    go_round(scene, 7, 3, body)


@FAMILIES.loop("identical")
def window_that_waits(scene: Scene, rng: random.Random) -> None:
    """A desktop agent takes one screenshot after the other of the same spinner."""
    scene.act("open_app", {"name": "Mail"}, "Opened Mail.")
    said = "Screenshot taken: window 'Mail', text 'Loading…', cursor at (640, 360)"
    go_round(scene, 9, 3, lambda _: scene.act("screenshot", {}, said))


@FAMILIES.loop("near_identical")
def weather_in_other_words(scene: Scene, rng: random.Random) -> None:
    """A question about a city in all forms, and the same answer."""
    city = rng.choice(CITIES)
    forms = [city, f"{city} weather", f"weather {city}", f"weather in {city}", f"{city} weather today", f"today's weather {city}",
             f"{city} forecast weather", f"current weather {city}", f"weather for {city}"]  # fmt: skip
    rng.shuffle(forms)
    said = f"Location lookup service: {city} is ambiguous, 3 candidates; specify country."
    go_round(scene, 9, 3, lambda index: scene.act("weather", {"location": forms[index]}, said))


@FAMILIES.loop("alternating")
def server_up_and_gone(scene: Scene, rng: random.Random) -> None:
    """Start the server, curl it: refused; start it, curl it: refused."""

    def body(_: int) -> None:
        scene.act("bash", {"command": "npm start &"}, f"[1] {rng.randint(1000, 9999)}")
        said = f"curl: (7) Failed to connect to localhost port 3000 after {rng.randint(0, 9)} ms: Couldn't connect to server"
        scene.act("bash", {"command": "curl localhost:3000"}, said)

    go_round(scene, 6, 2, body)


@FAMILIES.loop("alternating")
def lookup_ring_of_an_assistant(scene: Scene, rng: random.Random) -> None:
    """Customer, orders, customer, orders: what was found is asked for again."""
    customer = json.dumps({"id": "c_19", "name": rng.choice(PEOPLE), "orders": ["o_5"]})
    order = json.dumps({"id": "o_5", "items": 3, "status": "shipped"})

    def body(_: int) -> None:
        scene.act("get_customer", {"id": "c_19"}, customer)
        scene.act("get_order", {"id": "o_5"}, order)

    go_round(scene, 6, 1, body)


@FAMILIES.loop("stuck_state")
def disk_is_full(scene: Scene, rng: random.Random) -> None:
    """Whatever is written, wherever."""
    paths = [
        "/data/a.bin",
        "/tmp/x",
        "/home/dev/out.csv",
        "/var/log/job.log",
        "./build/o.o",
        "/data/b.bin",
        "report.md",
        "/opt/c",
        "/srv/d",
        "e.txt",
    ]
    tools = ("write_file", "download", "bash", "extract")
    go_round(
        scene,
        10,
        3,
        lambda i: scene.act(
            rng.choice(tools), {"target": paths[i]}, error=f"OSError: [Errno 28] No space left on device: '{paths[i]}'"
        ),
    )


@FAMILIES.loop("identical")
def tool_result_too_large(scene: Scene, rng: random.Random) -> None:
    """A result that is too large for the window, asked for again in the same way."""

    def body(_: int) -> None:
        said = f"Error: result ({rng.randint(30000, 31000)} tokens) exceeds maximum allowed tokens (25000). Use pagination."
        scene.act("read_table", {"name": "events"}, said)

    go_round(scene, 8, 2, body)


@FAMILIES.loop("near_identical")
def commit_message_reworded(scene: Scene, rng: random.Random) -> None:
    """A hook refuses one commit message after the other for the same reason."""
    forms = [
        "fix login",
        "Fix login",
        "fix: login page",
        "Fix the login",
        "fix login bug",
        "fixed login",
        "fixing login",
        "fix login page",
        "login fix",
    ]
    said = "husky - commit-msg hook exited with code 1 (error)\n✖ subject must reference a ticket [subject-ticket]"
    go_round(scene, 9, 3, lambda index: scene.act("bash", {"command": f'git commit -m "{forms[index]}"'}, said))


@FAMILIES.loop("stuck_state")
def device_offline(scene: Scene, rng: random.Random) -> None:
    """Lamps, blinds, locks: the hub says the same to all."""
    devices = [
        "lamp.hall",
        "blind.east",
        "lock.front",
        "fan.bath",
        "lamp.desk",
        "heat.bed",
        "cam.door",
        "plug.tv",
        "lamp.bed",
        "valve.1",
    ]
    rng.shuffle(devices)

    def body(index: int) -> None:
        verb = rng.choice(("turn_on", "turn_off", "toggle", "get_state"))
        scene.act(
            verb,
            {"entity": devices[index]},
            json.dumps({"entity": devices[index], "result": "hub_offline", "hub": "zig1"}),
        )

    go_round(scene, 10, 3, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def pipeline_stage_by_stage(scene: Scene, rng: random.Random) -> None:
    """A pipeline watched: elapsed time and stage."""
    elapsed = 0
    for stage in ("lint", "unit", "integration", "image", "deploy"):
        for _ in range(rng.randint(1, 3)):
            elapsed += rng.randint(11, 40)
            scene.act(
                "get_pipeline",
                {"id": 991},
                json.dumps({"status": "running", "stage": stage, "elapsed_seconds": elapsed}),
            )


@FAMILIES.honest
def training_waits(scene: Scene, rng: random.Random) -> None:
    """Still running, a little later: "elapsed 2m 10s"."""
    for minute in range(2, rng.randint(8, 11)):
        scene.act(
            "check_job", {"job": "train-7"}, f"Job train-7 is still running, elapsed {minute}m {rng.randint(0, 59)}s"
        )
        scene.act("sleep", {"seconds": 60}, "")


@FAMILIES.honest
def same_file_after_each_edit(scene: Scene, rng: random.Random) -> None:
    """Read, edit, read: the text is another each time by a line."""
    path = rng.choice(FILES)
    lines = [phrase(rng, 4) for _ in range(12)]
    for index in range(6):
        scene.act("Read", {"file_path": path}, "\n".join(lines))
        lines[index * 2] = phrase(rng, 4)
        scene.act(
            "Edit",
            {"file_path": path, "old_string": "x", "new_string": lines[index * 2]},
            f"The file {path} has been updated.",
        )


@FAMILIES.honest
def offsets(scene: Scene, rng: random.Random) -> None:
    """Rows by offset; the last page is short, and one behind it is empty."""
    for offset in range(0, 60, 10):
        rows = [{"id": offset + row, "city": rng.choice(CITIES), "open": rng.random() < 0.5} for row in range(3)]
        scene.act("list_stations", {"offset": offset, "limit": 10}, json.dumps({"rows": rows, "total": 58}))
    scene.act("list_stations", {"offset": 60, "limit": 10}, json.dumps({"rows": [], "total": 58}))


@FAMILIES.honest
def many_greps(scene: Scene, rng: random.Random) -> None:
    """Grep for different things, some of which are not there, with the tool's long advice."""
    for word in ("retry_limit", "RetryPolicy", "backoff", "max_attempts", "jitter", "deadline", "expo", "Timeout"):
        advice = "No matches found. Try a broader pattern, another directory, or a case-insensitive search."
        hit = f"{rng.choice(FILES)}:{rng.randint(1, 300)}: {word} = {rng.randint(1, 9)}"
        scene.act("Grep", {"pattern": word, "path": "src"}, advice if rng.random() < 0.5 else hit)


@FAMILIES.honest
def people_looked_up(scene: Scene, rng: random.Random) -> None:
    """Person after person in a directory; some share a manager and an office."""
    for person in PEOPLE:
        card = {
            "manager": rng.choice(("K. Holm", "L. Abadi")),
            "office": rng.choice(("Oslo", "Oslo", "Bergen")),
            "active": True,
        }
        scene.act("directory", {"name": person}, json.dumps(card))


@FAMILIES.honest
def upload_in_parts(scene: Scene, rng: random.Random) -> None:
    """Part after part with a checksum."""
    upload = token(rng, 12)
    for part in range(1, rng.randint(8, 12)):
        scene.act(
            "upload_part", {"upload_id": upload, "part": part}, json.dumps({"etag": fill("<hex>", rng), "ok": True})
        )


@FAMILIES.honest
def backs_off_and_gets_through(scene: Scene, rng: random.Random) -> None:
    """Three refusals with longer waits, then it works; then the next."""
    for _ in range(2):
        url = {"url": f"https://api.test/v1/{token(rng, 5)}"}
        for index in range(3):
            scene.act("http_get", url, error="HTTP 429 Too Many Requests (Retry-After: 5)", error_type="HttpError")
            scene.act("sleep", {"seconds": 2 ** (index + 1)}, "")
        scene.act("http_get", url, json.dumps({"value": phrase(rng, 3)}))


@FAMILIES.honest
def lamps_one_by_one(scene: Scene, rng: random.Random) -> None:
    """Every lamp of a house is switched off; each says so in the same words."""
    for room in ("hall", "kitchen", "bath", "study", "attic", "porch", "cellar", "nursery"):
        scene.act("turn_off", {"entity": f"lamp.{room}"}, json.dumps({"entity": f"lamp.{room}", "state": "off"}))


@FAMILIES.honest
def debate_with_progress(scene: Scene, rng: random.Random) -> None:
    """Writer and critic by turns; fewer remarks each time."""
    for left in range(rng.randint(4, 6), 0, -1):
        text = f"Draft {7 - left}: {phrase(rng, 14)}"
        scene.act(
            "send_message", {"recipient": "critic", "content": text}, "Message delivered.", step="w", role="writer"
        )
        remarks = f"{left} remarks: " + "; ".join(phrase(rng, 3) for _ in range(left))
        scene.act(
            "send_message", {"recipient": "writer", "content": remarks}, "Message delivered.", step="k", role="critic"
        )


@FAMILIES.honest
def compile_and_fix(scene: Scene, rng: random.Random) -> None:
    """tsc: fewer errors each time, the first of them in another file."""
    for left in sorted(rng.sample(range(1, 40), 5), reverse=True):
        said = f"{rng.choice(FILES)}({rng.randint(1, 200)},{rng.randint(1, 60)}): error TS2345: {phrase(rng, 5)}\nFound {left} errors."
        scene.act("bash", {"command": "npx tsc --noEmit"}, said)
        scene.act("edit", {"path": rng.choice(FILES), "text": phrase(rng, 4)}, "Edit applied.")
    scene.act("bash", {"command": "npx tsc --noEmit"}, "")


@FAMILIES.honest
def commits_in_a_row(scene: Scene, rng: random.Random) -> None:
    """Edit, test, commit; edit, test, commit."""
    for index in range(5):
        scene.act("edit", {"path": FILES[index], "text": phrase(rng, 4)}, "Edit applied.", commit=commit(rng))
        scene.act("bash", {"command": "pytest -q"}, f"212 passed in {rng.uniform(3, 9):.2f}s")
        scene.act("bash", {"command": f'git commit -am "{phrase(rng, 3)}"'}, f"[main {token(rng, 7)}] 1 file changed")


@FAMILIES.honest
def seats_asked_for(scene: Scene, rng: random.Random) -> None:
    """Seat after seat is taken, then one is free."""
    for index in range(rng.randint(3, 4)):
        scene.act(
            "hold_seat",
            {"seat": f"{12 + index}A"},
            error=f"Seat {12 + index}A is not available.",
            error_type="ToolError",
        )
    scene.act("hold_seat", {"seat": "21C"}, json.dumps({"held": "21C", "until": "18:40"}))
    scene.act("pay", {"amount": rng.randint(40, 90)}, json.dumps({"paid": True, "ref": token(rng, 8)}))


@FAMILIES.honest
def guesses_get_warmer(scene: Scene, rng: random.Random) -> None:
    """Parameters tuned by hand; the score moves a little each time."""
    score = 0.6
    for _ in range(8):
        score += rng.uniform(0.001, 0.02)
        scene.act(
            "run_eval", {"temperature": round(rng.random(), 2), "shots": rng.randint(1, 8)}, f"Accuracy: {score:.3f}"
        )


@FAMILIES.honest
def minutes_of_a_stream(scene: Scene, rng: random.Random) -> None:
    """New messages of a channel, now and then none."""
    for _ in range(9):
        said = "No new messages." if rng.random() < 0.35 else f"{rng.choice(PEOPLE)}: {phrase(rng, 6)}"
        scene.act("poll_channel", {"channel": "ops"}, said)


@FAMILIES.honest
def rows_appended(scene: Scene, rng: random.Random) -> None:
    """Row after row of one form goes into a sheet."""
    for person in PEOPLE:
        text = f"{person} from {rng.choice(CITIES)} has paid the yearly fee for the sports club and gets a new card"
        scene.act("append_row", {"sheet": "members", "text": text}, "Row appended.")


@FAMILIES.honest
def folders_made(scene: Scene, rng: random.Random) -> None:
    """Commands that say nothing, each with another folder, and options here and there."""
    for folder in ("api", "web", "docs", "ops/dev", "ops/prod", "tests/unit", "tests/e2e", "scripts"):
        scene.act("bash", {"command": f"mkdir {rng.choice(('-p', '-pv', ''))} {folder}"}, "")


@FAMILIES.honest
def stars_followed(scene: Scene, rng: random.Random) -> None:
    """A knowledge graph walked; neighbours may be met twice."""
    known = list(CITIES)
    for _ in range(10):
        city = known[rng.randrange(len(known))]
        scene.act("neighbours", {"of": f"{city} {rng.randint(1, 99)}"}, json.dumps(rng.sample(CITIES, 3)))


@FAMILIES.honest
def monitor_reads_gauges(scene: Scene, rng: random.Random) -> None:
    """A watchman reads the same board every minute; the figures go up and down."""
    for _ in range(9):
        board = {
            "cpu_percent": rng.randint(20, 70),
            "mem_percent": rng.randint(40, 60),
            "pods": 7,
            "latency_p95_ms": rng.randint(80, 140),
        }
        scene.act("read_dashboard", {"board": "checkout"}, json.dumps(board))
        scene.act("wait", {"seconds": 60}, "")


@FAMILIES.honest
def queue_of_reviews(scene: Scene, rng: random.Random) -> None:
    """The next review is taken, looked at and approved; the calls are always the same two."""
    for _ in range(6):
        review = {"review_id": token(rng, 8), "title": phrase(rng, 4), "author": rng.choice(PEOPLE)}
        scene.act("next_review", {"queue": "mine"}, json.dumps(review))
        scene.act("approve", {"review_id": review["review_id"]}, '{"approved": true}')
