"""What one engine step does: plan, compute, choose, tell. Used by one thread only."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from manta.errors import InvalidInput, MantaError
from manta.sampling import TokenLogprob
from serve_app.engine.batch import Segment
from serve_app.engine.bundle import ModelBundle
from serve_app.engine.forms.guide import Guide
from serve_app.engine.kv_cache import KvCache
from serve_app.engine.lookup import Lookup
from serve_app.engine.params import check_params
from serve_app.engine.sampler import Choice, Sampler, Scores, choose_token, likeliest
from serve_app.engine.scheduler import MAX_PENDING, Scheduler, StepPlan
from serve_app.engine.text_stream import TextStream
from serve_app.engine.types import (
    EngineConfig,
    EngineOutput,
    EngineStats,
    FinishReason,
    GenerationRequest,
    SamplingParams,
)

Sink = Callable[[EngineOutput], None]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Live:
    """A request the engine has not finished."""

    request: GenerationRequest
    sink: Sink
    sampler: Sampler
    text: TextStream
    lookup: Lookup
    output_tokens: int = 0
    cached: int = 0


class EngineCore:
    """The scheduler, the model and the requests. `step` does one round."""

    def __init__(self, bundle: ModelBundle, config: EngineConfig) -> None:
        self._bundle = bundle
        model = bundle.model
        self.scheduler = Scheduler(
            config.max_batch, config.kv_tokens, bundle.context, config.prefill_chunk, config.kv_page
        )
        pages = self.scheduler.pages
        self._cache = KvCache(model.spec, pages.total, pages.size, model.dtype, model.device)
        self._live: dict[str, _Live] = {}
        self._steps = 0
        self._prefill_tokens = 0
        self._decode_tokens = 0
        self._cached_tokens = 0
        self._guessed = self._guessed_right = 0
        # Elsewhere a token computed beside others is rounded otherwise than alone, and answers would depend on guesses.
        self._speculates = config.speculate if model.rows_are_alike else 0

    @property
    def busy(self) -> bool:
        return bool(self._live)

    def check(self, request: GenerationRequest) -> None:
        """Raises what `add` would; safe from any thread."""
        self.scheduler.check(len(request.prompt_ids), request.params.max_tokens)
        vocabulary = self._bundle.model.spec.vocab_size
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= vocabulary:
            raise InvalidInput(f"a prompt id lies outside the vocabulary of {vocabulary}")
        check_params(request.params, vocabulary)

    def add(self, request: GenerationRequest, sink: Sink, guide: Guide | None = None) -> None:
        """Take a request in; one that cannot be taken hears its error through the sink.

        `guide` is at the beginning of the request's form, if it has one.
        """
        params, model = request.params, self._bundle.model
        try:
            sampler = Sampler(params, request.prompt_ids, model.spec.vocab_size, model.device, guide)
            self.scheduler.add(
                request.id, request.prompt_ids, params.max_tokens, request.priority, request.deadline
            )
        except (MantaError, RuntimeError, ValueError) as error:
            length = len(request.prompt_ids)
            self._tell(sink, EngineOutput(request.id, "", (), "error", length, 0, 0, str(error)))
            return
        decode = partial(self._bundle.tokenizer.decode, skip_special_tokens=params.skip_special_tokens)
        text = TextStream(decode, params.stop, params.stop_until)
        lookup = Lookup(request.prompt_ids, self._speculates)
        self._live[request.id] = _Live(request, sink, sampler, text, lookup)

    def end(self, id: str, reason: FinishReason, error: str | None = None) -> None:
        """Free a request's slot and tell its sink. Unknown ids are ignored."""
        live = self._live.get(id)
        if live is not None:
            self._finish(live, live.text.finish() if reason == "cancelled" else "", (), reason, error)

    def end_all(self, reason: FinishReason, error: str | None = None) -> None:
        for id in list(self._live):
            self.end(id, reason, error)

    def step(self, now: float) -> None:
        """One round: drop what lapsed, compute one plan, give each request its token."""
        for id in self.scheduler.lapsed(now):
            self.end(id, "cancelled")
        plan = self.scheduler.plan()
        for copy in plan.copies:
            self._cache.copy(copy.sources, copy.targets)
        if not plan.segments:
            return
        logits = self._bundle.model.forward(plan.segments, self._cache)
        self.scheduler.advance(plan)
        self._count(plan)
        best = likeliest(logits)
        row = 0
        for id, segment in zip(plan.ids, plan.segments, strict=True):
            if segment.wanted:
                rows = slice(row, row + segment.wanted)
                self._go_on(self._live[id], segment, logits[rows], best[rows])
                row = rows.stop

    def _go_on(self, live: _Live, segment: Segment, logits: torch.Tensor, best: list[int]) -> None:
        """Choose a request's next token, and further ones as long as what was guessed is what was chosen.

        Row `n` of the logits is behind the last known token and `n` tokens of the guess.
        """
        guessed, right = segment.guessed, 0
        self._guessed += len(guessed)
        while tokens := self._chosen(live, logits[right], best[right]):
            live.lookup.add(tokens)
            same = _common(guessed[right:], tokens)
            right += same
            # Here and not at the end: whoever hears of the end of an answer finds all of it counted.
            self._guessed_right += same
            self._decode_tokens += same
            self.scheduler.was_right(live.request.id, same)
            if same < len(tokens):
                break
        if live.request.id in self._live:
            live.lookup.heard(len(guessed), right)
            self.scheduler.guess(live.request.id, live.lookup.guess())

    def _chosen(self, live: _Live, logits: torch.Tensor, best: int) -> tuple[int, ...]:
        """The tokens that a request goes on with after this row of logits; none where it ended."""
        choice = choose_token(live.sampler, logits, best)
        if isinstance(choice, Exception):
            self._finish(live, "", (), "error", f"sampling failed: {choice}")
            return ()
        return self._accept(live, choice)

    def stats(self) -> EngineStats:
        return EngineStats(
            waiting=self.scheduler.waiting,
            running=len(self.scheduler.running),
            kv_tokens_used=self.scheduler.reserved,
            kv_tokens_total=self.scheduler.kv_places,
            steps=self._steps,
            prefill_tokens=self._prefill_tokens,
            decode_tokens=self._decode_tokens,
            cached_tokens=self._cached_tokens,
            preempted=self.scheduler.preempted,
            guessed=self._guessed,
            guessed_right=self._guessed_right,
        )

    def _count(self, plan: StepPlan) -> None:
        self._steps += 1
        self._cached_tokens += sum(copy.tokens for copy in plan.copies)
        for id, segment in zip(plan.ids, plan.segments, strict=True):
            live = self._live[id]
            live.cached = self.scheduler.running[id].cached
            # After a pre-emption what was generated is read again like a prompt, and so is what a form forced.
            known = len(segment.tokens) - len(segment.guessed)
            if segment.position < len(live.request.prompt_ids) or known > 1:
                self._prefill_tokens += known
            else:
                self._decode_tokens += 1

    def _accept(self, live: _Live, choice: Choice) -> tuple[int, ...]:
        """Add a chosen token to a request, and those its form forces. Returns them, or none where it ended."""
        params, token = live.request.params, choice.token
        live.output_tokens += 1
        if self._ends(params, token):
            self._finish(live, live.text.finish(), (token,), "stop")
            return ()
        logprobs = () if choice.scores is None else (self._logprob(token, choice.scores),)
        room = min(params.max_tokens - live.output_tokens, MAX_PENDING - 1)
        tokens = (token, *live.sampler.forced(room))
        text = ""
        for token in tokens:
            if not live.text.stopped:
                text += live.text.push(token)
        live.output_tokens += len(tokens) - 1
        if live.text.stopped:
            self._finish(live, text, tokens, "stop", logprobs=logprobs)
        elif live.sampler.form_ended:
            self._finish(live, text + live.text.finish(), tokens, "stop", logprobs=logprobs)
        elif live.output_tokens >= params.max_tokens:
            self._finish(live, text + live.text.finish(), tokens, "length", logprobs=logprobs)
        else:
            self.scheduler.append(live.request.id, *tokens)
            if self._tell(live.sink, self._output(live, text, tokens, None, logprobs=logprobs)):
                return tokens
            self._finish(live, "", (), "error", "the receiver of this request failed")
        return ()

    def _ends(self, params: SamplingParams, token: int) -> bool:
        """Whether a token ends the answer. A form allows end tokens only where it may end."""
        if token in params.stop_token_ids:
            return True
        return token in self._bundle.end_ids and (params.form is not None or not params.ignore_eos)

    def _logprob(self, token: int, scores: Scores) -> TokenLogprob:
        piece = self._bundle.tokenizer.piece
        top = tuple([piece(id), id, value] for id, value in scores.top)
        return TokenLogprob(piece(token), token, scores.chosen, top)

    def _finish(
        self,
        live: _Live,
        text: str,
        tokens: tuple[int, ...],
        reason: FinishReason,
        error: str | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        self.scheduler.remove(live.request.id)
        self._live.pop(live.request.id, None)
        self._tell(live.sink, self._output(live, text, tokens, reason, error, logprobs))

    @staticmethod
    def _output(
        live: _Live,
        text: str,
        tokens: tuple[int, ...],
        reason: FinishReason | None,
        error: str | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> EngineOutput:
        return EngineOutput(
            live.request.id,
            text,
            tokens,
            reason,
            input_tokens=len(live.request.prompt_ids),
            output_tokens=live.output_tokens,
            cached_tokens=live.cached,
            error=error,
            logprobs=logprobs,
        )

    @staticmethod
    def _tell(sink: Sink, output: EngineOutput) -> bool:
        """Call a sink; False when it raised, which must not harm the other requests."""
        try:
            sink(output)
        except Exception:
            _log.exception("sink of request %s raised", output.request_id)
            return False
        return True


def _common(guess: tuple[int, ...], tokens: tuple[int, ...]) -> int:
    """How many first tokens are the same."""
    pairs = zip(guess, tokens, strict=False)
    return next(
        (at for at, (guessed, token) in enumerate(pairs) if guessed != token), min(len(guess), len(tokens))
    )
