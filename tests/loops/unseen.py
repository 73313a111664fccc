"""Families written when the detectors were thought to be done, to be looked at once before anything was changed."""

import random
from typing import Any

from loops.noise import commit, fill, listed
from loops.scene import Scene

TOOLS = ["fetch_rows", "open_doc", "call_api", "find_symbol", "run_job", "load_map", "view_image", "query_graph"]
TOPICS = listed("python asyncio timeout kafka consumer offset nginx upstream header redis eviction policy")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def token(rng: random.Random, size: int = 7) -> str:
    """Letters by chance."""
    return "".join(rng.choice(LETTERS) for _ in range(size))


def new(rng: random.Random) -> str:
    """A result that was never seen."""
    return rng.choice(
        (f"result {token(rng)} {token(rng)}", f'{{"value": "{token(rng)}"}}', f"{token(rng)}\n{token(rng)}")
    )


def steps(scene: Scene, most: int, **where: Any) -> None:
    """Some calls that get on."""
    for _ in range(scene.rng.randint(0, most)):
        scene.act(
            scene.rng.choice(TOOLS), {"x": token(scene.rng), "n": scene.rng.randint(1, 99)}, new(scene.rng), **where
        )


# --- loops -----------------------------------------------------------------------------------------------------------


def boom(rng: random.Random) -> Scene:
    """One call, one short error."""
    scene = Scene(rng)
    steps(scene, 5)
    tool, arguments = rng.choice(TOOLS), {"x": token(rng)}
    error = rng.choice(("boom", "Error: invalid input", "E1", "KeyError: 'id'", "404 Not Found", "exit code 1"))
    scene.loop_begins()
    for round_ in range(rng.randint(6, 10)):
        scene.act(tool, arguments, error=error)
        if round_ == 2:
            scene.loop_shows()
    return scene


def shell_fails(rng: random.Random) -> Scene:
    """A shell that answers with a failure and calls it a success."""
    scene = Scene(rng)
    steps(scene, 4)
    command = rng.choice(("npm run build", "make", "cargo check", "python app.py"))
    output = rng.choice(
        (
            "npm ERR! code ELIFECYCLE\nnpm ERR! errno 1\nnpm ERR! A complete log: /root/.npm/_logs/<iso>-debug.log",
            "main.c:8:5: error: unknown type name 'u32'\nmake: *** [main.o] Error 1",
            "Traceback (most recent call last):\n  File \"app.py\", line 3\nImportError: cannot import name 'run'",
        )
    )
    scene.loop_begins()
    for round_ in range(8):
        scene.act("bash", {"command": command}, fill(output, rng))
        if round_ == 2:
            scene.loop_shows()
    return scene


def spelled_anew(rng: random.Random) -> Scene:
    """The arguments differ in a slash, a space, a case, a quote; the error does not."""
    scene = Scene(rng)
    steps(scene, 4)
    folder, name = token(rng, 5), token(rng, 6)
    forms = [f"/{folder}/{name}", f"{folder}/{name}", f"{folder}/{name}/", f"./{folder}/{name}", f"'{folder}/{name}'"]
    forms += [f"{folder}/{name} ", f"{folder}//{name}", f"{folder.upper()}/{name}"]
    rng.shuffle(forms)
    scene.loop_begins()
    for round_, form in enumerate(forms):
        scene.act("open_doc", {"path": form}, error=rng.choice((f"not found: {form}", f"not found: {form}")))
        if round_ == 2:
            scene.loop_shows()
    return scene


def words_moved(rng: random.Random) -> Scene:
    """Searches with the same few words in other orders and forms; nothing is found."""
    scene = Scene(rng)
    steps(scene, 4)
    three = rng.sample(TOPICS, 3)
    scene.loop_begins()
    for round_ in range(8):
        rng.shuffle(three)
        query = " ".join(three) + rng.choice(("", "", "?", "s", " ."))
        scene.act("web_search", {"query": query, "count": 5}, rng.choice(('{"results": []}', '{"results": []}')))
        if round_ == 2:
            scene.loop_shows()
    return scene


