"""What the page of a run and of its journal show, read in one look each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from markupsafe import Markup
from sqlalchemy import bindparam, func, select, text
from sqlalchemy.orm import Session

from chargehand.memory.artifacts import ArtifactMissing
from chargehand.orchestrator import feed, verification, views
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.drawing.figure import figure_of_run
from chargehand.orchestrator.drawing.svg import draw_svg
from chargehand.orchestrator.explaining import explain
from chargehand.orchestrator.facts import parse_fact
from chargehand.orchestrator.gist import gist
from chargehand.orchestrator.pages import timeline
from chargehand.orchestrator.pages.changes import PatchLine, lines_of
from chargehand.orchestrator.pages.rendering import short
from chargehand.orchestrator.pages.timeline import Mark, Timeline, timeline_of
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.verification import Verification
from chargehand.orchestrator.views import Escalation, RunView, StepView

REPORT, PATCH = "report.md", "changes.patch"
# Of a run's facts; the journal has them all.
NEWEST_EVENTS = 100
# Neither at work nor behind another step.
STOPPED = frozenset({"ready", "queued", "waiting"})

# The body of a fact may hold a whole answer: of these no more is read than a name.
_MARKS = text("""
SELECT s.key, j.kind, j.at,
       CASE WHEN j.kind IN ('tool.started', 'tool.finished') THEN j.body::json ->> 'tool'
            WHEN j.kind = 'model.requested' THEN j.body::json ->> 'model' ELSE '' END
FROM journal j JOIN steps s ON s.id = j.step AND s.run = j.run
WHERE j.run = :run AND j.kind IN :kinds ORDER BY j.at, j.step, j.seq
""").bindparams(bindparam("kinds", expanding=True))
_NEWEST = text("""
SELECT s.key, j.seq, j.at, j.kind, j.schema_version, j.body FROM journal j LEFT JOIN steps s ON s.id = j.step
WHERE j.run = :run ORDER BY j.at DESC, j.step DESC, j.seq DESC LIMIT :most
""")
_ROWS = text("""
SELECT s.key, j.seq, j.at, j.kind, j.epoch, j.body, j.hash FROM journal j LEFT JOIN steps s ON s.id = j.step
WHERE j.run = :run ORDER BY j.at, j.step, j.seq OFFSET :skip LIMIT :most
""")


class Shown:
    """What a template is given."""

    def context(self) -> dict[str, object]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A fact in a line."""

    step: str
    seq: int
    at: datetime
    kind: str
    gist: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPage(Shown):
    """A run."""

    run: RunView
    now: datetime
    has_ended: bool
    steps: Sequence[StepView]
    counts: Mapping[str, int]
    """Steps by their status."""
    waits: Mapping[str, str]
    """Why each live step does not go on, by key."""
    stops: Sequence[tuple[str, str]]
    """Those of them that wait for something else than other steps, or a person."""
    asked: Sequence[Escalation]
    graph: Markup
    timeline: Timeline
    events: Sequence[Told]
    """The newest, oldest first."""
    position: str
    """Of the feed, when this was read."""
    files: Mapping[str, str]
    report: str
    patch: Sequence[PatchLine]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the journal."""

    step: str
    seq: int
    at: datetime
    kind: str
    epoch: int
    body: str | None
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalPage(Shown):
    """Some rows of a journal, and whether all of them verify."""

    run: RunView
    rows: Sequence[Row]
    skip: int
    more: bool
    verified: Verification | None
    """None: nobody wanted to know; it reads the whole journal."""


def at_run(client: Client, run_id: UUID) -> RunPage:
    """The page of a run; raises `NotFound`."""
    with client.session() as session:
        run = views.view_run(session, run_id)
        # Before anything else: what comes while the page is made is told to it afterwards.
        position = str(feed.newest(session, run_id))
        now: datetime = session.scalars(select(func.clock_timestamp())).one()
        steps = views.view_steps(session, run_id)
        has_ended = run.status in RUN_ENDINGS
        graph = views.view_graph(session, run_id)
        figure = figure_of_run(graph.steps, graph.statuses, graph.ways)
        drawn = draw_svg(figure, title=f"Steps of run {short(run_id)}", is_styled=False)
        waits = {} if has_ended else dict(explain(session, run_id, unclaimed_seconds=client.settings.unclaimed_seconds))
        asked = () if has_ended else views.escalations(session, run_id)
        asking = {key for one in asked for key in (one.step_key, *one.attached)}
        shown = RunPage(
            run=run,
            now=now,
            has_ended=has_ended,
            steps=steps,
            counts=_counts(steps),
            waits=waits,
            stops=[
                (one.key, waits[one.key]) for one in steps if one.status in STOPPED and one.key in waits.keys() - asking
            ],
            asked=asked,
            graph=Markup(drawn),
            timeline=_timeline(session, run, now),
            events=_newest_events(session, run_id),
            position=position,
            files={},
            report="",
            patch=(),
        )
        files = views.artifacts(session, run_id)
    return _with_files(shown, client.run(run_id), files)


def _with_files(shown: RunPage, run: RunHandle, files: Mapping[str, str]) -> RunPage:
    report, patch = (_text_of(run, files.get(name)) for name in (REPORT, PATCH))
    given = shown.context() | {"files": files, "report": report, "patch": lines_of(patch)}
    return RunPage(**given)  # type: ignore[arg-type]


def _text_of(run: RunHandle, digest: str | None) -> str:
    if digest is None:
        return ""
    try:
        return run.blob(digest).decode("utf-8", "replace")
    except ArtifactMissing:
        # It is kept on another machine, or was erased.
        return ""


def _counts(steps: Sequence[StepView]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for step in steps:
        counted[step.status] = counted.get(step.status, 0) + 1
    return counted


def _timeline(session: Session, run: RunView, now: datetime) -> Timeline:
    rows = session.execute(_MARKS, {"run": run.run_id, "kinds": list(timeline.KINDS)})
    marks = [Mark(step=key, kind=kind, at=at, what=what or "") for key, kind, at, what in rows]
    return timeline_of(marks, began_at=run.created_at, until=run.finished_at or now)


def _newest_events(session: Session, run_id: UUID) -> list[Told]:
    rows = session.execute(_NEWEST, {"run": run_id, "most": NEWEST_EVENTS}).all()
    return [
        Told(
            step=key or "",
            seq=seq,
            at=at,
            kind=kind,
            gist="(erased)" if body is None else gist(parse_fact(body, schema_version=version)),
        )
        for key, seq, at, kind, version, body in reversed(rows)
    ]


def at_journal(client: Client, run_id: UUID, *, skip: int, most: int, verify: bool) -> JournalPage:
    """Rows of a run's journal by time, and if it is wanted what a check of all of it found; raises `NotFound`."""
    with client.session() as session:
        run = views.view_run(session, run_id)
        rows = session.execute(_ROWS, {"run": run_id, "skip": skip, "most": most + 1}).all()
        return JournalPage(
            run=run,
            rows=[
                Row(step=key or "", seq=seq, at=at, kind=kind, epoch=epoch, body=body, hash=digest.hex())
                for key, seq, at, kind, epoch, body, digest in rows[:most]
            ],
            skip=skip,
            more=len(rows) > most,
            verified=verification.verify_run(session, run_id) if verify else None,
        )
