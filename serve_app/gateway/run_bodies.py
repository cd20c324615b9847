"""What is asked of runs, and how a request becomes a submission."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from coordinator.submission import Submission
from manta.errors import InvalidInput
from manta.ids import ThreadId, new_run_id
from serve_app.gateway.body_types import (
    WHOLE,
    Anything,
    Body,
    BudgetBody,
    Limit,
    Message,
    Metadata,
    Name,
    Offset,
    OwnBody,
    Priority,
    Seconds,
    Status,
    Text,
    Uuid,
    WebAddress,
)
from serve_app.gateway.deps import Caller

DEFAULT_GRAPH = "research_report"
StreamMode = Literal["values", "messages", "updates", "custom"]
STREAM_MODES: tuple[StreamMode, ...] = ("custom", "messages", "values")
"""What a stream carries when nothing is asked for."""


class RunConfig(Body):
    """Taken and not used: a graph says itself what it needs."""

    tags: list[str] | None = None
    recursion_limit: int | None = None
    configurable: dict[str, Any] | None = None


_KEPT: dict[str, Any] = {
    "not": {
        "required": ["thread_id", "on_completion"],
        "properties": {"thread_id": {"type": "string"}, "on_completion": {"const": "delete"}},
    }
}
"""A thread is not deleted with a run."""
_SPOKEN: dict[str, Any] = {
    "anyOf": [
        {"properties": {"messages": {"type": "null"}}},
        {"properties": {"input": {"type": ["object", "null"]}}},
    ]
}
"""Messages go into an input that is an object."""


class RunCreate(Body):
    """The protocol's body, with what Manta adds: `priority`, `budget`, `timeout_s`, `multitask_strategy`."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_KEPT, _SPOKEN]})

    agent_id: Name = DEFAULT_GRAPH
    """A graph's name."""
    thread_id: Uuid | None = None
    input: Anything = None
    messages: list[Message] | None = None
    """Goes into the input as its `messages`."""
    metadata: Metadata = {}
    config: RunConfig | None = None
    webhook: WebAddress | None = None
    """Told of the end of the run."""
    on_completion: Literal["delete", "keep"] | None = None
    """Without a thread, `keep` makes one for the run."""
    on_disconnect: Literal["cancel", "continue"] = "continue"
    """Of a request that waits or streams. A run outlives its client unless it says `cancel`."""
    if_not_exists: Literal["create", "reject"] = "reject"
    """What to do when there is no such thread."""
    stream_mode: StreamMode | list[StreamMode] | None = None
    priority: Priority = 0
    """Lower goes first where places or model slots are short."""
    budget: BudgetBody | None = None
    timeout_s: Seconds | None = None
    """The run's deadline, from now; time that it waits for people counts."""
    multitask_strategy: Literal["enqueue", "reject"] = "enqueue"
    """What to do when another run works on the thread: wait for it, or answer 409 `thread_busy`."""

    def modes(self) -> frozenset[StreamMode]:
        if self.stream_mode is None:
            return frozenset(STREAM_MODES)
        return frozenset(self.stream_mode if isinstance(self.stream_mode, list) else [self.stream_mode])

    def run_input(self) -> Any:
        """The graph's input; messages are part of it."""
        if self.messages is None:
            return {} if self.input is None else self.input
        messages = [message.plain() for message in self.messages]
        if self.input is None:
            return {"messages": messages}
        if not isinstance(self.input, dict):
            raise InvalidInput("messages go with an input that is an object", fix="leave one of the two out")
        return {**self.input, "messages": messages}

    def submission(self, caller: Caller, key: str | None, thread: str | None) -> Submission:
        """Without a key of the caller's it gets a private one: a repeated try could start a run twice."""
        return Submission(
            graph=self.agent_id,
            input=self.run_input(),
            tenant=caller.tenant,
            principal=caller.principal,
            metadata=self.metadata,
            idempotency_key=key or f"once-{new_run_id()}",
            timeout_s=self.timeout_s,
            thread=None if thread is None else ThreadId(thread),
            webhook=self.webhook,
            priority=self.priority,
            budget=self.budget.budget() if self.budget else None,
            reject_if_busy=self.multitask_strategy == "reject",
        )


class RunSearch(Body):
    """`pending` finds running ones too, `interrupted` those that wait for a person too, as runs are told."""

    metadata: Metadata | None = None
    status: Status | None = None
    thread_id: Uuid | None = None
    agent_id: str | None = None
    reason: str | None = None
    """`waiting`, `dead_letter`, `cancelled`, `deadline` or the code of the error."""
    limit: Limit = 10
    offset: Offset = 0


class DecisionBody(OwnBody):
    """`approve`, `reject` and `edit` answer an approval; `retry`, `resolve` and `reject` a call of unknown outcome."""

    step: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """The execution's key; null is the only one that waits."""
    action: Literal["approve", "reject", "edit", "retry", "resolve"]
    value: Anything = None
    """For `edit` what goes on in place of what was shown, for `resolve` the call's result."""
    comment: Text = ""


class ForkBody(OwnBody):
    step: Annotated[str, Field(min_length=1, max_length=1000)]
    """The execution to begin with again; what does not depend on it is taken over."""
    input: dict[str, Any] | None = None
    """Its input in the new run; null is what the graph gives it."""


class ResumeBody(OwnBody):
    budget: BudgetBody | None = None
    """In place of the run's; null leaves it."""


_SAID: dict[str, Any] = {
    "anyOf": [
        {"required": ["rating"], "properties": {"rating": {"type": "integer"}}},
        {"required": ["comment"], "properties": {"comment": {"pattern": r"\S"}}},
    ]
}
"""One of the two has to be there."""


class FeedbackBody(OwnBody):
    """A rating, a comment, or both."""

    model_config = ConfigDict(json_schema_extra=_SAID)

    rating: Annotated[int, Field(ge=1, le=5), WHOLE] | None = None
    comment: Text = ""
