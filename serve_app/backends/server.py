"""An inference server of another make (vLLM, SGLang, llama.cpp ...) as a process of the replica, on its GPUs."""

import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import httpx

from manta.config import ModelSettings, child_environment
from manta.errors import ModelLoadError, RemoteModelError, Unavailable
from manta.machine import usable_cores
from manta.messages import ChatChunk, ChatMessage, ChatRequest, ModelInfo
from manta.telemetry import get_logger
from serve_app.backends.openai_client import DEFAULT_WINDOW, OpenAIClient, client_for, estimate
from serve_app.backends.server_command import HOST, launch, search_path
from serve_app.backends.server_process import ServerProcess, free_port
from serve_app.backends.server_restarts import Restarts

POLL_S = 0.1
PROBE_TIMEOUT_S = 10.0
LONGEST_DRAIN_S = 600.0
"""As long as Serve itself waits for a replica's streams."""
STRIKES = 3
"""Probes in a row that fail before a server that runs counts as dead."""


class ServerBackend:
    """Starts the server, watches it, starts it again when it dies, and speaks OpenAI's API to it.

    Args:
        probe_s: seconds between two looks at a server that runs.
        first_delay_s: before the first new start of one that died; doubles with each further death.
    """

    def __init__(
        self, name: str, settings: ModelSettings, *, probe_s: float = 5.0, first_delay_s: float = 1.0
    ) -> None:
        self._name = name
        self._settings = settings
        self._probe_s = probe_s
        self._restarts = Restarts(settings.launch.restarts, first_delay_s)
        self._log = get_logger(f"server.{name}")
        self._probe = httpx.Client(timeout=PROBE_TIMEOUT_S, trust_env=False)
        self._stopping = threading.Event()
        self._idle = threading.Condition()
        self._process: ServerProcess | None = None
        self._client: OpenAIClient | None = None
        self._watcher: threading.Thread | None = None
        self._health_url = ""
        self._given_up = False
        self._in_flight = self._served = self._started = 0

    def start(self) -> None:
        """Returns once the server is ready. Raises ModelLoadError with its last lines if it ends or is late."""
        self._bring_up()
        self._watcher = threading.Thread(target=self._watch, name=f"watch {self._name}", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Let the streams end, then the server with all its processes. New streams are refused at once.

        Blocks for as long as a stream goes on, so not to be called on the loop that carries them.
        """
        self._stopping.set()
        with self._idle:
            self._idle.wait_for(lambda: self._in_flight == 0, LONGEST_DRAIN_S)
        if self._watcher is not None:
            self._watcher.join()
        self._take_down()

    @property
    def healthy(self) -> bool:
        """False once the server has died more often in a row than `launch.restarts` allows."""
        return not self._given_up

    async def info(self) -> ModelInfo:
        """The window is the configured one, else what the server tells, else `DEFAULT_WINDOW`."""
        window = self._settings.context_window
        if not window and (client := self._client) is not None:
            window = await client.window() or 0
        return ModelInfo(self._name, window or DEFAULT_WINDOW, self._settings.abilities)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """The server's own count where it has vLLM's `/tokenize`, else an estimate."""
        client = self._client
        return await client.count_tokens(messages) if client is not None else estimate(messages)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatChunk, None]:
        with self._flight():
            client = self._client
            if client is None:
                raise RemoteModelError(
                    f"model {self._name}: its server is not running just now", fix="try again"
                )
            async with aclosing(client.stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
            self._served += 1

    def stats(self) -> dict[str, Any]:
        """`starts` counts the first one too."""
        return {"served": self._served, "running": self._in_flight, "starts": self._started}

    @contextmanager
    def _flight(self) -> Iterator[None]:
        with self._idle:
            if self._stopping.is_set():
                raise Unavailable(f"model {self._name}: its replica is being stopped", fix="try again")
            self._in_flight += 1
        try:
            yield
        finally:
            with self._idle:
                self._in_flight -= 1
                self._idle.notify_all()

    def _bring_up(self) -> None:
        settings = self._settings
        threads = settings.threads or usable_cores()
        started = launch(self._name, settings, free_port(HOST), threads)
        environment = child_environment(PATH=search_path(child_environment().get("PATH", "")))
        # Ray leaves a replica with less than a CPU one thread, and its server would inherit that.
        environment |= {"OMP_NUM_THREADS": str(threads), **settings.launch.env}
        process = ServerProcess(self._name, started.arguments, environment, settings.launch.grace_s)
        self._process = process
        self._started += 1
        try:
            self._until_ready(process, started.health_url)
        except ModelLoadError:
            self._take_down()
            raise
        self._health_url = started.health_url
        fix = "its server is started again; try again"
        self._client = client_for(self._name, settings, started.model, started.base_url, fix=fix)

    def _until_ready(self, process: ServerProcess, health_url: str) -> None:
        deadline = time.monotonic() + self._settings.launch.start_timeout_s
        while not self._answers(health_url):
            if process.wait(POLL_S):
                cause = f"model {self._name}: its server ended with status {process.status()} in starting"
                raise ModelLoadError(_with_output(cause, process), fix=f"check models.{self._name}.launch")
            if self._stopping.is_set():
                raise ModelLoadError(f"model {self._name} was stopped while its server started")
            if time.monotonic() > deadline:
                waited = self._settings.launch.start_timeout_s
                cause = f"model {self._name}: its server was not ready after {waited:g} s"
                fix = f"check models.{self._name}.launch, or raise its start_timeout_s"
                raise ModelLoadError(_with_output(cause, process), fix=fix)

    def _answers(self, url: str) -> bool:
        try:
            return self._probe.get(url).status_code == 200
        except httpx.HTTPError:
            return False

    def _take_down(self) -> None:
        self._client = None
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            ready_at = time.monotonic()
            assert self._process is not None
            why = self._until_dead(self._process)
            if why is None:
                return
            lived_s = time.monotonic() - ready_at
            self._log.error("the server of model %s %s", self._name, why)
            self._take_down()
            if not self._start_again(lived_s):
                return

    def _until_dead(self, process: ServerProcess) -> str | None:
        """Why the server counts as dead; None when the replica stops."""
        strikes, look_at = 0, time.monotonic() + self._probe_s
        while not self._stopping.wait(POLL_S):
            if process.status() is not None:
                return f"ended with status {process.status()}"
            if time.monotonic() < look_at:
                continue
            strikes = 0 if self._answers(self._health_url) else strikes + 1
            if strikes >= STRIKES:
                return f"did not answer {strikes} times in a row"
            look_at = time.monotonic() + self._probe_s
        return None

    def _start_again(self, lived_s: float) -> bool:
        """Whether it is ready again. False when the replica stops, or has given up."""
        self._restarts = self._restarts.after_death(lived_s)
        while (delay := self._restarts.delay_s) is not None:
            if self._stopping.wait(delay):
                return False
            try:
                self._bring_up()
            except ModelLoadError as error:
                self._log.error("%s", error)
                self._restarts = self._restarts.after_death(0)
            else:
                return True
        self._given_up = True
        return False


def _with_output(cause: str, process: ServerProcess) -> str:
    output = process.last_lines()
    return f"{cause}; its last lines:\n{output}" if output else f"{cause}; it wrote nothing"
