"""How long the requests of a replica wait, and which of them cannot be answered in time. Pure."""

from dataclasses import dataclass

from manta.messages import ChatRequest

CHARS_PER_TOKEN = 4
MEMORY = 0.2
"""The share that a new answer has in the means."""
CAUTION = 2.0
"""So many usual deviations an answer is reckoned to take longer than a usual one. Under load all that wait come to
where they can just be in time; without it every other would then be late."""
UNBOUNDED = 1_000_000
UNSAID_TOKENS = 256
"""What an answer without a limit is taken to have, before there were any."""


@dataclass(frozen=True, slots=True)
class LineLimits:
    """`max_ongoing` requests are worked on at once, `max_queued` wait (-1: any number), each for `max_wait_s` seconds
    at most (0: however long).
    """

    max_ongoing: int
    max_queued: int
    max_wait_s: float = 0.0

    @property
    def most(self) -> int:
        """Requests that a replica holds at most."""
        return self.max_ongoing + self.max_queued if self.max_queued >= 0 else UNBOUNDED


@dataclass(frozen=True, slots=True)
class Pace:
    """How answers went lately: seconds and tokens of a usual one, and by how many `spread` seconds they differ from
    it. Nothing is known at first.
    """

    seconds: float = 0.0
    tokens: float = 0.0
    spread: float = 0.0

    def after(self, seconds: float, tokens: float) -> "Pace":
        if not self.seconds:
            return Pace(seconds, tokens, 0.0)
        return Pace(
            self.seconds + MEMORY * (seconds - self.seconds),
            self.tokens + MEMORY * (tokens - self.tokens),
            self.spread + MEMORY * (abs(seconds - self.seconds) - self.spread),
        )

    def wait_s(self, before: int, places: int) -> float:
        """Seconds until one of so many busy places is free for a request with `before` others in front of it."""
        return (before + 1) * self.seconds / places

    def answer_s(self, max_tokens: int | None) -> float:
        """Seconds that an answer takes, with caution; a shorter one has its share of a usual one's."""
        whole = self.seconds + CAUTION * self.spread
        if max_tokens is None or max_tokens >= self.tokens:
            return whole
        return whole * max_tokens / self.tokens


def too_late(pace: Pace, wait_s: float, request: ChatRequest, left_s: float | None) -> bool:
    """Whether an answer that begins in `wait_s` seconds cannot be expected within the `left_s` that there are."""
    return left_s is not None and wait_s + pace.answer_s(request.max_tokens) > left_s


def prompt_tokens(request: ChatRequest) -> float:
    """About how many the prompt has; counting them would cost as much as the look at it is worth."""
    if request.prompt_ids:
        return len(request.prompt_ids)
    text = len(request.prompt or "") + sum(len(message.content) for message in request.messages)
    return text / CHARS_PER_TOKEN
