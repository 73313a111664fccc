"""How late a browser draws what happens in the run that somebody watches, while fifty runs are at work."""

import shutil
from collections.abc import Iterator, Sequence
from uuid import UUID

from playwright.sync_api import Page, sync_playwright

from benchmarks.api import RUNS, Server, followed, serving
from benchmarks.figures import Figure, NotMeasured, percentile
from benchmarks.ground import Ground

# Two facts each, one turn in two seconds.
TURNS_OF_A_RUN = 30
TARGET_DRAWN_P95_MS = 300.0

# From what Postgres wrote down as the time of a fact until its row of the table of events is drawn. Both are clocks of
# one machine.
_WATCH = """() => {
  window.drawn = [];
  new MutationObserver((changes) => {
    for (const change of changes) for (const row of change.addedNodes) requestAnimationFrame(() => {
      const time = row.querySelector("time");
      window.drawn.push(performance.timeOrigin + performance.now() - Date.parse(time.dateTime));
    });
  }).observe(document.getElementById("events"), { childList: true });
}"""


def measure(ground: Ground, *, run_count: int = RUNS, turns: int = TURNS_OF_A_RUN) -> Iterator[Figure]:
    """Debian's Chromium on the page of one of the runs, in front, as a browser draws once a second what is behind.

    Agents write as workers do, with a hint after each commit.
    """
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise NotMeasured("The suite needs a browser; on Debian: apt-get install chromium.")
    with serving(ground) as server, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})

        def watch(run_ids: Sequence[UUID]) -> None:
            _sign_in(page, server, run_ids[0])
            page.get_by_text("step.claimed").wait_for()
            page.evaluate(_WATCH)

        followed(ground, server, run_count=run_count, reader_count=0, turns=turns, beside=watch)
        page.wait_for_function("wanted => window.drawn.length >= wanted", arg=2 * turns)
        drawn: list[float] = page.evaluate("window.drawn")
        chromium.close()
    if len(drawn) != 2 * turns:
        raise NotMeasured(f"The browser was shown {len(drawn)} facts, of {2 * turns}.")
    yield Figure(name="browser_runs_at_work", value=run_count, unit="1", durability="memory")
    for percent, target in ((50, None), (95, TARGET_DRAWN_P95_MS), (99, None)):
        yield Figure(name=f"event_to_browser_p{percent}_ms", value=percentile(drawn, percent), unit="ms", target=target)


def _sign_in(page: Page, server: Server, run_id: UUID) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/runs/{run_id}")
    page.get_by_label("Key of the API").fill(server.secrets[0])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**/runs/{run_id}")
