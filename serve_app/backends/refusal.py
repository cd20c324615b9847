"""An HTTP status of another party's server as an error of ours: what to mend, and whether to try again."""

from manta.errors import ContextLengthExceeded, ModelError, RemoteModelError


class Refused(RemoteModelError):
    """A refusal that trying again cannot change."""

    retryable = False


def refusal(name: str, status: int, text: str, named_by: str) -> ModelError:
    """The error for an answer that is not 200. `named_by` is the key under `models.NAME` that names the model there.

    The text is shortened; the server's own words about a key are left out, as they may hold it.
    """
    text = " ".join(text.split())[:300]
    if status in (401, 403):
        fix = f"check the key in the variable that models.{name}.api_key_env names"
        return Refused(
            f"model {name}: the server refused the key ({status})", fix=fix, code="remote_model_unauthorized"
        )
    if status == 404:
        fix = f"check models.{name}.base_url and models.{name}.{named_by}"
        return Refused(
            f"model {name}: the server does not know it (404): {text}", fix=fix, code="remote_model_not_found"
        )
    if status == 400 and "context" in text.lower():
        return ContextLengthExceeded(f"model {name}: {text}", fix="shorten the prompt")
    if status in (408, 409, 429) or status >= 500:
        return RemoteModelError(f"model {name}: the server answered {status}: {text}", fix="try again later")
    return Refused(f"model {name}: the server answered {status}: {text}", fix="see its documentation")


def told_pause_s(header: str) -> float | None:
    """The seconds of a `Retry-After`; None where it tells none, or a date, as no model's server does."""
    return float(header) if header.strip().isascii() and header.strip().isdigit() else None
