"""A run told like a model's answer: its progress as reasoning, its output as the text."""

from collections.abc import AsyncGenerator

from coordinator.news import Watch
from coordinator.store.records import RunRecord, StepRecord
from manta.errors import Conflict, MantaError, RunCancelled, error_from_json
from manta.events import Event
from manta.ids import RunId
from manta.messages import ChatChunk
from serve_app.gateway.deps import Desk
from serve_app.gateway.openai.graph_inputs import output_text
from serve_app.gateway.run_starts import cancel_soon
from serve_app.gateway.sse import KEEP_ALIVE_S

_TOLD = {
    "step_started": "started",
    "step_retried": "tried again",
    "step_done": "done",
    "step_failed": "failed",
    "step_skipped": "skipped",
}


async def run_answer(desk: Desk, record: RunRecord) -> AsyncGenerator[ChatChunk, None]:
    """The first chunk at once, then one for what each step comes to, then the output with the usage.

    An empty chunk says that the run is still at work. A caller that closes this before its end wants no answer
    any more: the run is cancelled.

    Raises:
        MantaError: what the run failed with; RunCancelled when somebody cancelled it; Conflict, code
            `run_waiting`, when it waits for a person. It then goes on waiting.
    """
    run, ended = RunId(record.id), False
    try:
        yield ChatChunk(reasoning=f"{record.graph_name}: run {run}\n")
        after, cursor = 0, -1
        while not ended:
            watch: Watch = await desk.call("watch", run, after, cursor, KEEP_ALIVE_S)
            cursor = watch.cursor
            for event in watch.events:
                after = max(after, event.seq)
                if event.type in _TOLD:
                    yield ChatChunk(reasoning=f"{event.step}: {_TOLD[event.type]}\n")
            if not watch.events:
                yield ChatChunk()
            ended = watch.over and await _rests(desk, run, watch)
        yield await _end(desk, run)
    except MantaError:
        # It failed, or rests, or the platform is away: there is nobody to take it back from.
        ended = True
        raise
    finally:
        if not ended:
            cancel_soon(desk, run)


async def _rests(desk: Desk, run: RunId, watch: Watch) -> bool:
    """A run that was told to wait may have its answer by now."""
    last: Event | None = watch.events[-1] if watch.events else None
    if last is None or last.type != "run_waiting":
        return True
    record: RunRecord = await desk.call("wait", run, 0.0)
    return record.status == "waiting"


async def _end(desk: Desk, run: RunId) -> ChatChunk:
    record: RunRecord
    steps: list[StepRecord]
    record, steps = await desk.call("get", run)
    if record.status == "success":
        return ChatChunk(output_text(record.output), finish_reason="stop", usage=record.usage)
    if record.status == "waiting":
        waiting = ", ".join(step.key for step in steps if step.waiting) or "a step"
        raise Conflict(
            f"run {run} waits for a person at {waiting}",
            fix=f"answer it: POST /runs/{run}/decisions, then GET /runs/{run}/wait",
            code="run_waiting",
        )
    if record.error is not None:
        raise error_from_json(record.error)
    raise RunCancelled(f"run {run} was cancelled")
