"""Traces with hardly a word in them: codes, hashes and counters, as small machines answer."""

import json
import random

from loops.family import Families
from loops.made_up import form, go_round, name, names, phrase, prelude, record, token
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def one_key_read(scene: Scene, rng: random.Random) -> None:
    """One key is read over and over; its value is a few letters."""
    prelude(scene)
    tool, key, value = rng.choice(("get", "peek", "rd")), token(rng, 5), token(rng, rng.choice((2, 8, 30)))
    go_round(scene, 8, 2, lambda _: scene.act(tool, {"k": key}, value))


@FAMILIES.loop("identical")
def one_key_read_with_a_stamp(scene: Scene, rng: random.Random) -> None:
    """The same, and every call carries its own number and time."""
    prelude(scene)
    key, value, writes = token(rng, 5), record(rng), form(rng)

    def body(index: int) -> None:
        stamp = {"nonce": token(rng), "ts": int(fill("<epoch>", rng)), "request_id": fill("<uuid>", rng)}
        few = dict(rng.sample(sorted(stamp.items()), 2))
        scene.act("query", {"key": key, **few}, writes(value))

    go_round(scene, 8, 2, body)


@FAMILIES.loop("near_identical")
def one_question_in_many_dresses(scene: Scene, rng: random.Random) -> None:
    """Capitals, blanks, quotes, commas, another order of words."""
    prelude(scene)
    words = phrase(rng, 4).split()
    answer = form(rng)({**record(rng), "text": phrase(rng, 9)})

    def body(index: int) -> None:
        mine = list(words)
        if index % 3 == 2:
            rng.shuffle(mine)
        text = rng.choice((" ", "  ", ", ", " - ")).join(mine)
        text = rng.choice((str.upper, str.title, str.lower))(text)
        scene.act("ask", {"q": rng.choice(("{}", '"{}"', "{}?", " {} ")).format(text)}, answer)

    go_round(scene, 9, 3, body)


@FAMILIES.loop("alternating")
def two_hashes(scene: Scene, rng: random.Random) -> None:
    """A, B, A, B; each gives its own hash."""
    prelude(scene)
    one, two = (({"id": token(rng, 4)}, token(rng, 16)) for _ in range(2))
    tools = rng.choice((("load", "load"), ("probe", "sample")))

    def body(_: int) -> None:
        scene.act(tools[0], *one)
        scene.act(tools[1], *two)

    go_round(scene, 6, 1, body)


@FAMILIES.loop("alternating")
def three_in_a_ring(scene: Scene, rng: random.Random) -> None:
    """A, B, C with an answer each."""
    prelude(scene)
    calls = [(tool, {"n": rng.randint(1, 99)}, token(rng, 7)) for tool in names(rng, 3)]

    def body(_: int) -> None:
        for call in calls:
            scene.act(*call)

    go_round(scene, 5, 1, body)


@FAMILIES.loop("alternating")
def four_in_a_ring(scene: Scene, rng: random.Random) -> None:
    """A, B, C, D; one of them always fails."""
    prelude(scene)
    tools = names(rng, 4)
    gave = [token(rng, 9) for _ in tools]

    def body(_: int) -> None:
        for index, tool in enumerate(tools):
            if index == 2:
                scene.act(tool, {"v": gave[0]}, error=f"E{gave[2]}", error_type="Fault")
            else:
                scene.act(tool, {"v": gave[index]}, gave[index][::-1])

    go_round(scene, 5, 1, body)


@FAMILIES.loop("identical")
def one_code(scene: Scene, rng: random.Random) -> None:
    """The same call, refused with the same number."""
    prelude(scene)
    code = f"{rng.choice(('E', 'ERR-', '0x8007', 'ORA-', '-'))}{rng.randint(1000, 9999)}"
    go_round(scene, 8, 2, lambda _: scene.act("exec", {"op": code[::-1], "n": 4}, error=code, error_type="Fault"))


@FAMILIES.loop("identical")
def two_codes_by_turns(scene: Scene, rng: random.Random) -> None:
    """One call, which is refused in one way and in another, by turns."""
    prelude(scene)
    codes = [f"code {rng.randint(1000, 9999)}: {phrase(rng, 3)}" for _ in range(2)]
    what = {"op": phrase(rng, 2)}
    go_round(scene, 10, 3, lambda index: scene.act("exec", what, error=codes[index % 2], error_type="Fault"))


@FAMILIES.loop("stuck_state")
def one_state_hash(scene: Scene, rng: random.Random) -> None:
    """Whatever is done, the state's hash stays."""
    prelude(scene)
    state = token(rng, 20)
    size = rng.randint(2, 40)
    tools = names(rng, 4)

    def body(_: int) -> None:
        answer = json.dumps({"state": state, "size": size})
        scene.act(rng.choice(tools), {"x": rng.randint(0, 999), "y": phrase(rng, 1)}, answer)

    go_round(scene, 10, 3, body)


