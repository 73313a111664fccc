"""A working day gone wrong: shells, packages, containers, browsers and searches in the words that real tools use."""

import json
import random

from loops.family import Families
from loops.made_up import go_round, name, names, token
from loops.noise import fill, listed
from loops.scene import Scene

FAMILIES = Families()

MODULES = listed("billing ledger parser router session storage scheduler renderer importer cache quota mailer")


def module(rng: random.Random) -> str:
    """A file of a project."""
    return f"src/{rng.choice(MODULES)}/{name(rng, 2).lower()}.py"


def failing(rng: random.Random, test: str, why: str, passed: int) -> str:
    """What pytest prints when one test fails."""
    head = f"============ test session starts ============\nplatform linux -- Python 3.12.4, pytest-8.3.2\ncollected {passed + 1} items\n\n"
    return head + fill(
        f"{test} F\n\nE       {why}\n\n{test}: AssertionError\n=========== 1 failed, {passed} passed in <seconds> ===========",
        rng,
    )


@FAMILIES.loop_at("identical", 2)
def text_is_not_there(scene: Scene, rng: random.Random) -> None:
    path, old = module(rng), f"    return {name(rng).lower()}(self.{name(rng).lower()})"
    asked = {"path": path, "old_str": old, "new_str": old + "  # type: ignore"}
    for _ in range(8):
        scene.act(
            "edit_file",
            asked,
            error=f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.",
        )


@FAMILIES.loop_at("identical", 2)
def tree_will_not_resolve(scene: Scene, rng: random.Random) -> None:
    package = name(rng).lower()
    said = f'npm error code ERESOLVE\nnpm error ERESOLVE unable to resolve dependency tree\nnpm error\nnpm error While resolving: {package}@0.4.1\nnpm error Found: react@19.0.0\nnpm error Could not resolve dependency:\nnpm error peer react@"^17.0.2" from {package}-table@3.1.0\nnpm error A complete log of this run can be found in: /root/.npm/_logs/<iso>-debug-0.log'
    for _ in range(8):
        scene.act("bash", {"command": "npm install"}, error=fill(said, rng), error_type="CommandFailed")


@FAMILIES.loop_at("identical", 2)
def page_keeps_robots_out(scene: Scene, rng: random.Random) -> None:
    url = f"https://www.{name(rng).lower()}.com/report-{rng.randint(2019, 2026)}"
    for _ in range(8):
        scene.act(
            "web_fetch",
            {"url": url},
            f"403 Forbidden\n<title>Attention Required! | Cloudflare</title>\nSorry, you have been blocked. Ray ID: {token(rng, 16)} Your IP: 203.0.113.{rng.randint(2, 250)}",
        )


@FAMILIES.loop("identical")
def reads_it_once_more(scene: Scene, rng: random.Random) -> None:
    path = module(rng)
    scene.act("grep", {"pattern": "def ", "path": path}, "12:def load(self):\n40:def store(self):")
    text = "\n".join(f"{line}\t{name(rng).lower()} = {name(rng).lower()}()" for line in range(1, 9))
    go_round(scene, 8, 2, lambda _: scene.act("read_file", {"path": path, "offset": 1, "limit": 8}, text))


@FAMILIES.loop_at("identical", 2)
def push_is_refused(scene: Scene, rng: random.Random) -> None:
    branch = name(rng).lower()
    said = f"To github.com:acme/{name(rng).lower()}.git\n ! [rejected]        {branch} -> {branch} (non-fast-forward)\nerror: failed to push some refs\nhint: Updates were rejected because the tip of your current branch is behind"
    for _ in range(8):
        scene.act(
            "bash",
            {"command": f"git push origin {branch}"},
            json.dumps({"exit_code": 1, "stdout": "", "stderr": said, "duration_s": round(rng.uniform(0.4, 3), 2)}),
        )


