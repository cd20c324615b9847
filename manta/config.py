"""Settings: read once from `manta.yaml` and the environment, validated, frozen, handed down by section.

The only module that may look at the environment. Precedence: command line, environment, file, defaults.
"""

import functools
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from manta.errors import InvalidConfig
from manta.model_settings import EMBEDDED as EMBEDDED
from manta.model_settings import CacheSettings as CacheSettings
from manta.model_settings import DomainSettings as DomainSettings
from manta.model_settings import EmbedderSettings as EmbedderSettings
from manta.model_settings import LaunchSettings as LaunchSettings
from manta.model_settings import ModelSettings as ModelSettings
from manta.model_settings import Name as Name
from manta.model_settings import PriceSettings as PriceSettings
from manta.model_settings import ReplicaSettings as ReplicaSettings
from manta.model_settings import RouterSettings as RouterSettings
from manta.model_settings import Section as Section
from manta.model_settings import check_fallbacks, check_routers

SETTINGS_FILE = "manta.yaml"
MODELS_FILE = "models.yaml"
"""Beside it: further models by their names, as in its section `models`."""
Origin = Annotated[str, Field(pattern=r"^https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?$")]
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class AgentSettings(Section):
    """A pool of actors that host one agent."""

    use: ImportPath | Literal[""] = ""
    """Import path of the agent class; empty is the built-in of this name."""
    size: int = Field(1, ge=1, le=1000)
    prewarm: bool = True
    """Its actors start with the platform; otherwise with their first task."""
    num_cpus: float = Field(0.1, ge=0)
    num_gpus: float = Field(0, ge=0)
    resources: dict[str, float] = {}
    concurrency: int = Field(4, ge=1)
    """Tasks one actor works on at once."""
    model: str = ""
    strategy: Literal["auto", "pipeline", "agent"] = "auto"
    tools: tuple[str, ...] = ()
    options: dict[str, Any] = {}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    host = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServerSettings(Section):
    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    """Names besides loopback's by which a gateway on loopback is reached through a proxy; `*` is any."""
    port: int = Field(8000, ge=1, le=65535)
    cors_origins: tuple[Origin, ...] = ()
    """Web pages that may use the API from a browser: `https://app.example.com`. None: no page but its own may."""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the gateway."""
        return is_loopback(self.host)


class RaySettings(Section):
    """`address` empty: a Ray of our own on this machine; otherwise the cluster to attach to."""

    address: str = ""
    num_cpus: int | None = None
    num_gpus: int | None = None
    resources: dict[str, float] = {}
    object_store_mb: int = Field(150, ge=75)
    dashboard: bool = True
    """Without it there are no jobs (`manta batch`) and no list of endpoints for Prometheus, and 300 MB are free."""
    dashboard_port: int = Field(8265, ge=0, le=65535)


class LimitSettings(Section):
    """How much a coordinator takes on. What is over `active_runs` queues, what is over `queued_runs` is refused."""

    active_runs: int = Field(1000, ge=1)
    queued_runs: int = Field(20_000, ge=0)
    """Accepted runs that wait for a place; runs that wait for a person do not count."""
    active_runs_per_tenant: int | None = Field(None, ge=1)
    takeovers: int = Field(5, ge=1)
    """A run whose coordinator died so often without any step getting done ends in the state `dead_letter`."""


class CoordinatorSettings(Section):
    """`replicas` over 1 share the runs of one PostgreSQL and take over from each other."""

    replicas: int = Field(1, ge=1, le=32)
    lease_s: float = Field(10, gt=0)
    """How long a coordinator may be silent before others take its runs."""
    num_cpus: float = Field(0.1, ge=0)


class RetentionSettings(Section):
    """What `manta gc` keeps. None keeps for ever."""

    runs_days: float | None = Field(None, gt=0)
    """Finished runs go after so many days, with all that belongs to them."""
    calls_days: float | None = Field(7, gt=0)
    """The requests and responses of a finished run's calls go after so many days; it cannot be replayed then."""
    files_days: float = Field(1, gt=0)
    """Files that no run names are kept so long: an upload comes before its run."""


class WebhookSettings(Section):
    secret_env: str = ""
    """Name of the environment variable with the secret that webhooks are signed with."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that may be called although their addresses are private; `*` is any."""
    attempts: int = Field(8, ge=1)


