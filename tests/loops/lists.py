"""Bulk work over lists whose answers are alike, beside loops over few things whose answers are alike."""

import json
import random

from loops.family import Families
from loops.made_up import form, go_round, name, names, phrase, prelude, token
from loops.noise import fill
from loops.scene import Scene

FAMILIES = Families()


# --- loops ------------------------------------------------------------------------------------------------------------


@FAMILIES.loop("identical")
def sms_to_one(scene: Scene, rng: random.Random) -> None:
    """The same text message to the same number; each has an id and a price."""
    what = {"to": f"+49{rng.randint(10**8, 10**9)}", "text": phrase(rng, 9)}

    def body(_: int) -> None:
        scene.act("send_sms", what, json.dumps({"sid": f"SM{fill('<hex>', rng)}", "status": "queued", "price": "0.07"}))

    go_round(scene, 7, 2, body)


@FAMILIES.loop("identical")
def row_inserted_again(scene: Scene, rng: random.Random) -> None:
    """The same row is inserted; its number counts on."""
    first = rng.randint(100, 9000)
    what = {"table": "visits", "values": {"who": name(rng), "day": "2026-11-26"}}
    go_round(scene, 8, 2, lambda index: scene.act("insert_row", what, f"Inserted 1 row, new id {first + index}"))


@FAMILIES.loop("near_identical")
def prompt_reworded(scene: Scene, rng: random.Random) -> None:
    """A model that draws is asked in other words, and declines in the same words."""
    prelude(scene)
    words = phrase(rng, 10).split()
    said = "I'm sorry, but this image can't be produced under the content policy. Please change your prompt."

    def body(_: int) -> None:
        mine = list(words)
        mine[rng.randrange(10)] = name(rng).lower()
        scene.act("draw", {"prompt": " ".join(mine), "size": "1024x1024"}, said)

    go_round(scene, 9, 3, body)


@FAMILIES.loop("near_identical")
def quantity_guessed(scene: Scene, rng: random.Random) -> None:
    """An order with another quantity each time, refused for the address."""
    prelude(scene)
    said = {"accepted": False, "violations": [{"path": "shipTo.zip", "rule": "format", "expected": "NNNNN"}]}
    sku = token(rng, 6)
    go_round(
        scene, 9, 3, lambda i: scene.act("place_order", {"sku": sku, "quantity": 9 - i, "zip": "D-1"}, json.dumps(said))
    )


@FAMILIES.loop("alternating")
def lock_and_wait(scene: Scene, rng: random.Random) -> None:
    """Lock: held by another. Who holds it: the same one. Again."""
    prelude(scene)
    holder = f"{name(rng).lower()}@{name(rng, 2).lower()}"

    def body(_: int) -> None:
        scene.act(
            "acquire_lock",
            {"name": "state"},
            error=f"lock 'state' is held by {holder} since 08:12",
            error_type="Locked",
        )
        scene.act("lock_info", {"name": "state"}, json.dumps({"name": "state", "holder": holder, "since": "08:12"}))

    go_round(scene, 6, 2, body)


@FAMILIES.loop("stuck_state")
def robot_in_a_corner(scene: Scene, rng: random.Random) -> None:
    """A robot's commands, each answered by the same pose."""
    prelude(scene)
    pose = {
        "x": round(rng.uniform(0, 9), 2),
        "y": round(rng.uniform(0, 9), 2),
        "heading": rng.randint(0, 359),
        "blocked": "front, left",
    }

    def body(_: int) -> None:
        scene.act(rng.choice(("forward", "turn", "back", "strafe")), {"amount": rng.randint(1, 90)}, json.dumps(pose))

    go_round(scene, 9, 3, body)


@FAMILIES.loop("stuck_state")
def cells_with_one_error(scene: Scene, rng: random.Random) -> None:
    """Cell after cell of a notebook, other code each time: the connection is gone."""
    prelude(scene)
    said = "OperationalError: server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally"

    def body(index: int) -> None:
        scene.act("run_cell", {"n": index, "code": f"{name(rng).lower()} = con.sql('{phrase(rng, 4)}')"}, said)

    go_round(scene, 10, 4, body)