@FAMILIES.loop_at("identical", 2)
def image_does_not_build(scene: Scene, rng: random.Random) -> None:
    package = name(rng).lower()
    for _ in range(6):
        said = f'#0 building with "default" instance\n#5 [2/6] WORKDIR /app\n#5 CACHED\n#8 [4/6] RUN apt-get install -y lib{package}-dev\n#8 {rng.uniform(1, 3):.3f} E: Unable to locate package lib{package}-dev\n#8 ERROR: process "/bin/sh -c apt-get install" did not complete successfully: exit code: 100\n------\nERROR: failed to solve (ref {token(rng, 25)})'
        scene.act("bash", {"command": "docker build -t app:dev ."}, error=said, error_type="CommandFailed")


@FAMILIES.loop_at("identical", 3)
def service_is_away(scene: Scene, rng: random.Random) -> None:
    url = f"https://api.{name(rng).lower()}.io/v1/items"
    for _ in range(8):
        scene.act(
            "bash",
            {"command": f"curl -sS -i {url}"},
            fill(
                "HTTP/2 503\ndate: <iso>\nx-request-id: <uuid>\ncontent-type: text/html\n\n<h1>503 Service Temporarily Unavailable</h1>",
                rng,
            ),
        )


@FAMILIES.loop_at("near_identical", 3)
def asks_the_web_in_other_words(scene: Scene, rng: random.Random) -> None:
    thing, year = name(rng), rng.randint(2020, 2026)
    hits = [
        {
            "title": f"{thing} annual report",
            "url": f"https://{name(rng).lower()}.org/{token(rng, 6)}",
            "snippet": f"{thing} reported {name(rng).lower()} of {rng.randint(3, 90)} million",
        }
        for _ in range(3)
    ]
    words = (
        "revenue {t} {y}",
        "{t} {y} revenue figures",
        "what was the revenue of {t} in {y}",
        "{t} annual revenue {y} report",
        '"{t}" revenue {y}',
        "{t} total revenue fiscal year {y}",
        "how much revenue did {t} make {y}",
        "{t} financial results revenue {y}",
    )
    for index, said in enumerate(words):
        shown = hits if index % 2 == 0 else [hits[1], hits[0], *hits[2:]]
        scene.act(
            "web_search",
            {"query": said.format(t=thing, y=year)},
            json.dumps({"results": shown, "search_time_ms": rng.randint(90, 900)}),
        )


@FAMILIES.loop("near_identical")
def runs_it_with_other_flags(scene: Scene, rng: random.Random) -> None:
    test, why = f"tests/test_{name(rng).lower()}.py", f"assert {rng.randint(2, 9)} == {rng.randint(10, 30)}"
    flags = ("", " -x", " -v", " -x -q", " -vv", " --tb=long", " -s", " -v --tb=short", " -x -vv -s")
    scene.act("read_file", {"path": test}, f"def test_it():\n    assert total({name(rng).lower()}) == 12")
    go_round(
        scene,
        9,
        3,
        lambda index: scene.act(
            "bash", {"command": f"python -m pytest {test}{flags[index]}"}, failing(rng, test, why, 6)
        ),
    )


@FAMILIES.loop_at("near_identical", 3)
def pip_with_other_options(scene: Scene, rng: random.Random) -> None:
    one, other = name(rng).lower(), name(rng).lower()
    for flag in (
        "",
        " --upgrade",
        " --no-cache-dir",
        " --user",
        " --force-reinstall",
        " --no-cache-dir --upgrade",
        " --pre",
        " -v",
    ):
        said = f"Collecting {one}\n  Using cached {one}-2.1.0-py3-none-any.whl ({rng.randint(20, 400)} kB)\nERROR: Cannot install {one} and {other}==1.4 because these package versions have conflicting dependencies.\nThe conflict is caused by:\n    {one} 2.1.0 depends on attrs>=23\n    {other} 1.4 depends on attrs<22\nERROR: ResolutionImpossible"
        scene.act("bash", {"command": f"pip install{flag} {one} {other}==1.4"}, error=said, error_type="CommandFailed")


@FAMILIES.loop_at("near_identical", 3)
def guesses_the_blanks(scene: Scene, rng: random.Random) -> None:
    path, word = module(rng), name(rng).lower()
    forms = (
        f"if {word}:\n    return None",
        f"if {word}:\n        return None",
        f"  if {word}:\n    return None",
        f"if {word} :\n    return None",
        f"if {word}:\n\treturn None",
        f"    if {word}:\n        return None",
        f"if ({word}):\n    return None",
        f"if {word}: return None",
        f"if {word}:\n    return None\n",
    )
    for form in forms:
        scene.act(
            "str_replace",
            {"path": path, "old_str": form, "new_str": f"if {word} is None:\n    return []"},
            error="String to replace not found in file.\nString: " + form,
        )


