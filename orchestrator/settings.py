"""What can be set, from `CHARGEHAND_*` variables, with the reason of each default."""

import os
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

# The tenant of a single-tenant installation.
DEFAULT_TENANT = UUID("00000000-0000-7000-8000-000000000001")
# Above this a plan is a mistake of its author, not work (and `advance` reads it whole).
MAX_STEPS = 2_000
# More than twenty turns without an answer is a loop, not diligence.
MAX_TURNS_CEILING = 20


def default_home() -> Path:
    """Where `chargehand up` keeps its databases, artifacts and process files."""
    return Path.home() / ".local" / "share" / "chargehand"


class Endpoint(BaseModel):
    """A server of models beside the usual one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern=r"^https?://")
    """Without `/v1` at its end."""
    profile: str = ""
    """What it understands, see docs/models.md; empty: by its port."""
    key_variable: str = ""
    """The environment variable that holds its key; empty: it wants none."""


class Settings(BaseSettings):
    """Settings of one process; every field is a `CHARGEHAND_…` variable."""

    model_config = SettingsConfigDict(env_prefix="CHARGEHAND_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=default_home)
    """Data of the embedded services, artifacts and process files."""
    database_url: str = ""
    """`postgresql://…`; empty: the laptop's embedded server, if it is up."""
    redis_url: str = ""
    """`redis://…` or `unix://…`; empty: the laptop's embedded server, if it is up."""
    tenant: UUID = DEFAULT_TENANT
    """The tenant this process submits for."""
    artifacts_dir: Path | None = None
    """A folder that every pool can reach; default `<home>/artifacts`."""
    roles_dir: Path | None = None
    """Folder of `*.md` roles; default: the roles of this installation."""
    roles_path: str = ""
    """Folders of your own roles, separated by `:`; one of theirs takes the place of ours of the same name."""
    modules: tuple[str, ...] = ()
    """Modules that workers import at start: a user's own scripts and tools, as JSON `["shop.tools"]`."""
    lock_urls: tuple[str, ...] = ()
    """An odd number of independent Redis nodes for the locks of leases, as JSON; empty: `redis_url` alone."""
    key_prefix: str = "chargehand"
    """Prefix of every Redis key and queue name."""

    lease_seconds: float = 15.0
    """How long a step survives its worker's silence; a heartbeat renews at a third of it."""
    ring_age_seconds: float = 1.0
    """A ring older than this was lost: the watch loop advances its run."""
    watch_interval_seconds: float = 0.5
    """Pause between two rounds of the watch loop."""
    visibility_timeout_seconds: float = 15.0
    """Celery redelivers an unacknowledged message after this; a heartbeat keeps those of live workers."""
    unclaimed_seconds: float = 3.0
    """A queued step that nobody claims is emitted again after this, doubling each time."""
    connect_timeout_seconds: float = 3.0
    """Postgres or Redis that does not answer within this is down."""

    question_seconds: float | None = Field(default=None, gt=0)
    """How long agents' and scripts' questions wait for a person, where neither step nor role says; unset: for ever."""
    question_then: Literal["fail", "skip", "retry"] = "fail"
    """What such a question comes to when nobody answers; what it does not offer becomes `fail`."""

    webhook_private_addresses: bool = True
    """Whether webhooks may lead to loopback and private networks; false where tenants do not trust each other."""

    max_turns: int = Field(default=15, ge=1, le=MAX_TURNS_CEILING)
    """Default number of model calls of one agent step."""
    window_tokens: int = Field(default=200_000, ge=1_000)
    """Window of the smallest model that agents may be given; at three quarters big old tool outputs make room."""
    max_crashes: int = 2
    """Take-overs without progress before a step runs alone, and again before it goes to a human."""
    model_timeout_seconds: float = Field(default=600.0, gt=0)
    """A model call that takes longer is given up and charged as reserved; the lease is renewed meanwhile."""
    replans: int = Field(default=3, ge=0, le=10)
    """How often the planner of a goal may be asked for another plan; a plan of your own asks for it when submitted."""
    ask_seconds: float = Field(default=60.0, gt=0)
    """How long what an agent asks with `ask_person` waits for an answer, before it goes on without one."""
    default_budget_usd: str = "0.50"
    """Cap of a run that names none."""

    consolidate_budget_usd: str = ""
    """What may be spent after each run to keep what it has taught in memory, as 0.02; empty: nothing is kept."""

    small_model: str = "claude-haiku-5-5"
    """The model of the tier `small`; `ENDPOINT/NAME` is one of another server's."""
    medium_model: str = "claude-sonnet-5-5"
    """The model of the tier `medium`."""
    large_model: str = "claude-opus-5-5"
    """The model of the tier `large`."""
    response_cache_seconds: float = Field(default=3_600.0, ge=0)
    """How long the answer of a branch's chooser is given again to the very same request; 0: never."""
    endpoints: dict[str, Endpoint] = {}
    """More servers of models, as JSON `{"local": {"url": "http://127.0.0.1:11434"}}`: `local/qwen3` is one of its."""
    role_models: dict[str, str] = {}
    """A tier or a model for a role, as JSON `{"writer": "small", "triager": "local/qwen3"}`."""
    cache_min_tokens: dict[str, int] = {}
    """Shortest prompt prefix that a model caches, as JSON `{"claude-haiku-5-5": 2048}`; a shorter one is not warmed."""

    celery_tasks_broker_url: str = ""
    """Broker of your own Celery app, for steps of kind `celery_task`; empty: our Redis."""
    celery_tasks_brokers: dict[str, str] = {}
    """More of them, by the name that plans use, as JSON `{"legacy": "amqp://…"}`."""
    celery_tasks_transport_options: dict[str, dict[str, JsonValue]] = {}
    """What your app has as `broker_transport_options`, by that name, as JSON `{"default": {…}}`."""

    metrics_address: str = ""
    """Where a worker or supervisor serves what it counts, `0.0.0.0:9464`; empty: nowhere."""

    log_format: Literal["text", "json"] = "text"
    """How workers and supervisors write their logs."""
    traces: Literal["", "otlp"] = ""
    """`otlp`: export OpenTelemetry spans, told where to by `OTEL_EXPORTER_OTLP_ENDPOINT`; empty: nothing is traced."""

    pages_url: str = ""
    """Where people reach our own pages, `https://agents.example.org`; Flower links there. Empty: nowhere."""
    flower_url: str = ""
    """Where people reach Flower; `FLOWER_URL/runs/RUN` shows a run's tasks. Empty: nobody is sent there."""
    flower_user: str = "chargehand"
    """Name to sign in to Flower with."""
    flower_password: SecretStr = SecretStr("")
    """Password of Flower; empty: `chargehand up` makes one and prints where it is kept."""
    api_cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the HTTP API from a browser, as JSON `["https://desk.example"]`; none by default."""
    api_trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.1"), IPv6Network("::1"))
    """Addresses or networks of the proxies before the API, as JSON `["10.0.0.7", "172.16.0.0/12"]`: of these alone it
    believes `X-Forwarded-Proto` and `X-Forwarded-For`. `[]`: of nobody; by default of this machine's."""
    api_requests_per_second: float = Field(default=100.0, gt=0)
    """How often each key may ask, with two seconds' worth at once; more is answered by 429."""
    api_body_bytes: int = Field(default=4_000_000, gt=0)
    """A request's body that is longer is answered by 413: a plan of 2,000 steps is a few megabytes."""
    api_stream_seconds: float = Field(default=3_600.0, gt=0)
    """How long a stream of events lasts before its reader resumes: proxies and deploys end it sooner or later."""
    api_metrics: bool = False
    """Whether the API serves `/metrics`, of all tenants, to whoever reaches it without a key."""
    api_local_workspaces: bool = False
    """Whether a request may name a path of the server's machine as its workspace; true on a laptop."""
    audit_key: SecretStr = SecretStr("")
    """HMAC key of the tenant chain's head; empty: a key file under `home`."""

    @property
    def role_folders(self) -> tuple[Path, ...]:
        """Where roles are looked for, first come first served; files, not code: nobody here imports a worker."""
        own = tuple(Path(part).expanduser() for part in self.roles_path.split(os.pathsep) if part.strip())
        return (*own, self.roles_dir or Path(__file__).parents[1] / "workers" / "roles")

    @property
    def artifacts(self) -> Path:
        """The folder of blobs and bare repositories."""
        return self.artifacts_dir or self.home / "artifacts"


@cache
def load_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
