"""Whose fault an error of a model call is, and who may be asked next."""

from manta.errors import (
    ContextLengthExceeded,
    InvalidInput,
    MantaError,
    ModelError,
    ModelLoadError,
    Overloaded,
    ReplicaLost,
    Unavailable,
)

MODEL_UNAVAILABLE = "model_unavailable"
"""Of a model whose breaker is open."""
_FOR_THE_OPERATOR = frozenset({"remote_model_unauthorized", "remote_model_not_found", "internal_error"})
"""What no caller can mend, and waiting does not either."""


def counts_against_model(error: MantaError) -> bool:
    """Whether its breaker should know: neither the caller's fault, nor a queue that is full.

    A lost replica is no sign of a bad model: all its calls fail at once, and Serve replaces it while others wait.
    """
    if error.code in _FOR_THE_OPERATOR or isinstance(error, ModelLoadError):
        return True
    if isinstance(error, ContextLengthExceeded | ReplicaLost):
        return False
    return isinstance(error, ModelError) and error.retryable


def may_pass(error: MantaError) -> bool:
    """Whether the same model is asked again.

    A full queue is none of these: asked again it would only be longer than it is meant to be.
    """
    return error.retryable and error.code not in (MODEL_UNAVAILABLE, Overloaded.code)


def another_may_answer(error: MantaError, *, fallback: bool, on_length: bool) -> bool:
    """Whether the next model of the chain is asked.

    Args:
        fallback: the error is a fallback's, which may not take all that the model takes that it stands in for.
        on_length: a prompt that is too long for the model goes on too.
    """
    if isinstance(error, ContextLengthExceeded):
        return fallback or on_length
    if fallback and isinstance(error, InvalidInput | ModelError):
        return True
    passing = isinstance(error, ModelError | Unavailable) and error.retryable
    return passing or counts_against_model(error)
