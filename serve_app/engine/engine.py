"""The engine: one thread that steps the model over all requests, and a thread-safe door to it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from manta.errors import InvalidInput, ModelError
from serve_app.engine.bundle import ModelBundle, load_bundle
from serve_app.engine.chat_template import defused
from serve_app.engine.core import EngineCore
from serve_app.engine.forms.compiler import FormCompiler
from serve_app.engine.forms.form import Form
from serve_app.engine.types import EngineConfig, EngineOutput, EngineStats, GenerationRequest, SamplingParams

__all__ = ["Engine", "EngineConfig", "EngineOutput", "EngineStats", "GenerationRequest", "SamplingParams"]

_log = logging.getLogger(__name__)


class Engine:
    """Runs generations in its own thread. Every method may be called from any thread.

    A sink is called in the engine's thread, the last time with a finish reason; several times in a step where guesses
    were right.
    """

    def __init__(
        self, bundle: ModelBundle, config: EngineConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bundle = bundle
        self._threads = config.threads
        self._clock = clock
        self._core = EngineCore(bundle, config)
        self._forms = FormCompiler(bundle.tokenizer, bundle.model.spec.vocab_size, bundle.end_ids)
        self._wake = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._failure: str | None = None
        self._thread: threading.Thread | None = None
        self.context_window = min(bundle.context, self._core.scheduler.kv_places)
        self.model_name = bundle.name
        self.architecture = bundle.model.spec.architecture

    @classmethod
    def load(cls, path: Path, config: EngineConfig) -> "Engine":
        """Load a `.gguf` file or a model folder. Raises ModelLoadError or InvalidConfig."""
        if config.threads > 0:
            torch.set_num_threads(config.threads)
        return cls(load_bundle(path, config), config)

    @property
    def dtype(self) -> str:
        return str(self.bundle.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        return str(self.bundle.model.device)

    @property
    def healthy(self) -> bool:
        """False once a step has crashed; then every request fails and the engine must be loaded anew."""
        return self._failure is None

    def start(self) -> None:
        """Start stepping; does nothing when already started."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="manta-engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Finish the present step, end all requests as cancelled, and wait for the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def submit(self, request: GenerationRequest, sink: Callable[[EngineOutput], None]) -> None:
        """Queue a generation. A form that was not prepared is compiled first, here.

        Raises:
            ContextLengthExceeded, InvalidInput: the request can never run.
            ModelError: the engine is not running.
        """
        self._core.check(request)
        form = request.params.form
        guide = None if form is None else self._forms.guide(form)
        self._post(lambda: self._core.add(request, sink, guide))

    def prepare(self, form: Form) -> None:
        """Compile a form, which may take a second, and keep it. Raises InvalidInput for one that cannot be used."""
        self._forms.prepare(form)

    def cancel(self, request_id: str) -> None:
        """End a request before the next step; its sink hears `cancelled`. Unknown ids are ignored."""
        self._post(lambda: self._core.end(request_id, "cancelled"), only_if_running=True)

    def renew(self, request_id: str, deadline: float | None) -> None:
        """Move a request's deadline (monotonic seconds)."""
        self._post(lambda: self._core.scheduler.renew(request_id, deadline), only_if_running=True)

    def render_chat(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> tuple[int, ...]:
        """Prompt ids for a conversation, ending where the assistant speaks. Raises InvalidInput."""
        return tuple(self.encode(self.render_text(messages, tools)))

    def render_text(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """The prompt for a conversation as text, whose special tokens are meant. Raises InvalidInput.

        What looks like a special token inside a message or a tool stays text: a document that says `<|im_end|>`
        must not end the turn it is quoted in.
        """
        if self.bundle.template is None:
            raise InvalidInput(f"model {self.model_name} has no chat template", fix="send a plain prompt")
        special = self.bundle.tokenizer.special_tokens
        return self.bundle.template.render(defused(messages, special), defused(tools, special))

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return self.bundle.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self.bundle.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def stats(self) -> EngineStats:
        """A snapshot; fields may be from neighbouring steps."""
        return self._core.stats()

    def _post(self, action: Callable[[], None], *, only_if_running: bool = False) -> None:
        with self._wake:
            if self._failure is not None or self._stopping:
                if only_if_running:
                    return
                cause = self._failure or "it was stopped"
                raise ModelError(f"the engine is not running: {cause}", fix="restart the replica")
            self._inbox.append(action)
            self._wake.notify()

    def _run(self) -> None:
        if self._threads > 0:
            # OpenMP keeps the number of threads per calling thread.
            torch.set_num_threads(self._threads)
        try:
            while self._take_inbox():
                self._core.step(self._clock())
        except Exception as error:
            _log.exception("engine step crashed")
            self._close(f"{type(error).__name__}: {error}")
        else:
            self._close(None)

    def _take_inbox(self) -> bool:
        """Run what callers asked for; waits when there is nothing to do. False when it is time to stop."""
        with self._wake:
            while not (self._inbox or self._stopping or self._core.busy):
                self._wake.wait()
            actions = list(self._inbox)
            self._inbox.clear()
            stopping = self._stopping
        for action in actions:
            action()
        return not stopping

    def _close(self, failure: str | None) -> None:
        """End every request, those still in the inbox included."""
        with self._wake:
            self._failure = failure
            self._stopping = True
            actions = list(self._inbox)
            self._inbox.clear()
        for action in actions:
            action()
        self._core.end_all("error" if failure else "cancelled", failure)