def parameter_turned(rng: random.Random) -> Scene:
    """One parameter is turned up and down, and the same few rows come back."""
    scene = Scene(rng)
    steps(scene, 3)
    rows = "\n".join(f"{token(rng)} | {token(rng)} | {rng.randint(1, 900)}" for _ in range(3))
    arguments = {"table": token(rng), "where": f"{token(rng, 4)} > 3"}
    scene.loop_begins()
    for round_, limit in enumerate((10, 20, 50, 100, 200, 500, 1000, 2000)):
        scene.act("fetch_rows", {**arguments, "limit": limit}, rows)
        if round_ == 2:
            scene.loop_shows()
    return scene


def stale_pair(rng: random.Random) -> Scene:
    """Two calls by turns, with clocks and ids in what they give."""
    scene = Scene(rng)
    steps(scene, 4)
    one, other = rng.sample(TOOLS, 2)
    first, second = f"[<time>] {token(rng)} unchanged", f"request <uuid> took <ms>: {token(rng)}"
    scene.loop_begins()
    for round_ in range(5):
        scene.act(one, {"key": "k"}, fill(first, rng))
        scene.act(other, {"key": "k"}, **({"ok": fill(second, rng)}))
        if round_ == 1:
            scene.loop_shows()
    return scene


def not_my_job(rng: random.Random) -> Scene:
    """Two agents and three phrases."""
    scene = Scene(rng)
    one, other = rng.sample(("researcher", "coder", "tester", "manager"), 2)
    phrases = ("Please take over.", "This is for you.", "I cannot do this, you can.")
    key = rng.choice(("to", "target", "agent", "recipient", "next_agent"))
    tool = rng.choice(("hand_off", "handoff", "HandOff", "transfer", "delegate"))
    scene.loop_begins()
    for round_ in range(9):
        giver, taker = (one, other) if round_ % 2 == 0 else (other, one)
        arguments = {key: taker, "message": rng.choice(phrases)}
        scene.act(tool, arguments, "ok", step=giver, role=giver)
        if round_ == 3:
            scene.loop_shows()
    return scene


def same_state(rng: random.Random) -> Scene:
    """Acts of all kinds, and each answer ends with the same state."""
    scene = Scene(rng)
    state = f"state={token(rng, 10)}"
    scene.loop_begins()
    for round_ in range(10):
        act = rng.choice(("move", "push", "pull", "turn", "look"))
        answer = rng.choice((f"{act}: no effect. {state}", f"{act}: no effect. {state}"))
        scene.act(act, {"direction": rng.choice(("north", "south", "east", "west"))}, answer)
        if round_ == 3:
            scene.loop_shows()
    return scene


def one_room(rng: random.Random) -> Scene:
    """One tool for all acts, a few acts, and the same room each time."""
    scene = Scene(rng)
    room = f"You are in the {token(rng)}."
    scene.loop_begins()
    for round_ in range(12):
        scene.act("game_step", {"action": rng.choice(("north", "south", "open door", "push wall"))}, room)
        if round_ == 3:
            scene.loop_shows()
    return scene


def act_and_look(rng: random.Random) -> Scene:
    """A deed, a look; another deed, the same look."""
    scene = Scene(rng)
    steps(scene, 3)
    state = rng.choice(("status: degraded", '{"lag": 1200, "leader": null}', "balance: -12.50"))
    scene.loop_begins()
    for round_ in range(8):
        scene.act(rng.choice(("set_config", "restart", "scale")), {"key": token(rng), "value": round_}, "ok")
        scene.act("get_state", {}, state)
        if round_ == 3:
            scene.loop_shows()
    return scene


def four_step_ring(rng: random.Random) -> Scene:
    """A ring of four that two other agents work beside."""
    scene = Scene(rng)
    ring = [(rng.choice(TOOLS), {"x": index, "y": token(rng, 3)}, new(rng)) for index in range(4)]
    scene.loop_begins()
    for round_ in range(4):
        for index, (tool, arguments, answer) in enumerate(ring):
            scene.act(tool, arguments, answer)
            if round_ == 1 and index == 3:
                scene.loop_shows()
        if rng.random() < 0.5:
            steps(scene, 1, step="z", role="tester")
    return scene