@FAMILIES.loop("alternating")
def spelling_to_and_fro(scene: Scene, rng: random.Random) -> None:
    """One word is changed to another and back."""
    path, one, two = f"{name(rng).lower()}.md", name(rng), name(rng)

    def body(_: int) -> None:
        scene.act("replace", {"file": path, "find": one, "with": two}, "1 replacement")
        scene.act("replace", {"file": path, "find": two, "with": one}, "1 replacement")

    go_round(scene, 5, 1, body)


@FAMILIES.loop("identical")
def job_not_found(scene: Scene, rng: random.Random) -> None:
    """A job is asked after that the server does not know, with a trace id each time."""
    prelude(scene)
    job = token(rng, 9)

    def body(_: int) -> None:
        said = f'{{"message": "job {job} does not exist", "traceId": "{fill("<hex>", rng)}{fill("<hex>", rng)}"}}'
        scene.act("get_job", {"job": job}, said)

    go_round(scene, 8, 2, body)


@FAMILIES.loop("ping_pong")
def approval_asked_for(scene: Scene, rng: random.Random) -> None:
    """Doer asks boss for approval, boss asks doer for a summary, without an end."""

    def body(index: int) -> None:
        if index % 2 == 0:
            text = rng.choice(
                (
                    "May I delete the old backups?",
                    "May I delete the old backups now?",
                    "Please approve: delete the old backups.",
                )
            )
            scene.act("ask_agent", {"agent": "boss", "question": text}, "(no answer yet)", step="d", role="doer")
        else:
            text = rng.choice(
                (
                    "Send me a summary of the backups first.",
                    "First a summary of the backups, please.",
                    "Summary of the backups first.",
                )
            )
            scene.act("ask_agent", {"agent": "doer", "question": text}, "(no answer yet)", step="b", role="boss")

    go_round(scene, 9, 3, body)


# --- work -------------------------------------------------------------------------------------------------------------


@FAMILIES.honest
def sms_to_many(scene: Scene, rng: random.Random) -> None:
    """The same text message to many numbers."""
    text = phrase(rng, 9)
    for _ in range(rng.randint(8, 12)):
        said = {"sid": f"SM{fill('<hex>', rng)}", "status": "queued", "price": "0.07"}
        scene.act("send_sms", {"to": f"+49{rng.randint(10**8, 10**9)}", "text": text}, json.dumps(said))


@FAMILIES.honest
def domains_taken(scene: Scene, rng: random.Random) -> None:
    """One made-up domain after the other; most are taken."""
    for index in range(rng.randint(8, 12)):
        free = index % 6 == 5
        said = {"available": free, "reason": "free" if free else "registered", "premium": False}
        scene.act("check_domain", {"domain": f"{name(rng).lower()}.test"}, json.dumps(said))


@FAMILIES.honest
def reviews_classified(scene: Scene, rng: random.Random) -> None:
    """Review after review gets one of three labels, without a score."""
    for _ in range(rng.randint(9, 14)):
        label = rng.choice(("positive", "positive", "neutral", "negative"))
        scene.act("classify", {"text": phrase(rng, 12)}, json.dumps({"label": label, "model": "sentiment-v3"}))


@FAMILIES.honest
def rows_updated(scene: Scene, rng: random.Random) -> None:
    """Statement after statement, each touching one row."""
    for _ in range(rng.randint(8, 12)):
        query = f"UPDATE parts SET bin = '{token(rng, 3)}' WHERE id = {rng.randint(1, 9999)}"
        scene.act("run_statement", {"statement": query}, json.dumps({"affected": 1, "warnings": [], "columns": []}))


@FAMILIES.honest
def packages_scanned(scene: Scene, rng: random.Random) -> None:
    """Package after package is looked up in a list of weaknesses; few are in it."""
    for package in names(rng, rng.randint(8, 12)):
        bad = rng.random() < 0.2
        said = {"vulns": [f"CVE-2026-{rng.randint(1000, 9999)}"] if bad else [], "source": "osv", "ecosystem": "PyPI"}
        scene.act("scan", {"package": package.lower()}, json.dumps(said))


