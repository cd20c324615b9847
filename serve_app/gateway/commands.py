"""Commands to a thread, of the Agent Protocol's streaming protocol: the same over HTTP and a WebSocket.

Parameters may be spelt `run_id` or `runId`; answers are spelt the first way. A command that cannot be done is
answered by the protocol's own error, with status 200 over HTTP; only what keeps every command from being done
(a part that is away) is an HTTP error there.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NotRequired

from fastapi import APIRouter
from pydantic import Field, ValidationError
from typing_extensions import TypedDict

from coordinator.store.library_records import ThreadState
from coordinator.store.records import RunRecord, StepRecord
from manta.errors import InvalidInput, MantaError, NotFound, Unavailable
from manta.ids import RunId, StepKey, ThreadId
from serve_app.gateway.bodies import StrictRoute
from serve_app.gateway.body_types import WHOLE, Body
from serve_app.gateway.deps import Desk, DeskDep, ThreadPath, known_id
from serve_app.gateway.errors import TAKING, in_a_line
from serve_app.gateway.repeats import gone, made_id, request_key
from serve_app.gateway.run_bodies import RunCreate
from serve_app.gateway.run_starts import submit
from serve_app.gateway.shapes import stamp
from serve_app.gateway.thread_events import located
from serve_app.gateway.thread_streams import checkpoint_of, latest_runs, whole_state
from serve_app.gateway.threads import history

router = APIRouter(tags=["threads"], route_class=StrictRoute, responses=TAKING)

Params = Mapping[str, Any]
ACTIONS = ("approve", "reject", "edit", "retry", "resolve")


class StreamingCommand(Body):
    """The protocol's body."""

    id: Annotated[int, Field(ge=0, lt=1 << 53), WHOLE]
    method: Annotated[str, Field(max_length=255)]
    params: dict[str, Any] = {}


class CommandAnswer(TypedDict):
    """The protocol's `StreamingCommandResponse`: of the type `success` with a `result`, or `error`."""

    type: str
    id: int | None
    result: NotRequired[dict[str, Any]]
    error: NotRequired[str]
    message: NotRequired[str]