def stepping_together(rng: random.Random) -> Scene:
    """Two calls in each turn, the same two in every turn, both failing."""
    scene = Scene(rng)
    steps(scene, 3)
    pair = [(rng.choice(TOOLS), {"x": token(rng)}, f"no access to {token(rng)}") for _ in range(2)]
    scene.loop_begins()
    for round_ in range(6):
        for index, (tool, arguments, error) in enumerate(pair):
            scene.act(tool, arguments, error=error, same_turn=index == 1)
        if round_ == 2:
            scene.loop_shows()
    return scene


# --- work ------------------------------------------------------------------------------------------------------------


def numbers_only(rng: random.Random) -> Scene:
    """A measured value, new each time."""
    scene = Scene(rng)
    for _ in range(rng.randint(8, 20)):
        scene.act("read_sensor", {"id": 4}, f"{rng.uniform(10, 90):.3f}")
    return scene


def status_changes(rng: random.Random) -> Scene:
    """pending, pending, running, running, done."""
    scene = Scene(rng)
    steps(scene, 3)
    for status in ("pending", "running", "verifying"):
        for _ in range(rng.randint(1, 4)):
            scene.act("get_job", {"id": 17}, f'{{"id": 17, "status": "{status}"}}')
    scene.act("get_job", {"id": 17}, '{"id": 17, "status": "done"}')
    return scene


def clock_of_a_job(rng: random.Random) -> Scene:
    """A job under way that tells the time."""
    scene = Scene(rng)
    form = rng.choice(
        (
            '{"status": "running", "time": "%s"}',
            '{"status": "pending", "updated_at": "%s"}',
            "in progress, last heartbeat %s",
        )
    )
    for minute in range(rng.randint(7, 15)):
        scene.act("get_job", {"id": 17}, form % f"2026-11-25T10:{minute:02}:{rng.randint(10, 59)}Z")
    return scene


def notes_kept(rng: random.Random) -> Scene:
    """A list of things to do, written anew after each piece of work."""
    scene = Scene(rng)
    items = [token(rng) for _ in range(6)]
    answer = (
        "Todos have been modified successfully. Ensure that you continue to use the todo list to track your progress. "
        "Please proceed with the current tasks if applicable"
    )
    for done in range(7):
        states = [{"content": item, "status": "done" if i < done else "open"} for i, item in enumerate(items)]
        scene.act("todo_write", {"todos": states}, answer)
        if rng.random() < 0.7:
            steps(scene, 2)
    return scene


def thoughts(rng: random.Random) -> Scene:
    """A tool to think with, which answers the same to every thought."""
    scene = Scene(rng)
    for _ in range(rng.randint(6, 10)):
        scene.act("think", {"thought": " ".join(token(rng) for _ in range(12))}, "Your thought has been logged.")
        steps(scene, 1)
    return scene


def clean_after_each(rng: random.Random) -> Scene:
    """Edit, commit, status: clean each time."""
    scene = Scene(rng)
    for _ in range(rng.randint(6, 9)):
        scene.act("write_file", {"path": f"{token(rng)}.py", "content": new(rng)}, "ok")
        scene.act("git_commit", {"message": token(rng)}, f"[main {fill('<hex>', rng)[:7]}] 1 file changed")
        scene.act("git_status", {}, "nothing to commit, working tree clean")
    return scene


def accounts_one_by_one(rng: random.Random) -> Scene:
    """Account after account, most of them active, some without orders."""
    scene = Scene(rng)
    first = rng.randint(100, 900)
    for account in range(first, first + rng.randint(8, 15)):
        scene.act("get_account", {"id": account}, "active")
    for account in range(first, first + 4):
        scene.act("get_orders", {"account": account}, "[]")
    return scene


def compiler_errors(rng: random.Random) -> Scene:
    """Compile, fix, compile: another error each time, by the same shell."""
    scene = Scene(rng)
    for line in sorted(rng.sample(range(5, 400), rng.randint(5, 8))):
        error = f"main.c:{line}:5: error: unknown type name '{token(rng)}'\nmake: *** [main.o] Error 1"
        scene.act("bash", {"command": "make"}, error)
        scene.act("edit", {"file": "main.c", "line": line, "text": new(rng)}, "The file has been edited.")
    scene.act("bash", {"command": "make"}, "cc -o main main.o")
    return scene


