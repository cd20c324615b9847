"""Every error Manta raises on purpose.

    MantaError                      code, message, fix, HTTP status; picklable
    ├── InvalidInput                400/422: what the caller sent cannot be used
    │   ├── InvalidGraph            a graph that cannot run
    │   ├── InvalidConfig           manta.yaml or the environment
    │   ├── UnreadableDocument      a file that cannot be read as text
    │   └── UnreadableData          a data file that is not a table
    ├── NotFound                    404: no such run, graph, agent, model
    ├── Conflict                    409: the thing is in another state
    │   └── IdempotencyConflict     422: the key was used with another body
    ├── Unauthorized                401
    ├── Forbidden                   403: the key is not for this
    ├── StaleEpoch                  409: a zombie writes after it was fenced
    ├── Unavailable                 503: try again later
    │   ├── StorageUnavailable      the journal cannot be written
    │   ├── CoordinatorUnavailable  the coordinator does not answer
    │   ├── Overloaded              429: too much is queued
    │   └── RateLimited             429: the key asks too often, or for too much at once
    ├── PlatformError               starting, finding or stopping the platform
    ├── ModelError                  502: a model could not answer
    │   ├── ModelLoadError          its files are missing or broken
    │   ├── ReplicaLost             the process that was answering is gone; another takes its place
    │   ├── ContextLengthExceeded   400: the prompt does not fit
    │   └── RemoteModelError        a remote server refused or cannot be reached
    ├── ToolError                   a tool could not do its work; agents see it as a result
    │   ├── SandboxUnavailable      no safe way to run code here
    │   └── BlockedAddress          an address that must not be fetched
    ├── StepError                   a step failed
    │   ├── StepTimeout             504
    │   ├── OutcomeUnknown          a call that must not be repeated has no recorded outcome
    │   ├── Rejected                a person said no
    │   └── ReplayMismatch          a replayed step asked for something the record does not have
    ├── RunCancelled                the run was cancelled
    └── BudgetExceeded              429

`str(error)` is one line: code, cause and fix.
"""

from typing import Any, ClassVar


class MantaError(Exception):
    """Base of the tree.

    Args:
        message: the cause, in one sentence.
        fix: what the reader can do about it; may be empty.
        code: a stable word for programs; each class has its own default.
    """

    code: str = "error"
    http_status: ClassVar[int] = 500
    retryable: bool = False
    """Whether the same request may succeed later. A class's own; `error_from_json` keeps what the sender said."""
    retry_after_s: float | None = None
    """Seconds until it may, where whoever raises it knows; told by HTTP's `Retry-After`, not in JSON."""

    def __init__(self, message: str, *, fix: str = "", code: str | None = None) -> None:
        # Everything goes to the base constructor: pickle rebuilds an exception from its args.
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.fix, self.code, self.retryable, self.retry_after_s)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" ({self.fix})" if self.fix else "")

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "fix": self.fix, "retryable": self.retryable}


def _rebuild(
    kind: type[MantaError],
    message: str,
    fix: str,
    code: str,
    retryable: bool,
    retry_after_s: float | None = None,
) -> MantaError:
    error = kind(message, fix=fix, code=code)
    error.retryable = retryable
    error.retry_after_s = retry_after_s
    return error


class InvalidInput(MantaError):
    code = "invalid_input"
    http_status = 422


class InvalidGraph(InvalidInput):
    code = "invalid_graph"


class InvalidConfig(InvalidInput):
    code = "invalid_config"


class UnreadableDocument(InvalidInput):
    code = "unreadable_document"


class UnreadableData(InvalidInput):
    code = "unreadable_data"


class NotFound(MantaError):
    code = "not_found"
    http_status = 404


class Conflict(MantaError):
    code = "conflict"
    http_status = 409


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"
    http_status = 422


class Unauthorized(MantaError):
    code = "invalid_api_key"
    http_status = 401


class Forbidden(MantaError):
    code = "insufficient_scope"
    http_status = 403


class StaleEpoch(MantaError):
    code = "stale_epoch"
    http_status = 409


class Unavailable(MantaError):
    code = "unavailable"
    http_status = 503
    retryable = True


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"


class CoordinatorUnavailable(Unavailable):
    code = "coordinator_unavailable"


class Overloaded(Unavailable):
    code = "overloaded"
    http_status = 429


class RateLimited(Unavailable):
    code = "rate_limited"
    http_status = 429


class PlatformError(MantaError):
    code = "platform_error"


class ModelError(MantaError):
    code = "model_error"
    http_status = 502
    retryable = True


class ModelLoadError(ModelError):
    code = "model_load_error"
    retryable = False


class ReplicaLost(ModelError):
    code = "replica_lost"


class ContextLengthExceeded(ModelError):
    code = "context_length_exceeded"
    http_status = 400
    retryable = False


class RemoteModelError(ModelError):
    code = "remote_model_error"


class ToolError(MantaError):
    code = "tool_error"


class SandboxUnavailable(ToolError):
    code = "sandbox_unavailable"


class BlockedAddress(ToolError):
    code = "blocked_address"


class StepError(MantaError):
    code = "step_failed"


class StepTimeout(StepError):
    code = "step_timeout"
    http_status = 504
    retryable = True


class OutcomeUnknown(StepError):
    code = "outcome_unknown"


class Rejected(StepError):
    code = "rejected"


class ReplayMismatch(StepError):
    code = "replay_mismatch"


class RunCancelled(MantaError):
    code = "cancelled"
    http_status = 409


class BudgetExceeded(MantaError):
    code = "budget_exceeded"
    http_status = 429


def error_from_json(data: dict[str, Any]) -> MantaError:
    """The error a service described in JSON, as the class its code belongs to (MantaError if unknown)."""
    code = str(data.get("code", "error"))
    kind = _by_code(MantaError).get(code, MantaError)
    error = kind(str(data.get("message", "unknown error")), fix=str(data.get("fix", "")), code=code)
    error.retryable = bool(data.get("retryable", kind.retryable))
    return error


def _by_code(base: type[MantaError]) -> dict[str, type[MantaError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        for code, kind in _by_code(child).items():
            found.setdefault(code, kind)
    return found