class Refused(Exception):
    """A command that cannot be done; `code` is one of the protocol's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@router.post("/threads/{thread_id}/commands")
async def send_thread_streaming_command(
    thread: ThreadPath, body: StreamingCommand, desk: DeskDep
) -> CommandAnswer:
    """`run.start`, `input.respond`, `state.get`, `state.listCheckpoints`, `state.fork`, `agent.getTree`."""
    if body.method != "run.start":
        # That one makes the thread if need be.
        await desk.library("threads", "get", thread)
    return await answer(desk, thread, body)


async def answer(desk: Desk, thread: ThreadId, command: StreamingCommand) -> CommandAnswer:
    """Do it. Raises Unavailable only."""
    handler = _HANDLERS.get(command.method)
    try:
        if handler is None:
            known = command.method in _NOT_HERE
            raise Refused(
                "not_supported" if known else "unknown_command", f"there is no {command.method} here"
            )
        result = await handler(desk, thread, command.params)
    except Refused as refused:
        return refusal(command.id, refused)
    except Unavailable:
        raise
    except MantaError as error:
        return refusal(command.id, Refused(_code(error), in_a_line(error)))
    return {"type": "success", "id": command.id, "result": result}


def refusal(number: int | None, refused: Refused) -> CommandAnswer:
    return {"type": "error", "id": number, "error": refused.code, "message": refused.message}


def _code(error: MantaError) -> str:
    # What a command names wrongly, or at the wrong time; nothing else is left.
    return (
        "no_such_run" if isinstance(error, NotFound) and error.code == NotFound.code else "invalid_argument"
    )


async def _start_run(desk: Desk, thread: ThreadId, params: Params) -> dict[str, Any]:
    """A new run; where one waits for a person, the input is the answer to that."""
    waiting = [run for run in await latest_runs(desk, thread) if run.status == "waiting"]
    if waiting:
        run = waiting[-1]
        await _decide(desk, RunId(run.id), None, param(params, "input"))
        return {"run_id": run.id}
    wanted = {
        "agent_id": param(params, "assistant_id", "agent_id"),
        "input": param(params, "input"),
        "metadata": param(params, "metadata"),
        "config": param(params, "config"),
        "multitask_strategy": param(params, "multitask_strategy"),
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if "agent_id" not in given:
        raise Refused("invalid_argument", "assistant_id is missing")
    record = await submit(desk, _run_create({**given, "thread_id": thread, "if_not_exists": "create"}), None)
    return {"run_id": record.id}


def _run_create(body: dict[str, Any]) -> RunCreate:
    try:
        return RunCreate.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused("invalid_argument", f"{where}: {first['msg']}") from None


async def _respond(desk: Desk, thread: ThreadId, params: Params) -> dict[str, Any]:
    """Answers to what waits: one, or several in `responses`."""
    many = param(params, "responses")
    entries = many if isinstance(many, list) else [params]
    asked: list[tuple[RunId, StepKey, Any]] = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise Refused("invalid_argument", "responses must be objects")
        asked.append((*await _interrupt(desk, thread, entry), param(entry, "response")))
    for run, step, response in asked:
        await _decide(desk, run, step, response)
    return {"run_id": asked[0][0]} if asked else {}


async def _interrupt(desk: Desk, thread: ThreadId, entry: Params) -> tuple[RunId, StepKey]:
    name = param(entry, "interrupt_id")
    run, colon, step = name.partition(":") if isinstance(name, str) else ("", "", "")
    missing = Refused("no_such_interrupt", "nothing waits under this interrupt_id")
    if not colon:
        raise missing
    try:
        record, steps = await desk.call("get", RunId(known_id(run, "run")))
    except NotFound:
        raise missing from None
    if record.thread != thread or not any(s.key == step and s.state == "waiting" for s in steps):
        raise missing
    return RunId(record.id), StepKey(step)


async def _decide(desk: Desk, run: RunId, step: StepKey | None, response: Any) -> None:
    """`true` approves, `false` rejects; else an object with `action`, `value` and `comment`."""
    if isinstance(response, bool):
        response = {"action": "approve" if response else "reject"}
    action = response.get("action") if isinstance(response, dict) else None
    if action not in ACTIONS:
        raise Refused(
            "invalid_argument", f"an answer is true, false or an object with action: {', '.join(ACTIONS)}"
        )
    comment = str(response.get("comment") or "")
    said = (action, response.get("value"), comment, desk.caller.principal)
    await desk.call("decide", run, step, *said, await request_key())


async def _get_state(desk: Desk, thread: ThreadId, params: Params) -> dict[str, Any]:
    _root_only(params)
    state: ThreadState | None = await desk.library("threads", "state", thread)
    if state is None:
        return {"values": {}}
    values, keys = whole_state(state), param(params, "keys")
    if isinstance(keys, list):
        values = {name: value for name, value in values.items() if name in keys}
    return {"values": values, "checkpoint": {"id": state.checkpoint}}


async def _list_checkpoints(desk: Desk, thread: ThreadId, params: Params) -> dict[str, Any]:
    _root_only(params)
    limit, before = param(params, "limit"), param(params, "before")
    limit = 10 if limit is None else limit
    if type(limit) is not int or not 1 <= limit <= 1000:
        raise Refused("invalid_argument", "limit is 1 to 1000")
    if before is not None and not isinstance(before, str):
        raise Refused("invalid_argument", "before is the id of a checkpoint")
    try:
        states = await history(desk, thread, limit, before)
    except InvalidInput as error:
        raise Refused("no_such_checkpoint", error.message) from None
    return {"checkpoints": [_checkpoint(state) for state in states]}


def _checkpoint(state: ThreadState) -> dict[str, Any]:
    metadata = {"run_id": state.run} if state.run is not None else {}
    return {**checkpoint_of(state), "timestamp": stamp(state.created_at), "metadata": metadata}


async def _fork_state(desk: Desk, thread: ThreadId, params: Params) -> dict[str, Any]:
    """A copy of the thread, back at the checkpoint, and a run on it: of the graph of the thread's latest run."""
    checkpoint = param(params, "checkpoint_id")
    if not isinstance(checkpoint, str):
        raise Refused("invalid_argument", "checkpoint_id is missing")
    graph = param(params, "assistant_id", "agent_id") or await _latest_graph(desk, thread)
    key = await request_key()
    new = ThreadId(made_id(desk, f"copy {thread}", key))
    await desk.library("threads", "copy", thread, new)
    try:
        await desk.library("threads", "patch", new, None, None, None, checkpoint.lower(), key)
        body = {"agent_id": graph, "input": param(params, "input"), "thread_id": new}
        record: RunRecord = await submit(desk, _run_create(body), None)
    except (MantaError, Refused) as error:
        await gone(desk.library("threads", "delete", new))
        if isinstance(error, NotFound) and error.code == NotFound.code:
            raise Refused("no_such_checkpoint", "the thread has no such checkpoint") from None
        raise
    return {"run_id": record.id, "thread_id": new}