def third_time_lucky(rng: random.Random) -> Scene:
    """Network trouble that passes."""
    scene = Scene(rng)
    steps(scene, 3)
    error = rng.choice(("ConnectionError: network unreachable", "HTTP 429", "TimeoutError", "502 Bad Gateway"))
    for _ in range(rng.randint(2, 3)):
        scene.act("call_api", {"path": "/v1/x"}, error=error)
    scene.act("call_api", {"path": "/v1/x"}, new(rng))
    steps(scene, 3)
    return scene


def attempts_counted(rng: random.Random) -> Scene:
    """The same with a growing delay as an argument."""
    scene = Scene(rng)
    for attempt in range(1, rng.randint(3, 5)):
        arguments = {"url": "https://x.test", "attempt": attempt, "delay": 2**attempt}
        scene.act("call_api", arguments, error="503 Service Unavailable")
    scene.act("call_api", {"url": "https://x.test", "attempt": 5, "delay": 32}, new(rng))
    return scene


def doc_by_doc(rng: random.Random) -> Scene:
    """Documents read in turn by two agents, whose answers are short."""
    scene = Scene(rng)
    for number in range(rng.randint(8, 14)):
        for step in ("p", "q"):
            scene.act("open_doc", {"path": f"{step}/{number}.md"}, new(rng), step=step, role="researcher")
    return scene


def relay_of_work(rng: random.Random) -> Scene:
    """Hand-offs to and fro, where each does a part: design, code, test, fix, test."""
    scene = Scene(rng)
    for giver, taker in (("lead", "coder"), ("coder", "tester"), ("tester", "coder"), ("coder", "tester")):
        scene.act("write_file", {"path": token(rng), "content": new(rng)}, "ok", step=giver, role=giver)
        note = " ".join(token(rng) for _ in range(5))
        scene.act("hand_off", {"to": taker, "note": note}, "ok", step=giver, role=giver)
    scene.act("run_tests", {}, "all passed", step="tester", role="tester")
    scene.act("hand_off", {"to": "lead", "note": "done"}, "ok", step="tester", role="tester")
    return scene


def scrolling(rng: random.Random) -> Scene:
    """A long page, scrolled: the same call, more of the page each time."""
    scene = Scene(rng)
    for _ in range(rng.randint(6, 14)):
        scene.act("scroll", {"by": 800}, f"[viewport] {token(rng)} {token(rng)} {token(rng)}")
    return scene


def wrong_roads(rng: random.Random) -> Scene:
    """Several things tried that fail in ways of their own, then one that works."""
    scene = Scene(rng)
    for _ in range(rng.randint(4, 7)):
        error = f"{rng.choice(('cannot', 'failed to', 'refused to'))} {token(rng)} {token(rng)}"
        scene.act(rng.choice(TOOLS), {"x": token(rng)}, error=error)
        steps(scene, 1)
    scene.act(rng.choice(TOOLS), {"x": token(rng)}, new(rng))
    return scene


def ledger_of_commits(rng: random.Random) -> Scene:
    """A change to file after file, each a commit, all answered in the same words."""
    scene = Scene(rng)
    for _ in range(rng.randint(7, 12)):
        arguments = {"path": f"{token(rng)}.py", "rule": "E501"}
        scene.act("apply_fix", arguments, "The fix was applied and the file still parses.", commit=commit(rng))
    return scene


LOOPS = {
    "identical": (boom, shell_fails, stepping_together),
    "near_identical": (spelled_anew, words_moved, parameter_turned),
    "alternating": (stale_pair, four_step_ring),
    "ping_pong": (not_my_job,),
    "stuck_state": (same_state, one_room, act_and_look),
}
WORK = (
    numbers_only,
    status_changes,
    clock_of_a_job,
    notes_kept,
    thoughts,
    clean_after_each,
    accounts_one_by_one,
    compiler_errors,
    third_time_lucky,
    attempts_counted,
    doc_by_doc,
    relay_of_work,
    scrolling,
    wrong_roads,
    ledger_of_commits,
)