@FAMILIES.loop_at("near_identical", 3)
def element_has_gone(scene: Scene, rng: random.Random) -> None:
    label = name(rng)
    for selector in (
        f"#{label}-btn",
        f"button.{label}",
        f"text={label}",
        f"[data-test={label}]",
        f"//button[text()='{label}']",
        f"button:has-text('{label}')",
        f"form button.{label}",
        f"css=.{label}",
        f"[aria-label={label}]",
    ):
        scene.act(
            "browser_click",
            {"selector": selector, "timeout": 5000},
            error=f"TimeoutError: locator.click: Timeout 5000ms exceeded.\nCall log:\n  - waiting for locator({selector!r})\n  - element was detached from the DOM, retrying (elapsed {rng.randint(4990, 5060)}ms)",
            error_type="TimeoutError",
        )


@FAMILIES.loop_at("near_identical", 3)
def module_is_not_installed(scene: Scene, rng: random.Random) -> None:
    wanted = name(rng).lower()
    for how in (
        f"python -c 'import {wanted}'",
        f"python3 -c 'import {wanted}'",
        f"python -m {wanted}",
        f"python3.12 -c 'import {wanted}; print({wanted})'",
        f"PYTHONPATH=. python -c 'import {wanted}'",
        f"cd /app && python -c 'import {wanted}'",
        f"env python -c 'import {wanted}'",
        f"/usr/bin/python3 -c 'import {wanted}'",
        f"python -c 'from {wanted} import *'",
    ):
        scene.act(
            "bash",
            {"command": how},
            f"Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\nModuleNotFoundError: No module named '{wanted}'\n[exit code: 1]",
        )


@FAMILIES.loop_at("near_identical", 3)
def revision_cannot_be_found(scene: Scene, rng: random.Random) -> None:
    revision = fill("<hex>", rng)
    for command in (
        "alembic upgrade head",
        "alembic upgrade heads",
        "alembic -c alembic.ini upgrade head",
        "alembic upgrade +1",
        "python -m alembic upgrade head",
        "alembic upgrade head --sql",
        "alembic -x env=dev upgrade head",
        "poetry run alembic upgrade head",
        "alembic upgrade head 2>&1",
    ):
        scene.act(
            "bash",
            {"command": command},
            error=fill("<time> INFO  [alembic.runtime.migration] Context impl PostgresqlImpl.\n", rng)
            + f"ERROR [alembic.util.messaging] Can't locate revision identified by '{revision}'",
            error_type="CommandFailed",
        )


@FAMILIES.loop_at("alternating", 7)
def there_and_back(scene: Scene, rng: random.Random) -> None:
    path, (one, other) = module(rng), names(rng, 2)
    first, second = (f"tests/test_{word.lower()}.py::test_total" for word in (one, other))
    for index in range(8):
        old, new = (one, other) if index % 2 == 0 else (other, one)
        scene.act(
            "edit_file",
            {"path": path, "old_str": f"mode = '{old}'", "new_str": f"mode = '{new}'"},
            f"The file {path} has been edited.",
        )
        scene.act(
            "bash",
            {"command": "pytest -q"},
            failing(rng, first if index % 2 == 0 else second, f"assert mode == '{old}'", 31),
        )


@FAMILIES.loop_at("alternating", 4)
def rebased_and_aborted(scene: Scene, rng: random.Random) -> None:
    path = module(rng)
    for _ in range(6):
        scene.act(
            "bash",
            {"command": "git rebase origin/main"},
            f"Auto-merging {path}\nCONFLICT (content): Merge conflict in {path}\nerror: could not apply 3fa9c1e... wip\nRebasing (2/5)",
        )
        scene.act("bash", {"command": "git rebase --abort"}, "")


