"""Small cases of many trades, each written down in a few lines and looked at once before anything was changed."""

import itertools
import random

from loops.family import Families
from loops.scene import Scene

FAMILIES = Families()


def words(rng: random.Random, count: int) -> str:
    """Words that are new."""
    return " ".join("".join(rng.choice("abcdefghij") for _ in range(6)) for _ in range(count))


# --- work ----------------------------------------------------------------------------------------------------


@FAMILIES.honest
def _swe_edit_view(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act(
            "str_replace_editor",
            {"command": "view", "path": "/repo/a.py", "view_range": [i * 50, i * 50 + 50]},
            f"Here's the result of running `cat -n` on /repo/a.py:\n{words(rng, 30)}",
        )
        scene.act(
            "str_replace_editor",
            {"command": "str_replace", "path": "/repo/a.py", "old_str": words(rng, 4), "new_str": words(rng, 4)},
            "The file /repo/a.py has been edited. Here's the result of running `cat -n` on a snippet of /repo/a.py:\n"
            + words(rng, 20)
            + "\nReview the changes and make sure they are as expected.",
        )


@FAMILIES.honest
def _tau_lookup(scene: Scene, rng: random.Random) -> None:
    for i in range(6):
        scene.act(
            "get_user_details",
            {"user_id": f"user_{i}"},
            f'{{"name": "{words(rng, 1)}", "email": "{words(rng, 1)}"}}',
        )
        scene.act(
            "get_reservation_details",
            {"reservation_id": words(rng, 1)[:6].upper()},
            f'{{"status": "confirmed", "seat": "{words(rng, 1)}"}}',
        )


@FAMILIES.honest
def _calc(scene: Scene, rng: random.Random) -> None:
    for i in range(10):
        scene.act("calculate", {"expression": f"{i}*{i + 3}+{rng.randint(1, 90)}"}, str(rng.randint(10, 9999)))


@FAMILIES.honest
def _sql_explore(scene: Scene, rng: random.Random) -> None:
    scene.act("sql", {"q": "select count(*) from a"}, "0")
    for t in "bcdefgh":
        scene.act("sql", {"q": f"select count(*) from {t}"}, "0" if rng.random() < 0.7 else "12")


@FAMILIES.honest
def _pip_installs(scene: Scene, rng: random.Random) -> None:
    for p in ("numpy", "pandas", "scipy", "torch", "httpx", "rich", "typer"):
        scene.act("bash", {"command": f"pip install {p}"}, f"Successfully installed {p}-1.2.3")


@FAMILIES.honest
def _curl_health_after_start(scene: Scene, rng: random.Random) -> None:
    for e in ("curl: (7) Failed to connect to localhost port 8080 after 0 ms: Connection refused",) * 3:
        scene.act("bash", {"command": "curl -s localhost:8080/health"}, error=e)
        scene.act("bash", {"command": "sleep 2"}, "")
    scene.act("bash", {"command": "curl -s localhost:8080/health"}, "ok")


@FAMILIES.honest
def _tests_then_passes(scene: Scene, rng: random.Random) -> None:
    for _, t in enumerate(
        (
            "3 failed, 10 passed in 1.2s",
            "3 failed, 10 passed in 1.4s",
            "2 failed, 11 passed in 1.2s",
            "2 failed, 11 passed in 1.0s",
            "1 failed, 12 passed in 1s",
            "13 passed in .9s",
        )
    ):
        scene.act("bash", {"command": "pytest -q"}, t)
        scene.act("edit", {"path": "x.py", "old": words(rng, 2), "new": words(rng, 2)}, "ok")


@FAMILIES.honest
def _pr_review(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act("get_file", {"path": f"src/mod{i}.ts"}, words(rng, 20))
        scene.act(
            "post_comment", {"path": f"src/mod{i}.ts", "line": i * 3 + 1, "body": words(rng, 6)}, "Comment posted"
        )


@FAMILIES.honest
def _kubectl_wait(scene: Scene, rng: random.Random) -> None:
    for i, t in enumerate(("0/3", "0/3", "1/3", "1/3", "2/3", "2/3", "3/3")):
        scene.act("bash", {"command": "kubectl get pods"}, f"NAME READY STATUS AGE\nweb {t} Running {10 * i + 5}s")


@FAMILIES.honest
def _pages_same_len(scene: Scene, rng: random.Random) -> None:
    for i in range(12):
        scene.act(
            "list_issues",
            {"page": i + 1, "per_page": 30},
            f'[{{"number": {900 - i * 2}}}, {{"number": {899 - i * 2}}}]',
        )


@FAMILIES.honest
def _browser_fill(scene: Scene, rng: random.Random) -> None:
    for f in ("name", "mail", "street", "city", "zip", "country", "phone"):
        scene.act("type_text", {"selector": f"#{f}", "text": words(rng, 1)}, "Typed text")
    scene.act("click", {"selector": "#submit"}, "Clicked")


@FAMILIES.honest
def _web_research(scene: Scene, rng: random.Random) -> None:
    for i in range(6):
        scene.act("web_search", {"query": words(rng, 3)}, "1. " + words(rng, 5) + "\n2. " + words(rng, 5))
        scene.act(
            "open_url",
            {"url": f"https://{words(rng, 1)[:6]}.com/{i}"},
            words(rng, 30) if rng.random() < 0.7 else "Error: 403 Forbidden",
        )


@FAMILIES.honest
def _blocked_sites(scene: Scene, rng: random.Random) -> None:
    for _ in range(4):
        scene.act("open_url", {"url": f"https://{words(rng, 1)[:6]}.com/"}, error="403 Forbidden")
        scene.act("web_search", {"query": words(rng, 2)}, words(rng, 8))


@FAMILIES.honest
def _delegations(scene: Scene, rng: random.Random) -> None:
    for _ in range(6):
        scene.act("delegate", {"to": "researcher", "task": words(rng, 5)}, words(rng, 8), step="lead", role="lead")


@FAMILIES.honest
def _supervisor_star(scene: Scene, rng: random.Random) -> None:
    for _ in range(3):
        scene.act("hand_off", {"to": "coder", "task": words(rng, 6)}, "ok", step="lead", role="lead")
        scene.act("write_file", {"path": words(rng, 1), "content": words(rng, 5)}, "ok", step="c", role="coder")
        scene.act("hand_off", {"to": "lead", "result": words(rng, 6)}, "ok", step="c", role="coder")
        scene.act("read_file", {"path": words(rng, 1)}, words(rng, 9), step="lead", role="lead")


@FAMILIES.honest
def _chat_between(scene: Scene, rng: random.Random) -> None:
    for _ in range(4):
        scene.act("send_message", {"to": "bob", "text": words(rng, 8)}, "sent", step="alice", role="alice")
        scene.act("send_message", {"to": "alice", "text": words(rng, 8)}, "sent", step="bob", role="bob")


@FAMILIES.honest
def _two_same_searches(scene: Scene, rng: random.Random) -> None:
    for st in "ab":
        for q in ("redis timeout", "redis pool", "celery ack"):
            scene.act("search", {"query": q}, f"results for {q}: {q[::-1]}", step=st, role="r")


@FAMILIES.honest
def _five_agents_same_missing_file_then_continue(scene: Scene, rng: random.Random) -> None:
    for i in range(2):
        scene.act("read_file", {"path": "CONTRIBUTING.md"}, error="File not found: CONTRIBUTING.md", step=f"s{i}")
        scene.act("list", {"p": "."}, words(rng, 4), step=f"s{i}")


@FAMILIES.honest
def _poll_percent_stall(scene: Scene, rng: random.Random) -> None:
    for p in (10, 10, 10, 20, 20, 35, 35, 35, 80, 100):
        scene.act("progress", {"id": "x"}, f"{p}%")


@FAMILIES.honest
def _eta(scene: Scene, rng: random.Random) -> None:
    for p in range(90, 0, -9):
        scene.act("render_status", {"id": "x"}, f"rendering, {p} seconds remaining")


@FAMILIES.honest
def _ticket_updates(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act("update_ticket", {"id": f"T-{i}", "status": "closed"}, '{"success": true}')


@FAMILIES.honest
def _translate_files(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act("read", {"f": f"doc{i}.md"}, words(rng, 12))
        scene.act("write", {"f": f"doc{i}.de.md", "text": words(rng, 12)}, "Wrote 1 file")


@FAMILIES.honest
def _lint_each_file_clean(scene: Scene, rng: random.Random) -> None:
    for _ in range(9):
        scene.act("lint", {"file": f"src/{words(rng, 1)[:5]}.ts"}, "No issues found.")


@FAMILIES.honest
def _git_bisect(scene: Scene, rng: random.Random) -> None:
    for i in range(7):
        scene.act(
            "bash",
            {"command": "git bisect " + rng.choice(("good", "bad"))},
            f"Bisecting: {64 >> i} revisions left to test after this\n[{words(rng, 1)}] {words(rng, 3)}",
        )


@FAMILIES.honest
def _run_same_script_on_inputs(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act("bash", {"command": f"python solve.py input{i}.txt"}, rng.choice(("True", "False")))


@FAMILIES.honest
def _retry_then_other(scene: Scene, rng: random.Random) -> None:
    scene.act("http_get", {"url": "a"}, error="timeout")
    scene.act("http_get", {"url": "a"}, error="timeout")
    scene.act("http_get", {"url": "b"}, error="timeout")
    scene.act("http_get", {"url": "b"}, error="timeout")
    scene.act("http_get", {"url": "c"}, words(rng, 5))


@FAMILIES.honest
def _wait_for_ci(scene: Scene, rng: random.Random) -> None:
    for t in ("queued", "in_progress", "in_progress", "in_progress", "in_progress", "completed"):
        scene.act("get_check_run", {"sha": "abc"}, f'{{"status": "{t}"}}')
        scene.act("wait", {"minutes": 1}, "Waited 1 minute")


@FAMILIES.honest
def _terraform(scene: Scene, rng: random.Random) -> None:
    for i in range(5):
        scene.act("bash", {"command": "terraform plan"}, f"Plan: {5 - i} to add, 0 to change, 0 to destroy.")
        scene.act(
            "bash",
            {"command": f"terraform apply -target=mod.{words(rng, 1)}"},
            "Apply complete! Resources: 1 added, 0 changed, 0 destroyed.",
        )


@FAMILIES.honest
def _notebook_cells(scene: Scene, rng: random.Random) -> None:
    for _ in range(8):
        scene.act("run_cell", {"code": f"df['{words(rng, 1)}'].mean()"}, rng.choice(("nan", str(rng.random()))))


@FAMILIES.honest
def _imap_fetch(scene: Scene, rng: random.Random) -> None:
    for i in range(10):
        scene.act("fetch_mail", {"uid": 3000 + i}, f"From: {words(rng, 1)}@x.test\nSubject: {words(rng, 4)}")


@FAMILIES.honest
def _mark_read(scene: Scene, rng: random.Random) -> None:
    for i in range(10):
        scene.act("mark_read", {"uid": 3000 + i}, "")


@FAMILIES.honest
def _redis_gets(scene: Scene, rng: random.Random) -> None:
    for k in range(9):
        scene.act("redis", {"cmd": f"GET user:{k}:name"}, rng.choice(("(nil)", "(nil)", words(rng, 1))))


@FAMILIES.honest
def _dns(scene: Scene, rng: random.Random) -> None:
    for h in ("mail", "www", "ftp", "api", "dev", "vpn", "cdn"):
        scene.act("dig", {"name": f"{h}.example.org"}, error="NXDOMAIN") if h in ("ftp", "vpn") else scene.act(
            "dig", {"name": f"{h}.example.org"}, f"10.0.0.{rng.randint(1, 250)}"
        )


@FAMILIES.honest
def _apply_patch_retry(scene: Scene, rng: random.Random) -> None:
    for i in range(3):
        scene.act(
            "apply_patch", {"diff": words(rng, 9)}, error=f"patch failed: hunk {i + 1} at line {rng.randint(1, 300)}"
        )
        scene.act("read", {"p": "x.c"}, words(rng, 12))
    scene.act("apply_patch", {"diff": words(rng, 9)}, "applied", commit="c1")


@FAMILIES.honest
def _same_read_after_writes(scene: Scene, rng: random.Random) -> None:
    for i in range(6):
        scene.act("write", {"k": "x", "v": i}, "ok")
        scene.act("read", {"k": "x"}, str(i))


@FAMILIES.honest
def _docker_build_steps(scene: Scene, rng: random.Random) -> None:
    for i in range(6):
        scene.act(
            "bash",
            {"command": "docker build ."},
            f"Step {i + 2}/9 : RUN {words(rng, 2)}\nERROR: failed to solve: {words(rng, 4)}",
        )
        scene.act("edit", {"f": "Dockerfile", "text": words(rng, 3)}, "Edited")


@FAMILIES.honest
def _type_check_counts(scene: Scene, rng: random.Random) -> None:
    for n in (14, 14, 9, 9, 5, 1, 0):
        scene.act(
            "bash",
            {"command": "mypy ."},
            f"Found {n} errors in {max(1, n // 2)} files" if n else "Success: no issues found",
        )
        scene.act("edit", {"f": words(rng, 1), "t": words(rng, 2)}, "Edited")


@FAMILIES.honest
def _heartbeat_poll(scene: Scene, rng: random.Random) -> None:
    for i in range(12):
        scene.act("worker_status", {"id": 3}, f'{{"state":"busy","last_heartbeat":"2026-11-25T10:{i:02}:00Z"}}')


@FAMILIES.honest
def _queue_depth(scene: Scene, rng: random.Random) -> None:
    for d in (40, 38, 38, 30, 22, 22, 22, 9, 0):
        scene.act("queue_depth", {"q": "mail"}, f"depth {d}")


@FAMILIES.honest
def _upload_chunks(scene: Scene, rng: random.Random) -> None:
    for i in range(10):
        scene.act("upload_chunk", {"upload": "u1", "part": i}, "accepted")


@FAMILIES.honest
def _crawler(scene: Scene, rng: random.Random) -> None:
    for i in range(9):
        scene.act(
            "fetch",
            {"url": f"https://x.test/page/{i}"},
            f"<html>{words(rng, 9)}</html>" if i % 4 else "<html>Not found</html>",
        )


@FAMILIES.honest
def _agents_pipeline_delegate(scene: Scene, rng: random.Random) -> None:
    r = ["intake", "research", "draft", "edit", "legal", "publish"]
    for a, b in itertools.pairwise(r):
        scene.act("search", {"q": words(rng, 2)}, words(rng, 5), step=a, role=a)
        scene.act("handoff", {"target": b, "brief": words(rng, 5)}, "ok", step=a, role=a)


@FAMILIES.honest
def _fan_out_503_retry_each_twice(scene: Scene, rng: random.Random) -> None:
    for _ in range(2):
        for i in range(60):
            scene.act(
                "embed",
                {"text": "hello"},
                error=f"503 Service Unavailable (req {words(rng, 1)})",
                step=f"w{i}",
                role="w",
            )


@FAMILIES.honest
def _fan_out_distinct_args_same_error(scene: Scene, rng: random.Random) -> None:
    for i in range(60):
        scene.act("fetch", {"id": i}, error="Permission denied", step=f"w{i}", role="w")


@FAMILIES.honest
def _three_retries_jitter(scene: Scene, rng: random.Random) -> None:
    for _ in range(3):
        scene.act("fetch", {"u": "x"}, error=f"Read timed out. (read timeout={rng.randint(5, 30)})")
    scene.act("fetch", {"u": "x"}, words(rng, 4))


@FAMILIES.honest
def _download_progress_err(scene: Scene, rng: random.Random) -> None:
    for p in (5, 20, 45, 70, 95):
        scene.act("get_export", {"id": 1}, error=f"Export is still being prepared ({p}%)")
    scene.act("get_export", {"id": 1}, words(rng, 4))


@FAMILIES.honest
def _not_ready_err(scene: Scene, rng: random.Random) -> None:
    for _ in range(3):
        scene.act("get_export", {"id": 1}, error="Export is not ready yet")
        scene.act("sleep", {"s": 10}, "ok")
    scene.act("get_export", {"id": 1}, words(rng, 4))


@FAMILIES.honest
def _two_polls_progress(scene: Scene, rng: random.Random) -> None:
    for p in range(0, 100, 20):
        scene.act("job", {"id": 1}, f"{p}%")
        scene.act("job", {"id": 2}, f"{p // 2}%")


@FAMILIES.honest
def _repl_game(scene: Scene, rng: random.Random) -> None:
    for m in ("e4", "e5", "Nf3", "Nc6", "Bb5", "a6", "Ba4", "Nf6"):
        scene.act("move", {"san": m}, "ok")


@FAMILIES.honest
def _undo_redo_once(scene: Scene, rng: random.Random) -> None:
    scene.act("edit", {"f": "a", "t": "x"}, "ok", commit="1")
    scene.act("revert", {}, "ok", commit="2")
    scene.act("edit", {"f": "a", "t": "y"}, "ok", commit="3")
    scene.act("revert", {}, "ok", commit="4")
    scene.act("edit", {"f": "a", "t": "z"}, "ok", commit="5")


@FAMILIES.honest
def _slack_reads(scene: Scene, rng: random.Random) -> None:
    for i in range(6):
        scene.act("read_channel", {"c": "ops", "since": 1732500000 + i * 60}, "[]" if i in (1, 2, 4) else words(rng, 6))


@FAMILIES.honest
def _grep_then_read(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act("grep", {"pattern": words(rng, 1)}, f"src/a{i}.py:{i * 7}: {words(rng, 3)}")
        scene.act("read_file", {"path": f"src/a{i}.py", "first_line": i * 7, "last_line": i * 7 + 20}, words(rng, 20))


@FAMILIES.honest
def _cd_ls(scene: Scene, rng: random.Random) -> None:
    for d in "abcdefg":
        scene.act("bash", {"command": f"cd {d} && ls"}, f"Makefile\nREADME.md\nsrc\n{d}.toml")


# --- loops ----------------------------------------------------------------------------------------------------


@FAMILIES.loop_at("identical", at=2)
def _edit_no_match(scene: Scene, rng: random.Random) -> None:
    for _ in range(7):
        scene.act(
            "str_replace_editor",
            {"command": "str_replace", "path": "/repo/a.py", "old_str": "def f(x):", "new_str": "def f(x, y):"},
            error="No replacement was performed, old_str `def f(x):` did not appear verbatim in /repo/a.py.",
        )


@FAMILIES.loop_at("near_identical", at=2)
def _edit_no_match_varied(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act(
            "str_replace_editor",
            {
                "command": "str_replace",
                "path": "/repo/a.py",
                "old_str": "def f(x):" + " " * i + "\n    return x",
                "new_str": "def f(x, y):\n    return x + y",
            },
            error="No replacement was performed, old_str did not appear verbatim in /repo/a.py.",
        )


@FAMILIES.loop_at("near_identical", at=2)
def _edit_no_match_echo(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        o = "def f(x):\n" + " " * (i + 1) + f"return x + {i}"
        scene.act(
            "edit",
            {"path": "/repo/a.py", "old_str": o, "new_str": "pass"},
            error=f"No replacement was performed, old_str `{o}` did not appear verbatim in /repo/a.py.",
        )


@FAMILIES.loop_at("alternating", at=3)
def _view_edit_fail_cycle(scene: Scene, rng: random.Random) -> None:
    for i in range(5):
        scene.act("view", {"path": "a.py"}, "1 def f(x):\n2   return x")
        scene.act(
            "edit",
            {"path": "a.py", "old": f"def f(x) :{'#' * i}", "new": "def f(x, y):"},
            error="old text not found in a.py",
        )


@FAMILIES.loop_at("near_identical", at=3)
def _search_synonyms(scene: Scene, rng: random.Random) -> None:
    for q in (
        "how to reset password",
        "reset password how to",
        "how to reset a password",
        "how do I reset password",
        "how to reset the password",
        "how to reset my password",
        "password reset how to",
    ):
        scene.act("search_kb", {"query": q}, "No articles found.")


@FAMILIES.loop_at("identical", at=2)
def _tau_cancel(scene: Scene, rng: random.Random) -> None:
    for _ in range(6):
        scene.act("cancel_reservation", {"reservation_id": "ABC123"}, "Error: reservation cannot be cancelled")


@FAMILIES.loop_at("identical", at=3)
def _click_same(scene: Scene, rng: random.Random) -> None:
    for _ in range(7):
        scene.act("click", {"selector": "#submit"}, "Clicked element #submit")


@FAMILIES.loop_at("alternating", at=5)
def _scroll_up_down(scene: Scene, rng: random.Random) -> None:
    for _ in range(5):
        scene.act("scroll", {"direction": "down"}, "[page] " + "alpha beta gamma")
        scene.act("scroll", {"direction": "up"}, "[page] " + "delta epsilon")


@FAMILIES.loop_at("alternating", at=3)
def _git_push_rejected(scene: Scene, rng: random.Random) -> None:
    for _ in range(6):
        scene.act(
            "bash", {"command": "git push"}, "! [rejected] main -> main (fetch first)\nerror: failed to push some refs"
        )
        scene.act("bash", {"command": "git pull"}, "Already up to date.")


@FAMILIES.loop_at("identical", at=3)
def _think_loop(scene: Scene, rng: random.Random) -> None:
    for _ in range(8):
        scene.act("think", {"thought": "I should check the file again."}, "Your thought has been logged.")


@FAMILIES.loop_at("identical", at=2)
def _json_arg_broken(scene: Scene, rng: random.Random) -> None:
    for _ in range(6):
        scene.act(
            "create_event",
            {"title": "x", "date": "tomorrow"},
            error="1 validation error for CreateEvent\ndate\n  Input should be a valid date "
            "[type=date_parsing, input_value='tomorrow', input_type=str]\n"
            "    For further information visit https://errors.pydantic.dev/2.12/v/date_parsing",
        )


@FAMILIES.loop_at("near_identical", at=4)
def _date_formats(scene: Scene, rng: random.Random) -> None:
    for d in (
        "2026-13-01",
        "13/01/2026",
        "2026/13/01",
        "01.13.2026",
        "13-01-2026",
        "2026 13 01",
        "Jan 13 2026",
        "13 January 2026",
        "13.1.2026",
    ):
        scene.act("create_event", {"title": "x", "date": d}, error=f"Invalid date: {d!r}. Use ISO format.")


@FAMILIES.loop_at("stuck_state", at=4)
def _permission_all(scene: Scene, rng: random.Random) -> None:
    for c in (
        "cat /etc/shadow",
        "sudo cat /etc/shadow",
        "head /etc/shadow",
        "less /etc/shadow",
        "python -c 'open(\"/etc/shadow\")'",
        "cp /etc/shadow .",
        "tail /etc/shadow",
        "nl /etc/shadow",
        "tac /etc/shadow",
    ):
        scene.act("bash", {"command": c}, error="Permission denied")


@FAMILIES.loop_at("stuck_state", at=4)
def _permission_soft(scene: Scene, rng: random.Random) -> None:
    for c in (
        "cat /etc/shadow",
        "sudo cat /etc/shadow",
        "head /etc/shadow",
        "less /etc/shadow",
        "awk 1 /etc/shadow",
        "cp /etc/shadow .",
        "tail /etc/shadow",
        "nl /etc/shadow",
    ):
        scene.act("bash", {"command": c}, f"{c.split()[0]}: /etc/shadow: Permission denied")


@FAMILIES.loop_at("ping_pong", at=3)
def _pingpong_paraphrase(scene: Scene, rng: random.Random) -> None:
    m = [
        "This needs the billing team.",
        "Customer problem is technical, please handle.",
        "It is an invoice matter; billing should look.",
        "The login fails, so support must fix it.",
        "Refund question, not technical.",
        "Not a refund; it is an outage.",
        "Please, billing.",
        "Please, support.",
    ]
    for i in range(8):
        scene.act(
            "transfer_to_" + ("billing" if i % 2 == 0 else "support"),
            {"reason": m[i]},
            "ok",
            step="support" if i % 2 == 0 else "billing",
            role="support" if i % 2 == 0 else "billing",
        )


@FAMILIES.loop_at("identical", at=2)
def _three_agents_bad_db(scene: Scene, rng: random.Random) -> None:
    for i in range(6):
        scene.act(
            "sql", {"q": "select * from orders"}, error='relation "orders" does not exist', step=f"s{i}", role="analyst"
        )


@FAMILIES.loop_at("identical", at=3)
def _no_new_mail_checks(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act("check_inbox", {}, f"No new messages (checked {10 + i}:15:0{i})")


@FAMILIES.loop_at("identical", at=3)
def _create_ticket_dupes(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        scene.act("create_ticket", {"title": "Login broken"}, f"Ticket #{400 + i} created")


@FAMILIES.loop_at("stuck_state", at=3)
def _empty_updates_state(scene: Scene, rng: random.Random) -> None:
    for i in range(9):
        scene.act("update_plan", {"step": i}, "Plan unchanged: 3 open items")


@FAMILIES.loop_at("stuck_state", at=4)
def _tests_same_different_cmds(scene: Scene, rng: random.Random) -> None:
    for c in (
        "pytest",
        "pytest -q",
        "python -m pytest",
        "pytest -x",
        "pytest tests",
        "pytest -v",
        "make test",
        "pytest -rA",
    ):
        scene.act("bash", {"command": c}, error="ImportError while loading conftest: No module named 'app'")


@FAMILIES.loop_at("alternating", at=5)
def _plan_act_verify(scene: Scene, rng: random.Random) -> None:
    for _ in range(5):
        scene.act("read_file", {"path": "todo.md"}, "- [ ] deploy")
        scene.act("deploy", {"env": "prod"}, error="Deploy locked by CI")
        scene.act("get_lock", {"env": "prod"}, '{"locked": true}')


@FAMILIES.loop_at("identical", at=2)
def _none_result(scene: Scene, rng: random.Random) -> None:
    for _ in range(7):
        scene.act("lookup", {"key": "order:77"}, "null")


@FAMILIES.loop_at("alternating", at=3)
def _login_loop(scene: Scene, rng: random.Random) -> None:
    for _ in range(5):
        scene.act("fill", {"f": "#pw", "v": "secret"}, "Filled")
        scene.act("click", {"f": "#login"}, "Invalid credentials")


@FAMILIES.loop_at("identical", at=2)
def _compile_same_err_lines(scene: Scene, rng: random.Random) -> None:
    for _ in range(7):
        scene.act(
            "bash",
            {"command": "gcc main.c"},
            error=f"/tmp/cc{words(rng, 1)[:4]}.o: undefined reference to `foo'\n"
            "collect2: error: ld returned 1 exit status",
        )


@FAMILIES.loop_at("identical", at=2)
def _oom(scene: Scene, rng: random.Random) -> None:
    for _ in range(7):
        scene.act(
            "train",
            {"batch": 32},
            error=f"CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; {rng.randint(100, 900)} MiB free)",
        )


@FAMILIES.loop_at("near_identical", at=3)
def _oom_turn(scene: Scene, rng: random.Random) -> None:
    for b in (32, 31, 30, 29, 28, 27, 26, 25):
        scene.act("train", {"batch": b}, error="CUDA out of memory. Tried to allocate 2.00 GiB")


@FAMILIES.loop_at("alternating", at=5)
def _abc_noise(scene: Scene, rng: random.Random) -> None:
    for i in range(4):
        scene.act("status", {}, f"[{10 + i}:00:0{i}] idle")
        scene.act("start", {"job": "x"}, error=f"job x rejected (ref {words(rng, 1)[:3]}{i}{i + 3}f)")
        scene.act("logs", {"job": "x"}, "no logs")


@FAMILIES.loop_at("alternating", at=3)
def _install_loop(scene: Scene, rng: random.Random) -> None:
    for _ in range(5):
        scene.act("bash", {"command": "pip install foo==9"}, error="ERROR: No matching distribution found for foo==9")
        scene.act("bash", {"command": "pip index versions foo"}, "foo (2.1)")


@FAMILIES.loop_at("identical", at=2)
def _wrong_tool_args(scene: Scene, rng: random.Random) -> None:
    for _ in range(6):
        scene.act("read_file", {}, error="Field required: path")


@FAMILIES.loop_at("near_identical", at=2)
def _wrong_tool_args_vary(scene: Scene, rng: random.Random) -> None:
    for k in ("file", "filename", "file_path", "filepath", "name", "target", "p"):
        scene.act("read_file", {k: "a.py"}, error="Field required: path")


@FAMILIES.loop_at("ping_pong", at=3)
def _delegating_back(scene: Scene, rng: random.Random) -> None:
    for i in range(8):
        a, b = ("planner", "worker") if i % 2 == 0 else ("worker", "planner")
        scene.act(
            "delegate",
            {"agent": b, "task": "Summarise the report" if i % 2 == 0 else "Clarify what to summarise"},
            "delegated",
            step=f"x{i}",
            role=a,
        )


@FAMILIES.loop_at("ping_pong", at=7)
def _four_ring_handoffs(scene: Scene, rng: random.Random) -> None:
    r = ["a1", "b1", "c1", "d1"]
    for i in range(14):
        scene.act("hand_off", {"to": r[(i + 1) % 4], "why": "yours"}, "ok", step=f"x{i}", role=r[i % 4])


@FAMILIES.loop_at("identical", at=2)
def _search_same_empty(scene: Scene, rng: random.Random) -> None:
    for _ in range(7):
        scene.act("search", {"query": "foo bar"}, f'{{"results":[],"took":{rng.randint(1, 99)}}}')


@FAMILIES.loop_at("alternating", at=4)
def _list_dirs_again(scene: Scene, rng: random.Random) -> None:
    for _ in range(4):
        for d in ("src", "lib", "docs"):
            scene.act("ls", {"p": d}, f"{d}/a {d}/b")


@FAMILIES.loop_at("near_identical", at=2)
def _query_limit(scene: Scene, rng: random.Random) -> None:
    for i in range(7):
        scene.act("logs", {"service": "api", "lines": 50 * (i + 1)}, "(no entries)")


@FAMILIES.loop_at("near_identical", at=2)
def _rephrase_q(scene: Scene, rng: random.Random) -> None:
    for q in (
        "What is the refund policy?",
        "what is the refund policy",
        "What's the refund policy?",
        "refund policy?",
        "What is the refund policy for orders?",
        "Refund policy",
        "what is refund policy",
    ):
        scene.act("ask_docs", {"q": q}, "I could not find relevant information.")


@FAMILIES.loop_at("alternating", at=3)
def _toggles(scene: Scene, rng: random.Random) -> None:
    for i in range(9):
        scene.act("set_flag", {"name": "beta", "value": i % 2 == 0}, "ok")


@FAMILIES.loop_at("stuck_state", at=3)
def _stuck_form(scene: Scene, rng: random.Random) -> None:
    for f in ("#a", "#b", "#c", "#d", "#e", "#f", "#g", "#h", "#i"):
        scene.act("click", {"sel": f}, error=f"Element {f} is not visible")


@FAMILIES.loop_at("stuck_state", at=3)
def _db_locked_all(scene: Scene, rng: random.Random) -> None:
    for _ in range(12):
        scene.act(
            rng.choice(("insert", "update", "delete", "select")), {"t": words(rng, 1)}, error="database is locked"
        )


@FAMILIES.loop_at("identical", at=2)
def _empty_string_err(scene: Scene, rng: random.Random) -> None:
    for _ in range(6):
        scene.act("run", {"x": 1}, error="")


@FAMILIES.loop_at("identical", at=3)
def _poll_zero(scene: Scene, rng: random.Random) -> None:
    for _ in range(8):
        scene.act("count_done", {"batch": 7}, "0 of 120 done")


@FAMILIES.loop_at("identical", at=6)
def _mailbox_sleep(scene: Scene, rng: random.Random) -> None:
    for _ in range(8):
        scene.act("inbox", {"unread": True}, "[]")
        scene.act("sleep", {"seconds": 30}, "Slept 30 seconds")


@FAMILIES.loop_at("identical", at=2)
def _three_steps_fail(scene: Scene, rng: random.Random) -> None:
    for i in range(6):
        scene.act("deploy", {"env": "prod"}, error="Approval required", step=f"try{i}", role="deployer")
