"""Configuration of Flower, for `celery -A chargehand.orchestrator.broker flower --conf=…/flowerconfig.py`.

Flower executes this file and takes every global that has the name of an option. Without `basic_auth` its pages would be
open to every user of the machine. `/healthcheck` stays open and says `OK`, nothing else.
"""

from flower.urls import handlers
from tornado.web import url

from chargehand.orchestrator.laptop.flower_pages import BriefTasks, GuardedMetrics, LinkedTask, RunPage
from chargehand.orchestrator.laptop.flower_password import flower_password
from chargehand.orchestrator.settings import load_settings

_settings = load_settings()

address = "127.0.0.1"
basic_auth = [f"{_settings.flower_user}:{flower_password(_settings)}"]
# Who may look may not also send tasks; cancelling and retrying are commands of ours, which journal them.
read_only = True
# Remote control is off (a forged message could stop a worker), so an inspection only costs its time-out.
inspect_timeout = 200.0
max_tasks = 10_000
tasks_columns = "name,uuid,state,kwargs,received,started,runtime,worker"

# The first that fits answers. Flower's `/metrics` asks for no password; its page of a task keeps its name for links.
handlers[:0] = [
    url(r"/metrics", GuardedMetrics),
    url(r"/runs/([0-9a-fA-F-]+)", RunPage, {"pages_url": _settings.pages_url}, name="run"),
    url(r"/tasks/datatable", BriefTasks),
    url(r"/task/(.+)", LinkedTask, name="linked-task"),
]
