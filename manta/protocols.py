"""The places where one part can be swapped for another. What is handed in at composition satisfies these."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from manta.messages import (
    ArtifactRef,
    CallIntent,
    CallOutcome,
    ChatChunk,
    ChatRequest,
    ModelInfo,
    Passage,
    RecordedCall,
    Task,
    TaskResult,
    Usage,
)


class ChatModel(Protocol):
    """A model behind any backend. Errors are `ModelError`s."""

    async def info(self) -> ModelInfo: ...

    async def count_tokens(self, messages: Sequence[Any]) -> int:
        """Tokens of `ChatMessage`s under the model's own chat template."""
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        """Closing the generator before its end cancels the call down to the engine's slot."""
        ...


class Embedder(Protocol):
    """Sentence embeddings, L2-normalised; every vector has `dimensions` floats."""

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]: ...


class Documents(Protocol):
    """Collections of documents that agents search. The text of a passage is verbatim."""

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]: ...

    async def names(self, collection: str) -> list[str]:
        """The collection's documents, in order. Raises NotFound."""
        ...

    async def text(self, collection: str, document: str) -> str:
        """A document's whole text, which its passages point into. Raises NotFound."""
        ...


class CallLog(Protocol):
    """The record of calls at the boundary: intent before, outcome after."""

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        """Journal an intent. A call already recorded as done is returned instead, to be replayed.

        Raises:
            StaleEpoch: the step was given to another attempt.
            OutcomeUnknown: the call must not be repeated and an earlier try has no outcome.
        """
        ...

    async def finish(self, outcome: CallOutcome) -> None:
        """Journal an outcome; returns once it is durable. Raises StaleEpoch likewise."""
        ...


class Artifacts(Protocol):
    """Files kept by content. `put` returns once the file is durable."""

    async def put(self, path: Path, name: str, media_type: str) -> ArtifactRef: ...

    async def get(self, ref: ArtifactRef) -> bytes: ...


TokenSink: TypeAlias = Callable[[str], None]


class AgentContext(Protocol):
    """What an agent is given for one task. Models and tools reached through it are recorded."""

    @property
    def task(self) -> Task: ...

    @property
    def model(self) -> ChatModel: ...

    def model_named(self, name: str) -> ChatModel:
        """The model of that name, recorded like `model`, which an empty name means. Raises NotFound."""
        ...

    @property
    def documents(self) -> Documents: ...

    @property
    def artifacts(self) -> Artifacts: ...

    @property
    def workdir(self) -> Path:
        """A scratch folder, removed after the task."""
        ...

    @property
    def usage(self) -> Usage:
        """What this task has used so far."""
        ...

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        run: Callable[[], Awaitable[Any]],
        *,
        idempotent: bool = True,
        call_id: str | None = None,
    ) -> Any:
        """Run a tool under the record: replayed if it is already done; `run` returns plain JSON."""
        ...

    def emit_token(self, text: str) -> None: ...


class Agent(Protocol):
    """What a step names. One object serves many tasks at once."""

    async def run(self, context: AgentContext) -> Any:
        """The step's output, plain JSON. Raises MantaError."""
        ...


class Place(Protocol):
    """A place in an agent's pool, held while one task is worked on."""

    def release(self) -> None:
        """Give it back; once is enough, twice does no harm."""
        ...


class AgentRuntime(Protocol):
    """Where tasks run: in this process, or in pools of Ray actors."""

    def try_place(self, agent: str) -> Place | None:
        """A place in the agent's pool if one is free and nobody waits for it.

        Raises:
            NotFound: there is no such agent.
        """
        ...

    async def place(self, agent: str, priority: int = 0) -> Place:
        """A place, as soon as there is one: lower priorities first, then who came first.

        Waiting for it costs none of a step's time. Raises NotFound likewise.
        """
        ...

    async def perform(self, task: Task) -> TaskResult:
        """Runs the task to its end. Cancelling the awaiting task cancels the agent's work too.

        Raises:
            Unavailable: no agent could take it, or it died on the way; the coordinator decides on a retry.
        """
        ...
