"""What we add to Flower: a page with the tasks of one run, and the way from a task to its run and back.

Everything here is behind Flower's password. Names and arguments come from messages, which anybody with Redis can forge:
they are escaped, and no link is made of what is not a run's id.
"""

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import prometheus_client
from flower.views import BaseHandler
from flower.views.tasks import TasksDataTable, TaskView
from tornado import web
from tornado.template import Template

# Newest first; a run of thousands of steps has a page of its own that shows them all.
MOST_TASKS = 500
# Where Flower's page of a task has its buttons.
_BUTTONS = b'<div class="detail-actions">'

_RUN_PAGE = """{% extends "base.html" %}
{% block title %}Run {{ run_id[-8:] }} · Flower{% end %}
{% block navbar %}{% module Template("navbar.html", active_tab="tasks") %}{% end %}
{% block container %}
<div class="detail-page page-section">
  <header class="detail-page-header">
    <p class="page-eyebrow">Run {{ run_id }}</p>
    <div class="detail-actions">
      {% if page_url %}<a class="btn btn-primary" id="run-page" href="{{ page_url }}">Graph, money, journal</a>{% end %}
    </div>
  </header>
  {% if not page_url %}
  <p><code>chargehand status {{ run_id[-8:] }}</code> shows its graph, money and journal.</p>{% end %}
  {% if not tasks %}<p>Flower has no task of this run in memory; what it forgets, the run still knows.</p>{% else %}
  <table class="table" id="run-tasks">
    <thead><tr><th>Task</th><th>Name</th><th>State</th><th>Step</th><th>Worker</th></tr></thead>
    <tbody>{% for task in tasks %}
      <tr><td><a href="{{ prefix }}/task/{{ url_escape(task.uuid) }}">{{ task.uuid[:8] }}</a></td>
        <td>{{ task.name }}</td>
        <td>{{ task.state }}</td><td>{{ task.step }}</td><td>{{ task.worker }}</td></tr>{% end %}
    </tbody>
  </table>{% end %}
</div>
{% end %}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunTask:
    """One task of a run as Flower knows it."""

    uuid: str
    name: str
    state: str
    step: str
    worker: str


class RunPage(BaseHandler):
    """`/runs/<id>`: what Flower knows of the run."""

    def initialize(self, pages_url: str) -> None:
        """`pages_url`: where our own pages are; empty: nowhere."""
        self.pages_url = pages_url

    @web.authenticated
    def get(self, run_id: str) -> None:
        """The page, or 404 for what is not an id."""
        run = run_in({"run_id": run_id})
        if run is None:
            raise web.HTTPError(404, "This is no id of a run; give the whole id.")
        page_url = f"{self.pages_url.rstrip('/')}/runs/{run}" if self.pages_url else ""
        prefix = _prefix(self)
        self.render("run.html", run_id=run, tasks=self._tasks(run), page_url=page_url, prefix=prefix)  # type: ignore[no-untyped-call]

    def render_string(self, template_name: str, **kwargs: Any) -> bytes:
        """Our template among Flower's own."""
        if template_name != "run.html":
            return bytes(super().render_string(template_name, **kwargs))
        loader = self.create_template_loader(str(self.get_template_path()))
        template = Template(_RUN_PAGE, name=template_name, loader=loader)
        return template.generate(**{**self.get_template_namespace(), **kwargs})

    def _tasks(self, run_id: str) -> list[RunTask]:
        found = []
        for uuid, task in _flower(self).events.state.tasks_by_time():
            named = shown(task.kwargs)
            if run_in(named) == run_id:
                worker = task.worker.hostname if task.worker else ""
                # A message is about a step, about some steps, or a bell of the whole run.
                step = str(named.get("step_id") or (f"{named['steps']} steps" if "steps" in named else ""))
                found.append(RunTask(uuid=uuid, name=task.name or "", state=task.state, step=step, worker=worker))
            if len(found) == MOST_TASKS:
                break
        return found


class BriefTasks(TasksDataTable):
    """The rows of Flower's list: of what a message names, as much as fits into its column.

    Two whole ids do not: of the step nothing was seen. Whole ones are on the page of the task, and are searched for.
    """

    def format_task(self, task: tuple[str, Any]) -> tuple[str, Any]:
        """One task and its id, the task as it is shown."""
        uuid, known = super().format_task(task)  # type: ignore[no-untyped-call]
        named = shown(known.kwargs)
        if run_in(named) is not None:
            known = copy.copy(known)
            known.kwargs = brief(named)
        return uuid, known


class LinkedTask(TaskView):
    """Flower's page of a task, with a link to the run that it belongs to."""

    def render_string(self, template_name: str, **kwargs: Any) -> bytes:
        """Flower's own page; the link is put among its buttons."""
        page: bytes = super().render_string(template_name, **kwargs)
        run = run_in(shown(getattr(kwargs.get("task"), "kwargs", None)))
        if run is None:
            return page
        prefix = _prefix(self)
        link = f'<a class="btn btn-primary" id="task-run" href="{prefix}/runs/{run}">Run</a>'
        return page.replace(_BUTTONS, _BUTTONS + link.encode(), 1)


class GuardedMetrics(BaseHandler):
    """Flower's `/metrics`, for those who know the password: it names workers and tasks."""

    @web.authenticated
    def get(self) -> None:
        """The text that Prometheus reads."""
        _flower(self).purge_offline_worker_metrics()
        self.set_header("Content-Type", "text/plain")
        self.write(prometheus_client.generate_latest())


def _flower(handler: BaseHandler) -> Any:
    # Tornado's type knows nothing of what Flower adds.
    return handler.application


def _prefix(handler: BaseHandler) -> str:
    prefix = _flower(handler).options.url_prefix
    return f"/{prefix.strip('/')}" if prefix else ""


def shown(kwargs: object) -> Mapping[str, Any]:
    """What a task's `kwargs` name, as `broker` wrote them for people; empty for anything else."""
    try:
        # Literals only: nothing of it is run.
        value = ast.literal_eval(kwargs) if isinstance(kwargs, str) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def brief(named: Mapping[str, Any]) -> str:
    """The run as our commands and pages shorten its id, and its step or steps."""
    told = f"run {str(named['run_id'])[-8:]}"
    if "step_id" in named:
        return f"{told} step {str(named['step_id'])[:8]}"
    return f"{told} {named['steps']} steps" if "steps" in named else told


def run_in(named: Mapping[str, Any]) -> str | None:
    """The id of the run that is named, if it is one."""
    try:
        return str(UUID(str(named.get("run_id"))))
    except ValueError:
        return None
