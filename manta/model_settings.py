"""The settings of models and of the embedder: sections of `manta.yaml`, read by `manta.config`."""

from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EMBEDDED = "embedded"
"""The `source` of a model or embedder whose weights come with the installation."""
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Example = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]
PLACEHOLDERS = frozenset(
    {"host", "port", "source", "model", "tensor_parallel", "context_window", "python", "threads"}
)
"""What an argument of `launch.command` and `launch.args` may name in braces."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplicaSettings(Section):
    """How a Serve deployment is replicated. `target_ongoing`: requests in flight per replica aimed at; `target_tokens`
    likewise their tokens, in prompts and still to come, 0: they are not looked at. `max_queued` requests wait for
    a replica, -1: any number, for `max_wait_s` seconds at most, 0: however long."""

    min: int = Field(1, ge=0)
    max: int = Field(1, ge=1)
    num_cpus: float = Field(0.3, ge=0)
    num_gpus: float = Field(0, ge=0)
    accelerator_type: str = Field("", pattern=r"[\w.-]*", max_length=64)
    """As Ray names it, `L4` say; empty: any."""
    resources: dict[str, float] = {}
    target_ongoing: float = Field(8, gt=0)
    target_tokens: float = Field(0, ge=0)
    max_ongoing: int = Field(32, ge=1)
    max_queued: int = Field(200, ge=-1)
    max_wait_s: float = Field(120, ge=0)
    routing: Literal["affinity", "balanced"] = "affinity"
    """affinity: calls of a run, and prompts that begin alike, go to the same replica, which has kept their KV;
    unless it has `affinity_slack` requests more than the least busy one. balanced: to the least busy one."""
    affinity_slack: int = Field(4, ge=0)
    upscale_delay_s: float = Field(5, ge=0)
    downscale_delay_s: float = Field(60, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "ReplicaSettings":
        if self.max < self.min:
            raise ValueError("replicas.max must be at least replicas.min")
        if self.target_ongoing > self.max_ongoing:
            raise ValueError("replicas.target_ongoing must not exceed replicas.max_ongoing")
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError("replicas.num_gpus over 1 must be a whole number")
        return self


class PriceSettings(Section):
    """What a model costs, in any one unit of money, for a million tokens."""

    input: float = Field(0, ge=0)
    output: float = Field(0, ge=0)
    cached_input: float | None = Field(None, ge=0)
    """For tokens that were in a cache; None is the price of `input`."""


class LaunchSettings(Section):
    """server: how a replica starts its server. Arguments go to the process as they are; there is no shell."""

    preset: Literal["", "vllm", "sglang", "trtllm", "triton", "llama_cpp", "transformers"] = ""
    command: tuple[str, ...] = ()
    """A command of your own instead of a preset's."""
    args: tuple[str, ...] = ()
    """Further arguments, after the preset's."""
    env: dict[str, str] = {}
    base_path: str = "/v1"
    health_path: str = ""
    """Answers 200 once the server is ready; empty is the preset's, `/health` for a command of your own."""
    start_timeout_s: float = Field(1800, gt=0)
    restarts: int = Field(5, ge=0)
    """How often in a row a server that died is started again before the replica gives up."""
    grace_s: float = Field(10, ge=0)
    """Between the signal to end and the one to die."""

    @model_validator(mode="after")
    def _placeholders_are_known(self) -> "LaunchSettings":
        for argument in (*self.command, *self.args):
            try:
                named = {name for _, name, _, _ in Formatter().parse(argument) if name is not None}
            except ValueError as error:
                raise ValueError(f"launch: {argument!r}: {error}; write a brace as two") from None
            if named - PLACEHOLDERS:
                known = ", ".join(sorted(PLACEHOLDERS))
                raise ValueError(f"launch: {argument!r} names what there is not; known are {known}")
        return self


