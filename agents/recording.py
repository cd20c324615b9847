"""The record at the boundary: calls are journaled before and after, and replayed when done.

An agent that is run again after its process died makes the same calls; those whose outcome is in the
record are answered from it, so at most the calls in flight at that moment are made twice.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from agents.call_keys import Claim, Occurrences, canonical, messages_hash, request_hash
from manta.errors import BudgetExceeded, OutcomeUnknown, ToolError, error_from_json
from manta.faults import note_side_effect, reach
from manta.messages import (
    CallIntent,
    CallOutcome,
    ModelInfo,
    RecordedCall,
    Task,
    Usage,
    to_json,
)
from manta.protocols import CallLog

Kind: TypeAlias = Literal["model", "tool"]


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call that has its outcome. `replayed`: it was answered from the record."""

    kind: Kind
    name: str
    key: str
    usage: Usage
    replayed: bool
    failed: bool = False


CallObserver: TypeAlias = Callable[[CallDone], None]


def _unobserved(done: CallDone) -> None:
    """The observer of those who do not want one."""


class Recorder:
    """The record of one attempt at one task, shared by all that calls for it.

    Args:
        log: where intents and outcomes go.
        task: whose calls these are.
        observe: told of each call that has its outcome, before the agent hears of it.
    """

    def __init__(self, log: CallLog, task: Task, *, observe: CallObserver = _unobserved) -> None:
        self._log = log
        self._observe = observe
        self._occurrences = Occurrences()
        self._info: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._noted: set[str] = set()
        self.task = task
        self.tokens_spent = 0
        """By the model calls of this attempt, those replayed included."""
        self.verdict: BudgetExceeded | OutcomeUnknown | None = None
        """Why a call was refused. It is the end of the task, whatever the code above made of the error."""
        self.unknown_call: str | None = None
        """The key of a call that a person has to decide on."""

    def claim(self, base: str) -> Any:
        """A key of its own for a call, as a context manager; see `Occurrences.claim`."""
        return self._occurrences.claim(base)

    async def begin(
        self,
        kind: Kind,
        name: str,
        claim: Claim,
        request: dict[str, Any],
        digest: str,
        *,
        idempotent: bool = True,
        reserve: Usage = Usage(),
    ) -> RecordedCall | None:
        """Journal an intent; returns the call if it is done, to be replayed.

        Raises:
            StaleEpoch: the step was given to another attempt.
            OutcomeUnknown: the call must not be repeated, and an earlier try has no outcome.
            BudgetExceeded: with what it may use at most, a budget would be exceeded.
        """
        task = self.task
        intent = CallIntent(
            task.scope, claim.key, kind, name, digest, request, idempotent, reserve, task.limits
        )
        try:
            known = await self._log.begin(intent)
        except (BudgetExceeded, OutcomeUnknown) as error:
            raise self.refused(error, claim.key) from None
        if known is None or known.state != "done":
            return None
        claim.kept = True
        self._tell(kind, known.name, claim.key, known.usage, replayed=True, failed=known.error is not None)
        return known

    async def finish(
        self,
        kind: Kind,
        name: str,
        claim: Claim,
        usage: Usage,
        *,
        response: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        """Journal an outcome; it is durable when this returns. Raises StaleEpoch likewise."""
        outcome = CallOutcome(self.task.scope, claim.key, response, error, usage, self.take_notes())
        await self._log.finish(outcome)
        claim.kept = True
        self._tell(kind, name, claim.key, usage, replayed=False, failed=error is not None)

    def refused(self, error: BudgetExceeded | OutcomeUnknown, key: str) -> BudgetExceeded | OutcomeUnknown:
        """Remember that this call was refused, and why."""
        self.verdict = error
        self.unknown_call = key if isinstance(error, OutcomeUnknown) else None
        return error

    def note_info(self, model: str, info: ModelInfo) -> None:
        """The agent has seen what this model can do."""
        if model not in self._noted:
            self._noted.add(model)
            self._info[model] = to_json(info)

    def note_count(self, model: str, messages: Sequence[Any], count: int) -> None:
        """The agent was told how many tokens these messages are for this model."""
        digest = messages_hash(model, messages)
        if digest not in self._noted:
            self._noted.add(digest)
            self._counts[digest] = count

    def take_notes(self) -> dict[str, Any] | None:
        """What was noted since the last call: `{"info": by model, "counts": by hash}`; None is nothing."""
        info, self._info = self._info, {}
        counts, self._counts = self._counts, {}
        notes = {name: noted for name, noted in (("info", info), ("counts", counts)) if noted}
        return notes or None

    def _tell(self, kind: Kind, name: str, key: str, usage: Usage, *, replayed: bool, failed: bool) -> None:
        self.tokens_spent += usage.input_tokens + usage.output_tokens
        self._observe(CallDone(kind, name, key, usage, replayed, failed))


_in_tool: ContextVar[bool] = ContextVar("in_recorded_tool", default=False)


def in_recorded_tool() -> bool:
    """Whether this code is part of a recorded tool call, whose outcome will cover it."""
    return _in_tool.get()


class RecordedTools:
    """Runs tools under the record, for one attempt at one task."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._uncertain: set[str] = set()

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        run: Callable[[], Awaitable[Any]],
        *,
        idempotent: bool = True,
        call_id: str | None = None,
    ) -> Any:
        """The tool's result as plain JSON; a `ToolError` of the tool is an outcome too, replayed as an error.

        Args:
            call_id: the model's id of the call. It is part of the key beside the hash, because
                servers exist that give every call the same id.

        Raises:
            ToolError: the tool failed, or its result is not JSON.
            OutcomeUnknown: it must not be repeated, and an earlier try has no outcome.
            BudgetExceeded: no tool call is left.
        """
        body = {"name": name, "arguments": to_json(arguments)}
        digest = request_hash(body)
        base = f"tool:{call_id}:{digest[:16]}" if call_id else f"tool:{digest[:16]}"
        with self._recorder.claim(base) as claim:
            done = await self._begin(name, claim, body, digest, idempotent)
            if done is not None:
                return _replayed(done)
            inside = _in_tool.set(True)
            try:
                result = _plain(name, await run())
                reach("agent.tool_done")
            except ToolError as error:
                await self._finish(name, claim, error=error.to_json())
                raise
            finally:
                _in_tool.reset(inside)
            await self._finish(name, claim, response={"result": result})
            return result

    async def _begin(
        self, name: str, claim: Claim, body: dict[str, Any], digest: str, idempotent: bool
    ) -> RecordedCall | None:
        recorder, scope = self._recorder, self._recorder.task.scope
        reserve = Usage(tool_calls=1) if recorder.task.limits else Usage()
        done = await recorder.begin("tool", name, claim, body, digest, idempotent=idempotent, reserve=reserve)
        if done is None:
            self._refuse_uncertain(name, claim.key, idempotent)
            note_side_effect("tool_call", run=scope.run, step=scope.step, tool=name, key=claim.key)
        return done

    def _refuse_uncertain(self, name: str, key: str, idempotent: bool) -> None:
        # The log lets the same attempt begin a call again; that this one was already made is known only here.
        if key in self._uncertain:
            error = OutcomeUnknown(
                f"the tool {name} was begun before in this attempt and its outcome is not known",
                fix="find out whether it took effect; it is not repeated by itself",
            )
            raise self._recorder.refused(error, key)
        if not idempotent:
            self._uncertain.add(key)

    async def _finish(
        self,
        name: str,
        claim: Claim,
        *,
        response: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        usage = Usage(tool_calls=1)
        await self._recorder.finish("tool", name, claim, usage, response=response, error=error)


def _replayed(done: RecordedCall) -> Any:
    if done.error is not None:
        error = error_from_json(done.error)
        if not isinstance(error, ToolError):  # A tool may give its errors a code of its own.
            error = ToolError(error.message, fix=error.fix, code=error.code)
        raise error
    return (done.response or {}).get("result")


def _plain(name: str, result: Any) -> Any:
    """The result as a replay would give it: a first run and its replay must not differ in types."""
    try:
        return json.loads(canonical(to_json(result)))
    except (TypeError, ValueError) as error:
        raise ToolError(
            f"the tool {name} returned what is not JSON: {error}", fix="return plain values"
        ) from None