class SearchSettings(Section):
    engine: Literal["duckduckgo", "searxng"] = "duckduckgo"
    base_url: str = ""


class SandboxSettings(Section):
    backend: Literal["auto", "bubblewrap", "landlock"] = "auto"
    wall_s: float = Field(30, gt=0)
    memory_mb: int = Field(1024, ge=128)


DEFAULT_MODEL = "smollm2"
"""The embedded one's name."""

_BUILT_IN: dict[str, dict[str, Any]] = {
    "planner": {},
    "research": {},
    "analyst": {},
    "writer": {},
    # Those of the main job are there from the start; these take memory that many a machine never needs.
    "assistant": {"prewarm": False},
    # Its prompts wait for models most of the time.
    "worker": {"prewarm": False, "concurrency": 16},
    # Waits for models for hours, and holds little meanwhile.
    "background": {"prewarm": False, "concurrency": 128},
}


def _with_built_in_agents(agents: dict[str, Any]) -> dict[str, Any]:
    """The given agents and the built-in ones; what is given of a built-in one leaves the rest of it as it is."""
    given = {
        name: {**_BUILT_IN.get(name, {}), **settings} if isinstance(settings, dict) else settings
        for name, settings in agents.items()
    }
    return {**_BUILT_IN, **given}


def _with_embedded_model(models: dict[str, Any]) -> dict[str, Any]:
    """The given models and the embedded one, unless it is given as null."""
    if DEFAULT_MODEL in models and models[DEFAULT_MODEL] is None:
        return {name: given for name, given in models.items() if name != DEFAULT_MODEL}
    return {DEFAULT_MODEL: ModelSettings(), **models}


class Settings(Section):
    """All of `manta.yaml`. Relative paths in it start from `project`, the folder it lies in."""

    default_model: str = DEFAULT_MODEL
    models: dict[Name, ModelSettings] = {DEFAULT_MODEL: ModelSettings()}
    routers: dict[Name, RouterSettings] = {}
    embedder: EmbedderSettings = EmbedderSettings()
    agents: dict[Name, AgentSettings] = {}
    graphs: dict[Name, str] = {}
    tools: dict[Name, ImportPath] = {}
    server: ServerSettings = ServerSettings()
    ray: RaySettings = RaySettings()
    search: SearchSettings = SearchSettings()
    sandbox: SandboxSettings = SandboxSettings()
    limits: LimitSettings = LimitSettings()
    coordinator: CoordinatorSettings = CoordinatorSettings()
    retention: RetentionSettings = RetentionSettings()
    webhooks: WebhookSettings = WebhookSettings()
    store_url: str = ""
    """SQLAlchemy URL of the journal; empty is SQLite in `home`."""
    home: Path = Path("~/.manta")
    project: Path = Path(".")
    ships_code: bool = False
    """True when a settings file was found: its folder is then shipped to the agents' workers."""
    log_level: str = "INFO"
    start_timeout_s: float = Field(300, gt=0)
    """So long every part may take to come up; a model's own server may take what its `launch` allows."""

    @model_validator(mode="before")
    @classmethod
    def _merge_built_ins(cls, data: Any) -> Any:
        # A file that sets one agent or model keeps the others.
        if isinstance(data, dict):
            agents, models = data.get("agents") or {}, data.get("models") or {}
            if isinstance(agents, dict):
                data = {**data, "agents": _with_built_in_agents(agents)}
            if isinstance(models, dict):
                data = {**data, "models": _with_embedded_model(models)}
        return data

    @model_validator(mode="after")
    def _names_exist(self) -> "Settings":
        wanted = {self.default_model, *(a.model for a in self.agents.values() if a.model)}
        missing = sorted(wanted - set(self.models) - set(self.routers))
        if missing:
            raise ValueError(f"model {missing[0]!r} is not among models: {', '.join(sorted(self.models))}")
        check_fallbacks(self.models)
        check_routers(self.routers, self.models)
        if self.coordinator.replicas > 1 and not self.store_url.startswith("postgres"):
            raise ValueError("coordinator.replicas over 1 needs store_url with a PostgreSQL")
        return self

    @property
    def journal_url(self) -> str:
        return self.store_url or f"sqlite:///{self.home / 'journal.db'}"

    @property
    def longest_start_s(self) -> float:
        """What a start may take at most."""
        servers = (m.launch.start_timeout_s for m in self.models.values() if m.backend == "server")
        return max([self.start_timeout_s, *servers])

    @property
    def address(self) -> str:
        """Where the gateway listens, as a base URL."""
        return f"http://{self.server.host}:{self.server.port}"