class RetrySettings(Section):
    """How often a model is asked, as long as nothing of an answer was seen."""

    attempts: int = Field(3, ge=1, le=20)
    first_delay_s: float = Field(0.5, ge=0)
    factor: float = Field(2, ge=1, le=10)
    """By which each pause is longer than the one before."""
    max_delay_s: float = Field(8, ge=0)
    jitter: float = Field(0.5, ge=0, le=1)
    """The share of a pause that chance may take off."""

    @model_validator(mode="after")
    def _ordered(self) -> "RetrySettings":
        if self.max_delay_s < self.first_delay_s:
            raise ValueError("retry.max_delay_s must be at least retry.first_delay_s")
        return self


class BreakerSettings(Section):
    """When a model that fails is left in peace."""

    failures: int = Field(5, ge=0)
    """So many in the window; 0 is never."""
    share: float = Field(0.5, ge=0, le=1)
    """And at least this share of the calls in it."""
    window_s: float = Field(30, gt=0)
    pause_s: float = Field(10, gt=0)
    """Then a single call tries it."""


class CacheSettings(Section):
    """Which answers of a model are kept, to be given again to the same question."""

    exact: bool = False
    """For equal requests: all but the hints is the same. Kept are answers that are the model's own choice, of
    temperature 0 or with a seed."""
    sampled: bool = False
    """Keep those too that were drawn by chance: then every further sample of a prompt is the first one again."""
    semantic: float | None = Field(None, ge=0.8, le=1)
    """For calls without a run: the cosine from which two last messages count as the same question. None: none do.
    A run's graph says this for its calls."""
    ttl_s: float = Field(3600, gt=0)
    max_mb: float = Field(64, gt=0)
    """In each process that keeps any, and as much again in the shared level."""
    shared: bool = False
    """A second level behind the processes' own, for all gateways and agents."""


class ModelSettings(Section):
    """One model. `torch` runs it in the replica, `server` starts another inference server there and talks to it,
    `remote` calls an OpenAI-compatible server, `langchain` any vendor through `init_chat_model`, `sleep` is the
    timing stand-in of load tests."""

    backend: Literal["torch", "server", "remote", "langchain", "sleep"] = "torch"
    source: str = EMBEDDED
    """torch: `embedded`, a `.gguf` file or a Hugging Face folder. server: what it is to load.
    langchain: `provider:model`."""
    base_url: str = ""
    model: str = ""
    """remote, server: the server's name of the model; empty is this model's own name."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; the key itself is never in a file."""
    dialect: Literal["auto", "openai", "vllm", "sglang", "llama_cpp", "transformers"] = "auto"
    """remote, server: how to say what goes beyond OpenAI's API. `auto`: the preset's, else `openai`."""
    context_window: int = Field(0, ge=0)
    abilities: tuple[Literal["tools", "json"], ...] = ()
    max_tokens: int | None = Field(None, ge=1)
    """torch: of an answer whose request sets no bound. None: 512 of the embedded model, which is so small that it may
    go round in circles, the rest of the window of any other."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    quantize: Literal["none", "int8", "int4", "mixed"] = "none"
    """torch on the CPU: how weights are stored. `mixed`: the outputs of attention and MLP in 16 bits, the rest
    in 8."""
    speculate: int = Field(5, ge=0, le=5)
    """torch with a compiled step: tokens at most that are guessed from what a request repeats; 0: none. With the next
    one these are as many rows as cost little more than one."""
    cuda_graphs: bool = True
    """torch on a GPU: steps without prompts are recorded for each of a few sizes, and played back."""
    device: str = "auto"
    threads: int = Field(0, ge=0)
    """torch, server: threads of one replica; 0 is every core it may use."""
    max_batch: int = Field(16, ge=1)
    kv_tokens: int = Field(8192, ge=64)
    stream_interval_s: float = Field(0.05, ge=0)
    """torch: after its first token an answer's text is sent on so often at most, and less often where many answers
    are under way in a replica; 0 is each token by itself."""
    timeout_s: float = Field(120, gt=0)
    step_s: tuple[float, float] = (0.02, 0.001)
    """sleep: seconds of one engine step, as constant and per sequence in the batch."""
    prefill_s: float = Field(0, ge=0)
    """sleep: seconds to read a token of a prompt that is not in the prefix cache, which holds `kv_tokens`."""
    launch: LaunchSettings = LaunchSettings()
    tensor_parallel: int = Field(0, ge=0)
    """server: over how many of the replica's GPUs the model is spread; 0 is all."""
    price: PriceSettings = PriceSettings()
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    fallbacks: tuple[Name, ...] = ()
    """Models that answer in its place, in this order, each with its own fallbacks behind it."""
    fallback_on_length: bool = False
    """They are asked for prompts too that are too long for this one."""
    cache: CacheSettings = CacheSettings()
    replicas: ReplicaSettings = ReplicaSettings()

    @model_validator(mode="after")
    def _can_be_reached(self) -> "ModelSettings":
        if self.backend == "remote" and not self.base_url:
            raise ValueError("backend remote needs base_url")
        if set("?#") & set(self.base_url):
            raise ValueError("base_url ends with its path: neither ? nor # may be in it")
        return self

    @model_validator(mode="after")
    def _can_be_launched(self) -> "ModelSettings":
        if self.backend == "server" and bool(self.launch.preset) == bool(self.launch.command):
            raise ValueError("backend server needs either launch.preset or launch.command")
        if self.tensor_parallel > max(1, self.replicas.num_gpus):
            raise ValueError("tensor_parallel needs as many replicas.num_gpus")
        return self


