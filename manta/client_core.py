"""What the two clients share: every decision that needs no I/O. Addresses, retries, patience, failures."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from manta.config import client_key, load_settings
from manta.errors import MantaError, PlatformError, Unavailable
from manta.messages import ChatMessage
from manta.sse import Follower, Patience
from manta.wire import Call, RunResult, runs, unreachable

Messages = str | Sequence[ChatMessage | Mapping[str, Any]]

TRIES = 3
CONNECT_TIMEOUT_S = 5.0
# The service sends a comment every 15 s; three missed ones mean that the connection is dead.
STREAM_SILENCE_S = 50.0
WAIT_TIMEOUT_S = 60.0
PATIENCE_S = 60.0
# How a platform looks while it restarts: nothing listens, or Serve's proxy has no application yet.
AWAY = frozenset({"platform_unreachable", "http_404", "http_500", "http_502", "http_503", "http_504"})


class ClientCore:
    """Where the service is, and the decisions that need no I/O."""

    def __init__(self, base_url: str | None, api_key: str | None, patience_s: float) -> None:
        self.base_url = (base_url or load_settings().address).rstrip("/")
        api_key = api_key or client_key()
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.patience_s = patience_s
        self.met = False
        """The service has answered before, so that when it does not it is away, not absent."""

    def arguments(self, call: Call[Any]) -> dict[str, Any]:
        body = {"json": call.json} if call.json is not None else {"content": call.content}
        timeout = httpx.Timeout(call.read_timeout_s, connect=CONNECT_TIMEOUT_S)
        return {**body, "params": dict(call.params), "headers": dict(call.headers), "timeout": timeout}

    def lost(self, call: Call[Any], error: httpx.HTTPError, attempt: int) -> MantaError | None:
        """None when the call should be sent again."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return unreachable(self.base_url, error)
        if isinstance(error, httpx.TimeoutException):
            return PlatformError(
                f"no answer to {call.method} {call.path} in {call.read_timeout_s:.0f} s",
                fix="manta status",
                code="platform_timeout",
            )
        if call.repeatable and attempt < TRIES:
            return None
        return PlatformError(
            f"the connection to {self.base_url} broke: {error or type(error).__name__}",
            fix="manta status",
            code="platform_unreachable",
        )

    def follower(self, run_id: str, after: int) -> Follower:
        patience = Patience(run_id, self.patience_s, time.monotonic)
        return Follower(run_id, after, patience, time.time, time.monotonic)

    def again(self, error: Exception, patience: Patience) -> float:
        """Seconds until a watched run is asked for again; raises `error` when that is no use."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            error = unreachable(self.base_url, error)
        if isinstance(error, MantaError):
            away = isinstance(error, Unavailable) or (self.met and error.code in AWAY)
            if not away:
                raise error from None
        return patience.lost(str(error) or type(error).__name__)

    def stream_timeout(self, silence_s: float | None) -> httpx.Timeout:
        silence_s = STREAM_SILENCE_S if silence_s is None else min(silence_s, STREAM_SILENCE_S)
        return httpx.Timeout(silence_s, connect=CONNECT_TIMEOUT_S)


def stream_path(run_id: str) -> str:
    return runs.get(run_id).path + "/stream"


def succeeded(result: RunResult) -> RunResult:
    """Raises the error of a run without success; of one that waits for a person, an error of the code `waiting`."""
    if result.run.status != "success":
        raise result.run.failure()
    return result


class Waiting:
    """The state of a wait that may take several requests."""

    def __init__(self, client: ClientCore, run_id: str, timeout: float | None) -> None:
        self._client, self._run_id, self._timeout = client, run_id, timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._patience = Patience(run_id, client.patience_s, time.monotonic)

    def call(self) -> Call[RunResult]:
        left = (
            WAIT_TIMEOUT_S
            if self._deadline is None
            else min(WAIT_TIMEOUT_S, self._deadline - time.monotonic())
        )
        if left <= 0:
            raise _late(self._run_id, self._timeout or 0)
        return runs.wait(self._run_id, left)

    def pause(self, error: MantaError) -> float:
        """Seconds until the next request."""
        if error.code == "platform_timeout":
            self._patience.reset()
            return 0
        return self._client.again(error, self._patience)


def _late(run_id: str, timeout: float) -> PlatformError:
    return PlatformError(
        f"run {run_id} is not done after {timeout:g} s and goes on",
        fix=f"manta logs {run_id} --follow",
        code="wait_timeout",
    )