@FAMILIES.loop_at("alternating", 4)
def two_pins_that_fight(scene: Scene, rng: random.Random) -> None:
    one, other = names(rng, 2)
    for index in range(9):
        here, there, version = (one, other, "4.2.0") if index % 2 == 0 else (other, one, "1.9.3")
        said = f"npm warn ERESOLVE overriding peer dependency\nchanged 1 package, and audited {rng.randint(311, 319)} packages in {rng.randint(1, 9)}s\n└─ invalid: {there.lower()} requires a peer of {here.lower()}, found {version}"
        scene.act("bash", {"command": f"npm i {here.lower()}@{version}"}, said)


@FAMILIES.loop_at("alternating", 5)
def container_dies_anew(scene: Scene, rng: random.Random) -> None:
    service = name(rng).lower()
    for _ in range(5):
        scene.act(
            "bash",
            {"command": f"docker run -d --name {service} {service}:latest"},
            fill("<hex><hex><hex><hex><hex>", rng) + "f3a1",
        )
        scene.act(
            "bash",
            {"command": f"docker logs {service}"},
            fill("<iso> FATAL  configuration key `database.url` is missing\n<iso> INFO   exiting (pid <pid>)", rng),
        )
        scene.act("bash", {"command": f"docker rm -f {service}"}, service)


@FAMILIES.loop_at("alternating", 5)
def sent_back_to_the_login(scene: Scene, rng: random.Random) -> None:
    host = f"https://{name(rng).lower()}.example.com"
    for _ in range(6):
        scene.act(
            "browser_navigate",
            {"url": f"{host}/reports"},
            f"Navigated to {host}/login?next=%2Freports&state={token(rng, 22)}\nTitle: Sign in",
        )
        scene.act(
            "browser_click",
            {"element": "Continue with SSO"},
            f"Clicked. Page: {host}/login?error=session_expired&nonce={token(rng, 22)}\nTitle: Sign in",
        )


@FAMILIES.loop_at("alternating", 5)
def formatter_against_linter(scene: Scene, rng: random.Random) -> None:
    path = module(rng)
    for _ in range(6):
        scene.act(
            "bash", {"command": f"black {path}"}, f"reformatted {path}\n\nAll done! ✨ 🍰 ✨\n1 file reformatted."
        )
        scene.act(
            "bash",
            {"command": f"flake8 --fix {path}"},
            f"{path}:44:1: E302 expected 2 blank lines, found 1 (fixed)\n1 fixed",
        )


@FAMILIES.loop("ping_pong")
def neither_will_merge(scene: Scene, rng: random.Random) -> None:
    words = (
        "Please merge it.",
        "You have to merge this.",
        "Merge is yours, I may not.",
        "Could you merge it please?",
        "I am not allowed to merge; you.",
        "The merge is your task.",
        "Waiting for you to merge.",
        "Merge it, please.",
        "It is you who merges.",
    )
    scene.loop_begins()
    for index, said in enumerate(words):
        giver, taker = ("coder", "reviewer") if index % 2 == 0 else ("reviewer", "coder")
        scene.act("hand_off", {"to": taker, "instruction": said}, "ok", step=f"s{index}", role=giver)
        if index == 3:
            scene.loop_shows()


@FAMILIES.loop("ping_pong")
def desk_to_desk_to_desk(scene: Scene, rng: random.Random) -> None:
    roles, matter = ("researcher", "writer", "editor"), name(rng)
    scene.loop_begins()
    for index in range(9):
        giver, taker = roles[index % 3], roles[(index + 1) % 3]
        scene.act("read_file", {"path": f"notes/{matter}.md"}, f"# {matter}\n\nTODO", step=f"s{index}", role=giver)
        scene.act(
            "hand_off",
            {"to": taker, "instruction": f"{taker.title()}, the section on {matter} is yours."},
            "ok",
            step=f"s{index}",
            role=giver,
        )
        if index == 5:
            scene.loop_shows()


@FAMILIES.loop_at("stuck_state", 3)
def runner_never_comes(scene: Scene, rng: random.Random) -> None:
    run = rng.randint(10**9, 10**10)
    for index in range(10):
        scene.act(
            "bash",
            {"command": f"gh run view {run}"},
            f"* ci main · {run}\nTriggered via push about {index + 2} minutes ago\n\nJOBS\n* build (ID {run + 7})\n  Waiting for a runner to pick up this job...",
        )