def load_settings(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        path: the file; None looks for `manta.yaml` in the current folder and takes defaults without one.
            A `models.yaml` beside it is read too.
        environment: MANTA_HOME, MANTA_PORT, MANTA_STORE_URL, MANTA_LOG_LEVEL, MANTA_RAY_ADDRESS.
        overrides: dotted keys from the command line, `{"server.port": 8001}`.

    Raises:
        InvalidConfig: the file cannot be read, or a value in it is wrong.
    """
    environment = os.environ if environment is None else environment
    file = path or Path(SETTINGS_FILE)
    data = _read(file) if path is not None or file.is_file() else {}
    found = file.is_file()
    beside = file.with_name(MODELS_FILE)
    further = _add_models(data, beside) if beside.is_file() else frozenset()
    for variable, key in _ENVIRONMENT.items():
        if environment.get(variable):
            _put(data, key, environment[variable])
    for key, value in (overrides or {}).items():
        _put(data, key, value)
    data.setdefault("project", str(file.resolve().parent))
    data["ships_code"] = found
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or str(file)
        place = beside if first["loc"][:1] == ("models",) and further & set(first["loc"]) else file
        raise InvalidConfig(f"{where}: {first['msg']}", fix=f"mend it in {place}") from None
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})


def secret(name: str, environment: Mapping[str, str] | None = None) -> str:
    """A key from the environment.

    Raises:
        InvalidConfig: the variable is not set.
    """
    value = (os.environ if environment is None else environment).get(name, "")
    if not value:
        raise InvalidConfig(
            f"the environment variable {name} is not set", fix=f"export {name}=... before `manta up`"
        )
    return value


def client_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The API key that clients send unless they are told one: `MANTA_API_KEY`."""
    return (os.environ if environment is None else environment).get("MANTA_API_KEY") or None


def ray_token_file(settings: Settings) -> Path:
    """Where the token of the platform's Ray lies: our own Ray's in `home`, a cluster's where Ray looks for it."""
    if not settings.ray.address:
        return settings.home / "ray_token"
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes, for a process that is about to be started."""
    return {**os.environ, **changes}


@functools.cache
def kill_point() -> tuple[str, str]:
    """`MANTA_KILL_AT` and `MANTA_KILL_ONCE`: where this process shall die in a test of recovery.

    Looked up once: it is asked for at every step of every run.
    """
    return os.environ.get("MANTA_KILL_AT", ""), os.environ.get("MANTA_KILL_ONCE", "")


def ledger_file() -> Path | None:
    """`MANTA_LEDGER`: where tests want side effects noted, outside the store."""
    path = os.environ.get("MANTA_LEDGER", "")
    return Path(path) if path else None


_ENVIRONMENT = {
    "MANTA_HOME": "home",
    "MANTA_PORT": "server.port",
    "MANTA_STORE_URL": "store_url",
    "MANTA_LOG_LEVEL": "log_level",
    "MANTA_RAY_ADDRESS": "ray.address",
}


def _read(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"cannot read {file}: {error}", fix="give --config an existing file") from None
    except yaml.YAMLError as error:
        raise InvalidConfig(
            f"{file} is not YAML: {' '.join(str(error).split())}", fix="mend the line named"
        ) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InvalidConfig(
            f"{file} must hold a mapping, not {type(data).__name__}", fix="see docs/configuration.md"
        )
    return data


def _add_models(data: dict[str, Any], file: Path) -> frozenset[str]:
    """Puts the models of that file among the others. Raises InvalidConfig for one that is there already."""
    further = _read(file)
    given = data.get("models") or {}
    twice = sorted(set(further) & set(given)) if isinstance(given, dict) else []
    if twice:
        raise InvalidConfig(f"model {twice[0]!r} is also in {SETTINGS_FILE}", fix=f"leave it out in {file}")
    if isinstance(given, dict):
        data["models"] = {**given, **further}
    return frozenset(further)


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
    data[last] = value