@FAMILIES.honest
def switches_configured(scene: Scene, rng: random.Random) -> None:
    """The same three commands on switch after switch; each prints its prompt."""
    for index in range(4):
        host = f"sw{index + 1}.floor{rng.randint(1, 9)}"
        for command in ("conf t", "ntp server 192.0.2.1", "end"):
            scene.act("ssh_exec", {"host": host, "command": command}, f"{host.split('.')[0]}(config)#")


@FAMILIES.honest
def readings_entered(scene: Scene, rng: random.Random) -> None:
    """Reading after reading of one meter goes into one form."""
    value = rng.randint(1000, 9000)
    for day in range(1, rng.randint(9, 13)):
        value += rng.randint(5, 40)
        scene.act("add_reading", {"meter": "M-17", "day": f"2026-11-{day:02}", "value": value}, "Reading accepted")


@FAMILIES.honest
def pictures_described(scene: Scene, rng: random.Random) -> None:
    """Picture after picture, some of which show the same."""
    for index in range(rng.randint(8, 11)):
        said = rng.choice(("A white page with black text, probably a scanned invoice.", phrase(rng, 9)))
        scene.act("describe_image", {"file": f"scan_{index:03}.png"}, said)


@FAMILIES.honest
def suite_after_each_step(scene: Scene, rng: random.Random) -> None:
    """A step of a migration, and the whole suite; it stays green in the same words."""
    for step in names(rng, rng.randint(5, 7)):
        scene.act("codemod", {"rule": step.lower()}, f"{rng.randint(2, 60)} files rewritten")
        scene.act("run_suite", {"target": "all"}, "Suite: 311 run, 0 broken, 4 skipped")


@FAMILIES.honest
def mailbox_cleared(scene: Scene, rng: random.Random) -> None:
    """The first message is moved away, and again; the call is the same, the subject another."""
    for _ in range(rng.randint(7, 10)):
        scene.act("move_first", {"from": "INBOX", "to": "Archive"}, f"moved '{phrase(rng, 3)}'")


@FAMILIES.honest
def stock_sold(scene: Scene, rng: random.Random) -> None:
    """The same order again and again until there is none left: the stock falls."""
    left = rng.randint(20, 40)
    for _ in range(rng.randint(6, 9)):
        left -= rng.randint(1, 3)
        scene.act("sell", {"sku": "A-1", "count": 2}, json.dumps({"sku": "A-1", "left": left, "state": "sold"}))


@FAMILIES.honest
def keys_tried_on_many_hosts(scene: Scene, rng: random.Random) -> None:
    """Host after host of a list that was read before; the first four do not answer, the others do."""
    hosts = [f"{name(rng).lower()}.lan" for _ in range(9)]
    scene.act("read_inventory", {"file": "hosts.ini"}, "\n".join(hosts))
    for index, host in enumerate(hosts):
        if index < 4:
            scene.act("ping_host", {"host": host}, error=f"{host}: no route to host", error_type="ToolError")
        else:
            scene.act("ping_host", {"host": host}, f"{host}: {rng.uniform(0.2, 3):.2f} ms, ttl 64")


@FAMILIES.honest
def tasks_created(scene: Scene, rng: random.Random) -> None:
    """Task after task of a plan is put on a board, each with a number."""
    first, writes = rng.randint(100, 900), form(rng)
    for index in range(rng.randint(7, 11)):
        what = {"title": phrase(rng, 5), "project": "OPS"}
        scene.act("create_task", what, writes({"key": f"OPS-{first + index}", "state": "todo", "board": "main"}))


@FAMILIES.honest
def watched_until_it_moves(scene: Scene, rng: random.Random) -> None:
    """A deployment asked after, three times the same, then the next state, with waits."""
    for state in ("Pending", "Progressing", "Available"):
        for _ in range(3 if state != "Available" else 1):
            scene.act("deployment_state", {"name": "shop"}, json.dumps({"name": "shop", "state": state}))
            scene.act("wait_seconds", {"n": 15}, "")