@FAMILIES.loop("stuck_state")
def same_test_whatever_is_edited(scene: Scene, rng: random.Random) -> None:
    test, path = f"tests/test_{name(rng).lower()}.py::test_rounding", module(rng)
    scene.act("read_file", {"path": path}, f"def {name(rng).lower()}(x):\n    return round(x, 2)")

    def body(_: int) -> None:
        scene.act(
            "edit_file",
            {
                "path": path,
                "old_str": f"{name(rng).lower()}({rng.randint(1, 9)})",
                "new_str": f"{name(rng).lower()} or {name(rng).lower()}",
            },
            "OK",
        )
        scene.act(
            "bash", {"command": "pytest -q"}, failing(rng, test, "assert Decimal('10.125') == Decimal('10.13')", 57)
        )

    go_round(scene, 7, 3, body)


@FAMILIES.loop_at("stuck_state", 7)
def restarted_and_still_down(scene: Scene, rng: random.Random) -> None:
    service = name(rng).lower()
    for _ in range(7):
        scene.act("bash", {"command": f"systemctl restart {service}"}, "")
        scene.act(
            "bash",
            {"command": f"journalctl -u {service} -n 3 --no-pager"},
            fill(
                f"Nov 26 <time> web-1 {service}[<pid>]: bind: Address already in use (0.0.0.0:8443)\nNov 26 <time> web-1 systemd[1]: {service}.service: Main process exited, code=exited, status=98",
                rng,
            ),
        )


@FAMILIES.loop_at("stuck_state", 7)
def warnings_stay_as_many(scene: Scene, rng: random.Random) -> None:
    path, rule = module(rng), rng.choice(("arg-type", "union-attr", "return-value"))
    for _ in range(6):
        scene.act(
            "edit_file",
            {"path": path, "old_str": name(rng).lower(), "new_str": f"cast({name(rng)}, {name(rng).lower()})"},
            f"Edited {path}: 1 replacement",
        )
        scene.act(
            "bash",
            {"command": "mypy src"},
            f"{path}:{rng.randint(40, 44)}: error: Incompatible types in this expression  [{rule}]\nFound 14 errors in 6 files (checked 88 source files)",
        )


@FAMILIES.loop_at("stuck_state", 3)
def bottom_of_the_page(scene: Scene, rng: random.Random) -> None:
    text = " ".join(names(rng, 24))
    for index in range(8):
        scene.act(
            "browser_scroll",
            {"direction": "down", "amount": rng.choice((400, 500, 600, 800))},
            f"Scrolled (scrollY=4210 of 4210, snapshot {1000 + index * 7})\n{text}",
        )


@FAMILIES.loop_at("stuck_state", 3)
def plan_written_over_and_over(scene: Scene, rng: random.Random) -> None:
    items = [f"{verb} {name(rng).lower()}" for verb in ("inspect", "rewrite", "verify", "document")]
    for _ in range(9):
        todos = [{"id": token(rng, 5), "content": item, "status": "pending"} for item in items]
        scene.act(
            "todo_write", {"todos": todos}, "Todos have been modified successfully. Proceed with the current tasks."
        )


@FAMILIES.loop_at("stuck_state", 5)
def port_is_shut(scene: Scene, rng: random.Random) -> None:
    host = f"db-{name(rng).lower()}"
    ways = (
        f"psql -h {host} -c 'select 1'",
        f"pg_isready -h {host}",
        f"nc -zv {host} 5432",
        f"psql postgresql://app@{host}/app",
        f"python -c \"import psycopg; psycopg.connect('host={host}')\"",
        f"telnet {host} 5432",
        f"PGPASSWORD=x psql -h {host} -U app",
        f"curl -v telnet://{host}:5432",
        f"psql -h {host} -l",
        f"pg_dump -h {host} app",
        f"timeout 5 nc {host} 5432",
    )
    for way in ways:
        scene.act(
            "bash",
            {"command": way},
            error=f'{way.split()[0]}: connection to server at "{host}" (10.0.3.7), port 5432 failed: Connection refused',
            error_type="CommandFailed",
        )