async def _latest_graph(desk: Desk, thread: ThreadId) -> str:
    runs = await latest_runs(desk, thread)
    if not runs:
        raise Refused("invalid_argument", "the thread has no run yet: name an assistant_id")
    return runs[-1].graph_name


async def _tree(desk: Desk, thread: ThreadId, params: Params) -> dict[str, Any]:
    """The run's steps as a tree of graphs; of the latest run if none is named."""
    name = param(params, "run_id")
    runs = await latest_runs(desk, thread)
    run = next((r for r in reversed(runs) if name in (None, r.id)), None)
    if run is None:
        raise Refused("no_such_run", "the thread has no such run")
    steps: list[StepRecord]
    record, steps = await desk.call("get", RunId(run.id))
    return {"tree": _node(record, (), steps)}


_STATUS = {
    "started": "running",
    "waiting": "interrupted",
    "done": "completed",
    "failed": "failed",
    "skipped": "completed",
    "pending": "started",
    "running": "running",
    "success": "completed",
    "error": "failed",
    "timeout": "failed",
    "interrupted": "interrupted",
}


def _node(record: RunRecord, namespace: tuple[str, ...], steps: list[StepRecord]) -> dict[str, Any]:
    below = [step for step in steps if located(step.key)[0][: len(namespace)] == namespace]
    inner = dict.fromkeys(
        located(step.key)[0][: len(namespace) + 1]
        for step in below
        if len(located(step.key)[0]) > len(namespace)
    )
    own = {step.key: _STATUS[step.state] for step in below if located(step.key)[0] == namespace}
    states = {_STATUS[step.state] for step in below}
    derived = next((s for s in ("running", "interrupted", "failed") if s in states), "completed")
    return {
        "namespace": list(namespace),
        "status": derived if namespace else _STATUS[record.status],
        "graph_name": namespace[-1] if namespace else record.graph_name,
        "children": [_node(record, child, below) for child in inner],
        "metadata": {"steps": own},
    }


def _root_only(params: Params) -> None:
    if param(params, "namespace"):
        raise Refused("no_such_namespace", "a thread has one state, that of its root: namespace []")


def param(params: Params, *names: str) -> Any:
    """The first that is there, in either spelling."""
    for name in names:
        head, *rest = name.split("_")
        for spelling in (name, head + "".join(part.title() for part in rest)):
            if spelling in params:
                return params[spelling]
    return None


_HANDLERS: dict[str, Callable[[Desk, ThreadId, Params], Awaitable[dict[str, Any]]]] = {
    "run.start": _start_run,
    "input.respond": _respond,
    "state.get": _get_state,
    "state.listCheckpoints": _list_checkpoints,
    "state.fork": _fork_state,
    "agent.getTree": _tree,
}
_NOT_HERE = frozenset(
    {"input.inject", "subscription.subscribe", "subscription.unsubscribe", "subscription.reconnect"}
)