@FAMILIES.loop("stuck_state")
def walks_into_a_wall(scene: Scene, rng: random.Random) -> None:
    """Move, look, move, look: always in the same place."""
    prelude(scene)
    place = f"at ({rng.randint(0, 30)}, {rng.randint(0, 30)}), facing {name(rng)}, {phrase(rng, 3)} ahead"

    def body(index: int) -> None:
        scene.act("move", {"to": rng.choice("NSEW"), "by": rng.randint(1, 9)}, "bump")
        scene.act("look", {}, place)

    go_round(scene, 8, 2, body)


@FAMILIES.loop("near_identical")
def a_number_drifts(scene: Scene, rng: random.Random) -> None:
    """One parameter after the other, and the same code."""
    prelude(scene)
    code = f"E{rng.randint(100, 999)} {phrase(rng, 4)}"
    start = rng.randint(1, 50)

    def body(index: int) -> None:
        scene.act("fit", {"mode": "z", "level": start + index * 5}, error=code, error_type="Fault")

    go_round(scene, 10, 3, body)


@FAMILIES.loop("stuck_state")
def one_thing_by_many_doors(scene: Scene, rng: random.Random) -> None:
    """get, read, fetch, load, dump: all of the same thing, which does not change."""
    prelude(scene)
    key, value = token(rng, 6), form(rng)({**record(rng), "text": phrase(rng, 8)})
    tools = ["get", "read", "fetch", "load", "dump", "show", "cat", "print", "view", "head"]
    rng.shuffle(tools)
    go_round(scene, 10, 3, lambda index: scene.act(tools[index], {"key": key}, value))


@FAMILIES.loop("alternating")
def a_look_and_a_new_miss(scene: Scene, rng: random.Random) -> None:
    """A look that shows the same, and a try with another value that is refused in the same way."""
    prelude(scene)
    shown = phrase(rng, 14)

    def body(_: int) -> None:
        scene.act("inspect", {"node": 7}, shown)
        scene.act("patch", {"node": 7, "with": token(rng, 6)}, error="412", error_type="Fault")

    go_round(scene, 7, 2, body)


@FAMILIES.loop("ping_pong")
def two_pass_a_token(scene: Scene, rng: random.Random) -> None:
    """Two agents hand one thing to each other with a bare word."""
    one, two = names(rng, 2)
    thing = phrase(rng, 4)
    tool = rng.choice(("handoff", "transfer", "delegate"))

    def body(index: int) -> None:
        mine, other, step = (one, two, "s1") if index % 2 == 0 else (two, one, "s2")
        scene.act(tool, {"to": other, "task": thing}, "", step=step, role=mine)

    go_round(scene, 10, 3, body)


