"""The pages in a real browser, beside real workers: live, with two people at once, and with text that wants to be code.

Needs Debian's chromium. Screenshots go to `build/screenshots`.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from chaos.machine import Fleet, Machine, until
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from sqlalchemy import text

from chargehand.orchestrator import keys
from chargehand.orchestrator.api.app import create_app
from chargehand.orchestrator.api.server import Server
from chargehand.orchestrator.cli.demo import GOAL
from chargehand.orchestrator.cli.demo_workspace import example_folder, make_repository
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.plan import Plan, Step

pytestmark = [pytest.mark.system, pytest.mark.browser]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
RUN_MS = 150_000
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FIX = "parcel_desk/timeline.py:6: return events[-count:][::-1]"
PROBLEMS = ("error", "warning")


@dataclass(frozen=True)
class Site:
    """The API and its pages, served over HTTP."""

    url: str
    key: str


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(call_seconds=0.0)


@pytest.fixture(scope="module")
def site(laptop: Machine) -> Iterator[Site]:
    endpoints = laptop.laptop.services.endpoints
    settings = laptop.settings.model_copy(update={"api_local_workspaces": True})
    services = Services(settings, database_url=endpoints.database_url, redis_url=endpoints.redis_url, pool_size=10)
    with laptop.client.session() as session:
        key = str(keys.add(session, laptop.client.tenant, "browser", ("admin",)).secret)
    app = create_app(settings, services)
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", server_header=False), app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, 60, "the API serves")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Site(url=f"http://127.0.0.1:{port}", key=key)
    server.should_exit = True
    app.state.chargehand.live.close_soon()
    thread.join(20)
    services.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path is not None, "These tests need a browser; on Debian: apt-get install chromium."
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Person:
    """Somebody with a browser of their own, in which nothing may go wrong."""

    def __init__(self, chromium: Browser, site: Site, **options: object) -> None:
        self.context: BrowserContext = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.site, self.problems = site, list[str]()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type in PROBLEMS else None)

    def sign_in(self, path: str = "/runs") -> Page:
        self.page.goto(f"{self.site.url}{path}")
        self.page.get_by_label("Key of the API").fill(self.site.key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(f"**{path}")
        return self.page

    def keep(self, name: str) -> None:
        """A screenshot for people to look at."""
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def ada(chromium: Browser, site: Site) -> Iterator[Person]:
    yield from _person(chromium, site)


@pytest.fixture
def bob(chromium: Browser, site: Site) -> Iterator[Person]:
    yield from _person(chromium, site, color_scheme="dark")


def _person(chromium: Browser, site: Site, **options: object) -> Iterator[Person]:
    person = Person(chromium, site, **options)
    yield person
    person.context.close()
    assert person.problems == []


def test_a_goal_is_submitted_watched_live_answered_and_reported(
    ada: Person, bob: Person, home: Path, laptop: Machine
) -> None:
    repository = make_repository(example_folder(), home / "parcel_desk")
    page = ada.sign_in()
    page.get_by_text("New run").click()
    page.get_by_label("Goal", exact=True).fill(GOAL)
    page.get_by_label("Workspace").fill(str(repository))
    ada.keep("new_run")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}$"))

    # It lives: nobody reloads, and steps, graph and events follow.
    page.evaluate("window.isTheSamePage = true")
    expect(page.locator("#events")).to_contain_text("step.claimed", timeout=RUN_MS)
    expect(page.locator(".graph")).to_contain_text("succeeded", timeout=RUN_MS)
    expect(page.locator("[data-part=head]")).to_contain_text("Step fix asks", timeout=RUN_MS)
    ada.keep("run_live")

    # Two people look at the same question; the second is told that the first was first.
    page.get_by_role("link", name="Answer", exact=True).click()
    ada.keep("inbox")
    theirs = bob.sign_in("/inbox")
    expect(theirs.locator(".asks")).to_contain_text("no rule knows how to repair it")
    theirs.get_by_label("The repair").fill("parcel_desk/timeline.py:6: return None")
    page.get_by_label("The repair").fill(FIX)
    page.get_by_role("button", name="answer").click()
    expect(page.get_by_role("status")).to_contain_text("Your answer was taken")
    theirs.get_by_role("button", name="answer").click()
    expect(theirs.get_by_role("status")).to_contain_text("Somebody else was first")
    bob.keep("inbox_late_dark")

    # Back in the middle, then a reload: the run goes on to its report.
    page.go_back()
    page.go_back()
    page.reload()
    expect(page.locator("[data-part=head] .state")).to_have_text("succeeded", timeout=RUN_MS)
    expect(page.locator(".report h1").first).to_be_visible()
    expect(page.locator(".patch .added").first).to_be_visible()
    expect(page.locator(".timeline rect.model").first).to_be_attached()
    ada.keep("run")
    [run] = laptop.client.runs(1)
    assert (run.status, run.goal) == ("succeeded", GOAL)
    page.get_by_role("link", name="where it went").click()
    expect(page.get_by_role("heading", name="By role")).to_be_visible()
    ada.keep("money")
    page.goto(f"{ada.site.url}/runs/{run.run_id}/journal?verify=true")
    expect(page.get_by_text("Chain OK")).to_be_visible()
    ada.keep("journal")
    page.goto(f"{ada.site.url}/memory?q=How+is+input+validated&scope=run:{run.run_id}")
    expect(page.locator("mark").first).to_be_visible()
    ada.keep("memory")
    page.goto(f"{ada.site.url}/fleet")
    expect(page.get_by_text("16 slots").first).to_be_visible()
    ada.keep("fleet")


def test_text_that_wants_to_be_code_stays_text(ada: Person, laptop: Machine) -> None:
    plan = Plan(steps=(Step(key="sure", kind="gate", instruction=EVIL, title=EVIL),))
    run = laptop.client.submit(EVIL, plan=plan)
    run.tell(EVIL)
    page = ada.sign_in(f"/runs/{run.run_id}")
    expect(page.locator("[data-part=head]")).to_contain_text("<script>")
    expect(page.locator("#events")).to_contain_text("onerror")
    # What comes live is put in by our script.
    run.tell(f"again {EVIL}")
    expect(page.locator("#events")).to_contain_text("again <script>")
    for path in ("/runs", "/inbox", f"/runs/{run.run_id}/journal"):
        page.goto(f"{ada.site.url}{path}")
        expect(page.get_by_text("<script>").first).to_be_attached()
        assert page.title() != "owned"
        assert page.locator("main img, main script").count() == 0
    run.cancel()


def test_events_are_there_within_a_moment_and_none_is_lost_or_doubled_by_a_cut(ada: Person, laptop: Machine) -> None:
    run = laptop.client.submit(plan=Plan(steps=(Step(key="sure", kind="gate", instruction="Sure?"),)))
    page = ada.sign_in(f"/runs/{run.run_id}")
    expect(page.locator("#events")).to_contain_text("step.waiting")
    for number in range(10):
        if number == 5:
            # The network goes away, and comes back.
            ada.context.set_offline(True)
        run.tell(f"message {number}.")
        if number == 6:
            ada.context.set_offline(False)
    expect(page.locator("#events")).to_contain_text("message 9.")
    told = re.findall(r"message \d\.", page.locator("#events").inner_text())
    assert told == [f"message {number}." for number in range(10)]
    run.cancel()
    expect(page.locator("[data-part=head] .state")).to_have_text("cancelled")
    # An answer that the browser could not fetch is no problem of the page.
    ada.problems[:] = [one for one in ada.problems if "ERR_INTERNET_DISCONNECTED" not in one]


def test_pages_can_be_used_by_keyboard_and_on_a_phone(chromium: Browser, site: Site, laptop: Machine) -> None:
    run = laptop.client.submit(plan=Plan(steps=(Step(key="sure", kind="gate", instruction="Go on by keyboard?"),)))
    until(lambda: laptop.client.escalations(run.run_id), 60, "the gate asks")
    person = Person(chromium, site)
    person.page.set_viewport_size({"width": 390, "height": 800})
    page = person.page
    page.goto(f"{site.url}/inbox?run={run.run_id}")
    page.keyboard.type(site.key)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Go on by keyboard?")).to_be_visible()
    person.keep("phone_inbox")
    for path in ("/runs", "/inbox", "/memory", "/fleet", f"/runs/{run.run_id}"):
        page.goto(f"{site.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    person.keep("phone_run")
    for path in ("/runs", "/fleet"):
        page.goto(f"{site.url}{path}")
        assert page.locator(".cards").count() > 0
        # Rows are cards: nothing of them has to be scrolled into sight.
        assert page.evaluate(
            "[...document.querySelectorAll('.scroll')].every(box => box.scrollWidth <= box.clientWidth)"
        ), path
        person.keep(f"phone_{path.strip('/')}")
    page.goto(f"{site.url}/inbox?run={run.run_id}")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "approve":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Your answer was taken")
    run.wait(30)
    person.context.close()
    assert person.problems == []


def test_a_run_of_two_hundred_steps_and_ten_thousand_rows_is_there_soon(ada: Person, laptop: Machine) -> None:
    width = 24
    steps = [Step(key=f"s{n}", kind="gate", instruction="?", after=(f"s{n - width}",) if n >= width else ())
             for n in range(200)]  # fmt: skip
    run = laptop.client.submit(plan=Plan(steps=tuple(steps)))
    with laptop.client.session() as session:
        note = json.dumps({"kind": "run.told", "message": "x" * 300})
        session.execute(text("SELECT 1 FROM runs WHERE id = :run FOR UPDATE"), {"run": run.run_id})
        first = session.scalar(text("SELECT head_seq FROM runs WHERE id = :run"), {"run": run.run_id})
        session.execute(
            text(
                "INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body) "
                "SELECT tenant, id, CAST(:nil AS uuid), :first + n, 'run.told', 1, 0, :note "
                "FROM runs, generate_series(1, 10000) n WHERE id = :run"
            ),
            {"run": run.run_id, "nil": "00000000-0000-0000-0000-000000000000", "first": first, "note": note},
        )
        session.execute(
            text("UPDATE runs SET head_seq = :seq WHERE id = :run"), {"seq": first + 10_000, "run": run.run_id}
        )
    page = ada.sign_in(f"/runs/{run.run_id}")
    took, small = [], []
    for _ in range(3):
        for path, times in ((f"/runs/{run.run_id}", took), ("/inbox", small)):
            began = time.monotonic()
            page.goto(f"{ada.site.url}{path}", wait_until="load")
            times.append(time.monotonic() - began)
    page.goto(f"{ada.site.url}/runs/{run.run_id}", wait_until="load")
    assert page.locator(".graph .shape").count() >= 200
    ada.keep("two_hundred_steps")
    print(json.dumps({"figure": "run_page_seconds", "value": round(min(took), 3), "target": 1.0, "better": "lower"}))
    # Beside a whole fleet on two cores, which may be loaded: then a small page is slow, too. What a quiet one gives
    # is in docs/benchmarks.md.
    assert min(took) < max(3.0, 10 * min(small)), (took, small)
    assert min(small) < 3.0, small
    run.cancel()
