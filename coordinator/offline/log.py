"""A record that answers every call of a step from the journal, and refuses those it does not have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.request_deltas import whole
from coordinator.offline.differences import likeness, request_difference
from coordinator.offline.recording import StepRecording
from manta.errors import PlatformError, ReplayMismatch, StepError
from manta.ids import StepKey
from manta.messages import CallIntent, CallOutcome, RecordedCall, Task


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where the present code leaves the record. `call`: the how manieth of the step, from 1."""

    step: StepKey | None
    cause: str
    call: int | None = None
    difference: tuple[str, ...] = ()

    def error(self) -> ReplayMismatch:
        where = f"step {self.step}" if self.step else "the run"
        where += f", call {self.call}" if self.call else ""
        return ReplayMismatch(f"{where}: {self.cause}", fix="see the difference")


class RecordEnds(StepError):
    """Nothing is recorded beyond this call: its process died, or the step was stopped."""

    code = "record_ends"


class ReplayLog:
    """The `CallLog` of one step execution's replay.

    `mismatch` is the first one, whatever the agent makes of its error; `ended` says whether the agent came to
    where the record ends.
    """

    def __init__(self, recording: StepRecording) -> None:
        self._recording = recording
        self._asked: dict[str, dict[str, Any]] = {}
        self.step = recording.record.key
        self.mismatch: Mismatch | None = None
        self.ended = False

    @property
    def replayed(self) -> int:
        """Calls that were answered."""
        return len(self._asked)

    async def begin(self, intent: CallIntent) -> RecordedCall | None:
        """The recorded call.

        Raises:
            ReplayMismatch: it is not in the record, or was another.
            RecordEnds: it has no outcome there, or the record of a step that was cut off ends before it.
        """
        request = whole(intent.request, self._asked)
        found = next((call for call, _ in self._recording.calls if call.key == intent.key), None)
        if found is None and not self._unasked() and self._recording.record.state != "done":
            raise self._end()
        if found is None or found.request_hash != intent.request_hash:
            raise self._differs(intent, request)
        if found.state != "done":
            raise self._end()
        self._asked[found.key] = request
        return found

    async def finish(self, outcome: CallOutcome) -> None:
        """Raises PlatformError: nothing is made here, so nothing can have come to an end."""
        raise PlatformError(f"call {outcome.key} was made during a replay", fix="report this defect")

    def refuse(self, cause: str) -> StepError:
        """What the agent wants besides its calls is not in the record either: ReplayMismatch or RecordEnds.

        The notes of a step that was cut off end with the last outcome, as they travel with outcomes.
        """
        cut_off = self._recording.record.state != "done"
        if cut_off and not any(call.state == "done" for call in self._unasked()):
            return self._end()
        return self._first(Mismatch(self.step, cause, self.replayed + 1))

    def left_over(self) -> Mismatch | None:
        """A call of the step's last attempt that was never asked for."""
        last = self._recording.record.attempt
        for number, (call, attempt) in enumerate(self._recording.calls, 1):
            if call.key not in self._asked and call.state == "done" and attempt == last:
                cause = f"the recorded {call.kind} call {call.name!r} is no longer made"
                gone = tuple(request_difference(call.request, None))
                return Mismatch(self.step, cause, number, gone)
        return None

    def _unasked(self) -> list[RecordedCall]:
        return [call for call, _ in self._recording.calls if call.key not in self._asked]

    def _differs(self, intent: CallIntent, request: dict[str, Any]) -> ReplayMismatch:
        nearest = _nearest(request, [call for call in self._unasked() if call.kind == intent.kind])
        how = "is not in the record" if nearest is None else "differs from the recorded one"
        difference = request_difference(nearest.request if nearest is not None else None, request)
        cause = f"the {intent.kind} call {intent.name!r} {how}"
        return self._first(Mismatch(self.step, cause, self.replayed + 1, tuple(difference)))

    def _first(self, mismatch: Mismatch) -> ReplayMismatch:
        self.mismatch = self.mismatch or mismatch
        return mismatch.error()

    def _end(self) -> RecordEnds:
        self.ended = True
        return RecordEnds(f"the record of step {self.step} ends at call {self.replayed + 1}")


def _nearest(request: dict[str, Any], calls: Sequence[RecordedCall]) -> RecordedCall | None:
    """The recorded call that has most in common with the request, of equals the first."""
    return max(calls, key=lambda call: likeness(call.request or {}, request), default=None)


class CurrentLog:
    """The log of the step that is replayed just now: a replay goes one step at a time."""

    def __init__(self) -> None:
        self._log: ReplayLog | None = None

    def open(self, recording: StepRecording) -> ReplayLog:
        self._log = ReplayLog(recording)
        return self._log

    def of(self, task: Task) -> ReplayLog:
        """Raises PlatformError for another step's task."""
        if self._log is None or self._log.step != task.scope.step:
            raise PlatformError(f"step {task.scope.step} is not the one replayed", fix="report this defect")
        return self._log

    def refuse(self, cause: str) -> StepError:
        """See `ReplayLog.refuse`."""
        if self._log is None:
            raise PlatformError(f"no step is replayed: {cause}", fix="report this defect")
        return self._log.refuse(cause)