@FAMILIES.loop("ping_pong")
def three_pass_a_token(scene: Scene, rng: random.Random) -> None:
    """Three agents in a ring; each says it a little differently."""
    agents = names(rng, 3)
    thing = phrase(rng, 5)

    def body(index: int) -> None:
        mine, other = agents[index % 3], agents[(index + 1) % 3]
        text = rng.choice(("{}", "please: {}", "{} now", "your turn: {}")).format(thing)
        scene.act(f"transfer_to_{other}", {"message": text}, "ok", step=f"s{index % 3}", role=mine)

    go_round(scene, 11, 5, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def chain_of_cursors(scene: Scene, rng: random.Random) -> None:
    """Each answer names the next cursor."""
    prelude(scene)
    cursor = token(rng, 12)
    for _ in range(rng.randint(6, 14)):
        after = token(rng, 12)
        answer = {"items": [record(rng) for _ in range(rng.randint(1, 3))], "next": after}
        scene.act("scan", {"cursor": cursor}, json.dumps(answer))
        cursor = after


@FAMILIES.honest
def counter_polled(scene: Scene, rng: random.Random) -> None:
    """One call; the number in its answer grows."""
    prelude(scene)
    done, total = 0, rng.randint(200, 900)
    writes = form(rng)
    while done < total:
        done = min(total, done + rng.randint(30, 90))
        scene.act("stat", {"job": "j1"}, writes({"done": done, "of": total}))


@FAMILIES.honest
def counter_with_rests(scene: Scene, rng: random.Random) -> None:
    """The number stands for a look or two, then goes on."""
    prelude(scene)
    done = 0
    for _ in range(6):
        done += rng.randint(1, 9)
        for _ in range(rng.randint(1, 3)):
            scene.act("stat", {"job": 3}, f"n={done}")
            scene.act("wait", {"seconds": 5}, "")


@FAMILIES.honest
def keys_swept(scene: Scene, rng: random.Random) -> None:
    """Key after key; most hold nothing, some hold the same."""
    prelude(scene)
    for _ in range(rng.randint(8, 14)):
        value = rng.choice(("null", "null", "null", token(rng, 6), "0", "1"))
        scene.act("get", {"key": f"{name(rng)}:{rng.randint(1, 999)}"}, value)


@FAMILIES.honest
def keys_written(scene: Scene, rng: random.Random) -> None:
    """Key after key is written; each answers with one sign."""
    prelude(scene)
    sign = rng.choice(("1", "+OK", "ok", "true", "", "."))
    for _ in range(rng.randint(8, 14)):
        scene.act("put", {"key": name(rng), "value": phrase(rng, 2)}, sign)


@FAMILIES.honest
def walk(scene: Scene, rng: random.Random) -> None:
    """Steps through a map; places are passed twice now and then."""
    x = y = 0
    for index in range(rng.randint(9, 16)):
        way = "E" if index % 4 == 3 else rng.choice("NE")
        x, y = (x + 1, y) if way == "E" else (x, y + 1)
        scene.act("move", {"to": way}, json.dumps({"x": x, "y": y, "see": phrase(rng, 1)}))


@FAMILIES.honest
def refused_twice_then_not(scene: Scene, rng: random.Random) -> None:
    """Two codes, then an answer; for several things."""
    for _ in range(3):
        key = name(rng)
        for _ in range(rng.randint(0, 2)):
            scene.act("fetch", {"key": key}, error=f"E{rng.choice((17, 23))}", error_type="Fault")
        scene.act("fetch", {"key": key}, form(rng)(record(rng)))


@FAMILIES.honest
def number_guessed(scene: Scene, rng: random.Random) -> None:
    """A number found by halves: "lower", "lower", "higher"."""
    prelude(scene)
    low, high, number = 1, 1000, rng.randint(1, 1000)
    while low < high:
        middle = (low + high) // 2
        scene.act("guess", {"n": middle}, "higher" if middle < number else "lower or equal")
        low, high = (middle + 1, high) if middle < number else (low, middle)
    scene.act("guess", {"n": low}, "that is it")


@FAMILIES.honest
def sums(scene: Scene, rng: random.Random) -> None:
    """A calculator; results may be equal."""
    prelude(scene)
    for _ in range(rng.randint(8, 14)):
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        sign = rng.choice("+-*")
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        scene.act("calc", {"expression": f"{a} {sign} {b}"}, str(result))


@FAMILIES.honest
def make_and_take(scene: Scene, rng: random.Random) -> None:
    """Two calls by turns with the same arguments; what they give is new each time."""
    prelude(scene)
    for _ in range(rng.randint(5, 8)):
        item = token(rng, 8)
        scene.act("pop", {"queue": "in"}, item)
        scene.act("push", {"queue": "out"}, f"{item} as {token(rng, 5)}")


@FAMILIES.honest
def state_moves(scene: Scene, rng: random.Random) -> None:
    """Each deed gives another hash."""
    prelude(scene)
    for _ in range(rng.randint(8, 14)):
        scene.act("apply", {"op": rng.choice(("a", "b", "c"))}, json.dumps({"state": token(rng, 20)}))


@FAMILIES.honest
def tree_walked(scene: Scene, rng: random.Random) -> None:
    """Node after node; leaves have no children."""
    nodes = [name(rng)]
    seen = 0
    while nodes and seen < 14:
        node = nodes.pop()
        seen += 1
        children = names(rng, rng.choice((0, 0, 1, 2, 3)))
        nodes += [f"{node}/{child}" for child in children]
        scene.act("ls", {"node": node}, json.dumps(children))
        if not nodes:
            nodes.append(name(rng))


@FAMILIES.honest
def dispatcher(scene: Scene, rng: random.Random) -> None:
    """One agent gives another task after task and gets another result each time."""
    one, two = names(rng, 2)
    for _ in range(rng.randint(4, 7)):
        scene.act("delegate", {"to": two, "task": phrase(rng, 7)}, "", step="s1", role=one)
        scene.act("compute", {"over": phrase(rng, 2)}, token(rng, 12), step="s2", role=two)
        scene.act("handoff", {"to": one, "result": phrase(rng, 7)}, "", step="s2", role=two)


@FAMILIES.honest
def three_polls_side_by_side(scene: Scene, rng: random.Random) -> None:
    """Three jobs asked after in turn; each moves at its own pace."""
    jobs = {token(rng, 4): 0 for _ in range(3)}
    for index in range(5):
        for place, job in enumerate(jobs):
            jobs[job] += rng.randint(0, 1) if place == index % 3 else rng.randint(1, 4)
            scene.act("stat", {"job": job}, f"{job}:{jobs[job]}", same_turn=place > 0)
