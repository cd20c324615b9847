"""What the tests of recording and of the tool loop share: one step of one run, without a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.context import LocalArtifacts, LocalCallLog, TaskContext
from agents.recording import CallDone
from manta.ids import RunId, StepKey
from manta.messages import CallHints, CallScope, Passage, Task, Usage
from manta.protocols import ChatModel

RUN = RunId("00000000-0000-4000-8000-000000000001")
STEP = StepKey("research[0]")


class FewDocuments:
    """One collection; counts its searches."""

    def __init__(self, passages: Sequence[Passage] = ()) -> None:
        self.passages = list(passages)
        self.searches = 0

    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        self.searches += 1
        return self.passages[:limit]


def task(attempt: int = 1, epoch: int = 1, **fields: Any) -> Task:
    scope = CallScope(run=RUN, step=STEP, attempt=attempt, epoch=epoch)
    return Task(scope=scope, agent="research", input={}, model="small", **fields)


class Attempt:
    """A context for one attempt, with what its watchers saw."""

    def __init__(
        self,
        model: ChatModel,
        log: LocalCallLog,
        folder: Path,
        number: int = 1,
        documents: FewDocuments | None = None,
    ) -> None:
        self.tokens: list[str] = []
        self.done: list[CallDone] = []
        self.context = TaskContext(
            task(number, hints=CallHints(priority=3, attained_tokens=100, steps_left=2)),
            model=model,
            documents=documents or FewDocuments(),
            artifacts=LocalArtifacts(folder / "artifacts"),
            call_log=log,
            workdir=folder,
            token_sink=self.tokens.append,
            observe=self.done.append,
        )

    @property
    def usage(self) -> Usage:
        return self.context.usage