def check_fallbacks(models: Mapping[str, ModelSettings]) -> None:
    """Raises ValueError: a fallback that is no model, is named twice, or leads back to where it is one."""
    for name, model in models.items():
        for fallback in model.fallbacks:
            if fallback not in models:
                raise ValueError(f"models.{name}.fallbacks: there is no model {fallback!r}")
        if len(set(model.fallbacks)) < len(model.fallbacks):
            raise ValueError(f"models.{name}.fallbacks names a model twice")
    for name in models:
        if name in _behind(name, models):
            raise ValueError(f"models.{name}.fallbacks leads back to {name}")


def _behind(name: str, models: Mapping[str, ModelSettings]) -> set[str]:
    """Its fallbacks, theirs, and so on."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        fresh = set(models[waiting.pop()].fallbacks) - found
        found |= fresh
        waiting.extend(fresh)
    return found


class DomainSettings(Section):
    """A field that one model is better at, shown by questions from it. Both must be given."""

    model: Name = Field("", validate_default=True)
    examples: tuple[Example, ...] = Field((), min_length=1, max_length=1000, validate_default=True)


class RouterSettings(Section):
    """A name that is asked like a model, and asks for each question the model of its domain."""

    otherwise: Name = Field("", validate_default=True)
    """The model for questions of no domain; must be given, and so must a domain."""
    threshold: float = Field(0.2, ge=0, le=1)
    """How near a question must be to a domain's examples: the mean cosine to the three nearest."""
    domains: dict[Name, DomainSettings] = Field({}, min_length=1, validate_default=True)

    @property
    def models(self) -> tuple[str, ...]:
        """Those that may answer, `otherwise` first, each once."""
        return tuple(dict.fromkeys((self.otherwise, *(domain.model for domain in self.domains.values()))))


def check_routers(routers: Mapping[str, RouterSettings], models: Mapping[str, ModelSettings]) -> None:
    """Raises ValueError: a router has a model's name, or names what is no model."""
    for router, settings in routers.items():
        if router in models:
            raise ValueError(f"routers.{router}: a model has this name")
        for name in settings.models:
            if name in routers:
                raise ValueError(f"routers.{router} names the router {name!r}; it may name models only")
            if name not in models:
                raise ValueError(f"routers.{router}: there is no model {name!r}")


class EmbedderSettings(Section):
    source: str = EMBEDDED
    backend: Literal["torch", "onnx"] = "torch"
    """onnx: ONNX Runtime with weights in 8 bits."""
    threads: int = Field(0, ge=0)
    max_batch: int = Field(32, ge=1)
    replicas: ReplicaSettings = ReplicaSettings(num_cpus=0.2)
